"""Plain PyTorch inference whose result for an image does not depend on the images beside it."""

from __future__ import annotations

import copy
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.answers import Outputs
from vitkit.bundle import Bundle
from vitkit.engines.engine import EngineFacts
from vitkit.engines.threads import compute_pool, compute_threads
from vitkit.models.vit import Attention, Features, VisionTransformer

__all__ = ["PRECISIONS", "EagerEngine", "make", "missing"]

Array = np.ndarray[Any, Any]
PRECISIONS = ("fp32", "bf16")
FULL = 512  # tokens with which a processor thread is busy: with fewer, starting each operation costs too


class EagerEngine:
    """Preprocessed images (B, C, H, W) to logits and features in float32.

    Matrix products of another batch size, or shared out between other numbers of processor threads, may sum in another
    order, so that the last digits of an image's result would depend on its neighbours and on the machine's load. Every
    forward therefore sees exactly `group` images, the last group padded with zeros, and on a CPU is computed by one
    processor thread, several groups at a time. `group` is a function of the model and the kind of device alone. On a CPU
    it is 1: how vectors share out a group's products and activations may depend on an image's place in the group. A larger
    ``group`` is faster, for results that nobody compares digit by digit.

    Where many images come, `outputs_of_group` takes several at a time on a CPU too, as far as it was seen to change no digit.
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
        # Images that one forward may take together, each as if alone, where their results were compared bit by bit.
        self.together = max(1, FULL // tokens) if self.device.type == "cpu" and self.group == 1 else 1
        self._alike: bool | None = None  # are they the same? None: not compared yet
        attentions = [module for module in model.modules() if isinstance(module, Attention)]
        if self.device.type == "cpu" and all(module.fused == fused_attention for module in attentions):
            self.model = model.eval()  # the caller's own: what is done to it is seen here
            return
        self.model = copy.deepcopy(model).to(self.device).eval().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.fused = fused_attention

    @property
    def facts(self) -> EngineFacts:
        """What computes."""
        return EngineFacts("eager", self.precision, f"torch {torch.__version__}", True, torch.get_num_threads())

    def __call__(self, images: Array | Tensor) -> Outputs:
        parts = [images[start : start + self.group] for start in range(0, len(images), self.group)]
        results = self.pool.map(self.forward, parts)
        return Outputs(*(np.concatenate(rows) for rows in zip(*results, strict=True)))

    @property
    def threads(self) -> int:
        """Groups that are computed at a time."""
        return compute_threads() if self.device.type == "cpu" else 1

    @property
    def pool(self) -> Executor:
        """Threads that compute with one processor thread each."""
        return compute_pool(self.threads)

    @torch.inference_mode()
    def forward(self, images: Array | Tensor) -> Outputs:
        """At most `group` images (B, C, H, W), in this very thread."""
        images = torch.as_tensor(images)
        count = len(images)
        if count < self.group:
            images = torch.cat([images, images.new_zeros(self.group - count, *images.shape[1:])])
        images = images.to(
            self.device, copy=True
        )  # a slice's alignment may choose another kernel than a fresh tensor's
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits, features = self.model.outputs(self.model.forward_features(images))
        return Outputs(logits[:count].float().cpu().numpy(), features[:count].float().cpu().numpy())

    def outputs_of_group(self, images: Array | Tensor) -> Outputs:
        """At most `group` or `together` images (B, C, H, W), in this very thread, each as if it were alone in its group.

        The first time `together` images come they are computed alone too; unless all digits agree it is the last time that they
        are computed together. Which processor instructions compute a product depends on its shape and on no value.
        """
        if len(images) <= self.group:
            return self.forward(images)
        if len(images) == self.together and self._alike:
            return self._forward_together(images)
        rows = [self.forward(image[None]) for image in images]
        alone = Outputs(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
        if len(images) == self.together and self._alike is None:
            beside = self._forward_together(images)
            self._alike = all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))
        return alone

    @torch.inference_mode()
    def _forward_together(self, images: Array | Tensor) -> Outputs:
        """The tokens of all images at once, then what is made of one row each image by image."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found = self.model.forward_features(torch.as_tensor(images).clone())
            rows = [
                self.model.outputs(Features(*(part[place : place + 1].clone() for part in found)))
                for place in range(len(images))
            ]
        logits, features = (torch.cat(parts).float().numpy() for parts in zip(*rows, strict=True))
        return Outputs(logits, features)


def missing() -> str:
    """Plain PyTorch is everywhere."""
    return ""


def make(bundle: Bundle, precision: str) -> EagerEngine:
    """The bundle's own model."""
    return EagerEngine(bundle.model, precision=precision)
