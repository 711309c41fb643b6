"""PyTorch on an NVIDIA GPU: bf16 or fp32, fused attention, the graph of operators compiled and replayed.

Images are computed in groups of one size, the last one padded, so that an image's digits depend on no neighbour and one compiled
graph serves all. Compiling takes a minute or so at the first group; without a compiler plain operators compute, which is noted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.answers import Outputs
from vitkit.bundle import Bundle
from vitkit.engines.engine import EngineFacts
from vitkit.models.vit import Attention, VisionTransformer

__all__ = ["PRECISIONS", "CudaEngine", "make", "missing"]

Array = np.ndarray[Any, Any]
PRECISIONS = ("fp32", "bf16")
TOKENS = 16384  # of a group: what fills a GPU
Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class CudaEngine:
    """Preprocessed images (B, C, H, W) to logits and features in float32."""

    threads = 1  # one stream: the GPU is shared by nothing

    def __init__(self, model: VisionTransformer, *, precision: str, compiled: bool = True) -> None:
        self.precision = precision
        h, w = model.config.grid
        self.group = max(1, TOKENS // (model.config.prefix_tokens + h * w))
        self.together = self.group
        self.pool: Executor = ThreadPoolExecutor(
            1, "vitkit-cuda"
        )  # graphs are replayed by the thread that recorded them
        self.size = (model.config.in_channels, *model.config.image_size)
        self.model = copy.deepcopy(model).to("cuda").eval().requires_grad_(False)
        for module in self.model.modules():
            if isinstance(module, Attention):
                module.fused = True
        lacking = _compile_missing() if compiled else "not asked for"
        self.notes = ("attention: fused", f"not compiled: {lacking}" if lacking else "compiled, CUDA graphs")
        run: Forward = self._run
        self.run = run if lacking else torch.compile(run, mode="max-autotune-no-cudagraphs", dynamic=False)
        self.given: Tensor | None = None  # what the recorded graph reads
        self.made: tuple[Tensor, Tensor] | None = None  # and writes
        self.graph: torch.cuda.CUDAGraph | None = None

    @property
    def facts(self) -> EngineFacts:
        """What computes."""
        library = f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
        return EngineFacts("cuda", self.precision, library, True, self.threads, self.notes)

    def __call__(self, images: Array) -> Outputs:
        parts = [images[start : start + self.group] for start in range(0, len(images), self.group)]
        results = list(self.pool.map(self.outputs_of_group, parts))
        return Outputs(*(np.concatenate(rows) for rows in zip(*results, strict=True)))

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.precision == "bf16"):
            logits, features = self.model.outputs(self.model.forward_features(images))
        return logits.float(), features.float()

    @torch.inference_mode()
    def outputs_of_group(self, images: Array) -> Outputs:
        """At most `group` images (B, C, H, W)."""
        count, given = len(images), torch.as_tensor(images)
        self.model.require_images(given)
        if self.graph is None:
            self._record()
        assert self.given is not None
        assert self.made is not None
        assert self.graph is not None
        self.given[:count].copy_(given.pin_memory(), non_blocking=True)
        self.given[count:].zero_()
        self.graph.replay()
        return Outputs(*(part[:count].cpu().numpy() for part in self.made))

    def _record(self) -> None:
        """Compile, warm up and record one group, as PyTorch's notes on CUDA graphs say: warmed up on another stream."""
        self.given = torch.zeros((self.group, *self.size), device="cuda")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.run(self.given)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.made = self.run(self.given)


def _compile_missing() -> str:
    return "" if find_spec("triton") else "triton is not installed"


def missing() -> str:
    """Why there is no GPU to compute on."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return (
            f"PyTorch {torch.__version__} is built without CUDA: install a CUDA build on a machine with an NVIDIA GPU."
        )
    return "no NVIDIA GPU is found."


def make(bundle: Bundle, precision: str) -> CudaEngine:
    """A copy of the bundle's model on the GPU."""
    return CudaEngine(bundle.model, precision=precision)
