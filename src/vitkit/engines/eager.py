"""Plain PyTorch inference whose result for an image does not depend on the images beside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from vitkit.data.loader import to_tensor
from vitkit.data.pixels import ImageError, Preprocess, open_image, prepare
from vitkit.models.vit import Attention, Features, VisionTransformer

__all__ = ["EagerEngine", "ImageSource", "stream"]

ImageSource = Path | bytes | str


class EagerEngine:
    """Preprocessed images (B, C, H, W) to logits or features (B, O) in float32.

    Matrix products of another batch size may sum in another order, so that the last digits of an image's result would
    depend on its neighbours. Every forward therefore sees exactly `group` images, the last group padded with zeros;
    `group` is a function of the model, the kind of device and its number of threads alone. Two things would still depend
    on an image's place in its group, seen in PyTorch 2.13 on CPUs: the head's product of few rows, which is therefore
    done image by image, and the activation's last elements in each thread's share, see `_whole_vectors`.
    """

    def __init__(
        self,
        model: VisionTransformer,
        *,
        features: bool = False,
        precision: str = "fp32",
        fused_attention: bool = True,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.features = features
        self.precision = precision
        tokens = model.config.prefix_tokens + model.config.grid[0] * model.config.grid[1]
        budget = 16384 if self.device.type == "cuda" else 512  # tokens in one forward that fill the device
        self.group = max(1, budget // tokens)
        if self.device.type == "cpu":
            self.group = _whole_vectors(self.group, tokens * model.config.mlp_dim, torch.get_num_threads())
        self.model = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.fused = fused_attention

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        results = []
        for start in range(0, len(images), self.group):
            part = images[start : start + self.group]
            count = len(part)
            if count < self.group:
                part = torch.cat([part, part.new_zeros(self.group - count, *part.shape[1:])])
            part = part.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                features = self.model.forward_features(part)
                last = self.model.represent if self.features else self.model.forward_head
                out = torch.cat([last(Features(*(x[i : i + 1] for x in features))) for i in range(count)])
            results.append(out.float().cpu())
        return torch.cat(results)


def _whole_vectors(group: int, elements: int, threads: int) -> int:
    """The next group size at which every thread's share of ``group * elements`` activations is whole vectors.

    What remains of a share after pairs of vectors is computed by other code, with another last digit.
    """
    pair = 32  # floats in two AVX-512 vectors, a multiple of every narrower kind
    grain = 32768  # at::internal::GRAIN_SIZE: a smaller share gets no thread of its own
    while group * elements % (pair * min(threads, -(-group * elements // grain))):
        group += 1
    return group


def stream(
    engine: EagerEngine,
    record: Preprocess,
    sources: Sequence[ImageSource],
    *,
    workers: int = 2,
    mirror: bool = False,
) -> Iterator[Tensor | ImageError]:
    """Yield each image's result (O,) in input order, or the error of an image that cannot be used.

    Images are decoded in threads ahead of the model; at most a few groups are in memory. ``mirror`` swaps left and right.
    """

    def load(source: ImageSource) -> Tensor | ImageError:
        try:
            image = to_tensor(prepare(open_image(source), record))
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
            results = iter(engine(torch.stack(good)) if good else ())
            for image in loaded:
                yield next(results) if isinstance(image, Tensor) else image
