"""Plain PyTorch inference whose result for an image does not depend on the images beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from vitkit.bundle import Outputs
from vitkit.data.containers import ImageSource
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import MAX_PIXELS, ImageError, Preprocess, load_input
from vitkit.models.vit import Attention, VisionTransformer

__all__ = ["EagerEngine", "stream"]


class EagerEngine:
    """Preprocessed images (B, C, H, W) to logits and features in float32.

    Matrix products of another batch size may sum in another order, so that the last digits of an image's result would
    depend on its neighbours. Every forward therefore sees exactly `group` images, the last group padded with zeros;
    `group` is a function of the model and the kind of device alone. On a CPU it is 1: how threads and vectors share out
    a group's products and activations depends on an image's place in the group, whatever the group's size. A larger
    ``group`` is faster, for results that nobody compares digit by digit.
    """

    def __init__(
        self,
        model: VisionTransformer,
        *,
        precision: str = "fp32",
        fused_attention: bool = True,
        group: int | None = None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = precision
        tokens = model.config.prefix_tokens + model.config.grid[0] * model.config.grid[1]
        independent = max(1, 16384 // tokens) if self.device.type == "cuda" else 1  # tokens that fill the device
        self.group = group or independent
        attentions = [module for module in model.modules() if isinstance(module, Attention)]
        if self.device.type == "cpu" and all(module.fused == fused_attention for module in attentions):
            self.model = model.eval()  # the caller's own: what is done to it is seen here
            return
        self.model = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.fused = fused_attention

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        results = []
        for start in range(0, len(images), self.group):
            part = images[start : start + self.group]
            count = len(part)
            if count < self.group:
                part = torch.cat([part, part.new_zeros(self.group - count, *part.shape[1:])])
            part = part.to(
                self.device, copy=True
            )  # a slice's alignment may choose another kernel than a fresh tensor's
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits, features = self.model.outputs(self.model.forward_features(part))
            results.append((logits[:count].float().cpu(), features[:count].float().cpu()))
        return Outputs(*(torch.cat(parts) for parts in zip(*results, strict=True)))


def stream(
    engine: EagerEngine,
    record: Preprocess,
    sources: Sequence[ImageSource],
    *,
    workers: int = 2,
    mirror: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Outputs | ImageError]:
    """Yield each image's logits (O,) and features (D,) in input order, or the error of an image that cannot be used.

    Images are decoded in threads ahead of the model; at most a few groups are in memory. ``mirror`` swaps left and right.
    """

    def load(source: ImageSource) -> Tensor | ImageError:
        try:
            image = to_tensor(load_input(source, record, max_pixels))
            return image.flip(-1) if mirror else image
        except ImageError as error:
            return error

    ahead = max(4 * engine.group, 4 * workers)
    with ThreadPoolExecutor(workers) as pool:
        waiting = iter(sources)
        queue = [pool.submit(load, source) for source in islice(waiting, ahead)]
        while queue:
            loaded = [future.result() for future in queue[: engine.group]]
            queue = queue[engine.group :]
            queue += [pool.submit(load, source) for source in islice(waiting, len(loaded))]
            good = [image for image in loaded if isinstance(image, Tensor)]
            results = zip(*engine(torch.stack(good)), strict=True) if good else iter(())
            for image in loaded:
                yield Outputs(*next(results)) if isinstance(image, Tensor) else image
