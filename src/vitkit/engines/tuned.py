"""PyTorch on a CPU as fast as it goes here: weights packed once, operators joined, each image by one processor thread."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vitkit.answers import Outputs
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines.calibration import prepared, read_calibration
from vitkit.engines.engine import EngineFacts
from vitkit.engines.native.blocks8 import native8_missing
from vitkit.engines.packed.private_ops import bf16_missing, products_missing
from vitkit.engines.packed.quantised import quantise
from vitkit.engines.packed.vit import PackedViT
from vitkit.engines.threads import compute_pool, compute_threads

__all__ = ["PRECISIONS", "TunedEngine", "make", "missing"]

Array = np.ndarray[Any, Any]
PRECISIONS = ("fp32", "bf16", "int8")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FULL = 512  # tokens with which a processor thread is busy: with fewer, starting each operation costs too


class Network(Protocol):
    """What the engine runs, in two steps, so that what is made of few rows is computed image by image."""

    def tokens(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to what `outputs` reads, (B, N, D)."""
        ...

    def outputs(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of one image: (1, N, D) to logits (1, O) and features (1, D)."""
        ...


class TunedEngine:
    """Preprocessed images (B, C, H, W) to logits and features in float32, of the model as it was when this was made.

    An image's digits depend neither on its neighbours nor on the number of images or processor threads: each image is computed by
    one thread. Where it was seen to change no digit, an image alone is computed by all threads, and several small images are
    computed together. ``latency`` takes all threads for an image alone also where that changes digits.
    """

    group = 1

    def __init__(
        self,
        network: Network,
        *,
        precision: str,
        tokens: int,
        notes: tuple[str, ...] = (),
        latency: bool = False,
    ) -> None:
        self.network, self.precision, self.notes, self.latency = network, precision, notes, latency
        self.together = max(1, FULL // tokens)
        self._alike: bool | None = (
            None  # have images computed together the digits of each alone? None: not compared yet
        )
        self._shared: bool | None = None  # and an image computed by all threads those of one thread?

    @property
    def facts(self) -> EngineFacts:
        """What computes."""
        return EngineFacts(
            "tuned", self.precision, f"torch {torch.__version__}", True, torch.get_num_threads(), self.notes
        )

    @property
    def threads(self) -> int:
        """Images, or groups of `together`, that are computed at a time."""
        return compute_threads()

    @property
    def pool(self) -> Executor:
        """Threads that compute with one processor thread each."""
        return compute_pool(self.threads)

    def __call__(self, images: Array | Tensor) -> Outputs:
        """Full rounds of groups, then of single images, one for each thread; an image that is left over by all threads."""
        count, rounds = len(images), []
        start = 0
        for size in sorted({self.together, 1}, reverse=True):
            end = start + (count - start) // (size * self.threads) * size * self.threads
            rounds += [images[place : place + size] for place in range(start, end, size)]
            start = end
        results = list(self.pool.map(self.outputs_of_group, rounds))
        left = [images[place : place + 1] for place in range(start, count)]
        results += map(self.outputs_alone, left) if self._share() else self.pool.map(self.outputs_of_group, left)
        return Outputs(*(np.concatenate(rows) for rows in zip(*results, strict=True)))

    def _share(self) -> bool:
        return self.threads > 1 and (self.latency or self._shared is not False)

    def outputs_alone(self, images: Array | Tensor) -> Outputs:
        """One image (1, C, H, W) by all processor threads."""
        if self.latency or self._shared:
            return self.forward(images)
        alone = self.pool.submit(self.forward, images).result()
        if self._shared is None:
            self._shared = _same(alone, self.forward(images))
        return alone

    def outputs_of_group(self, images: Array | Tensor) -> Outputs:
        """At most `together` images (B, C, H, W), in this very thread, each as if it were alone.

        The first time that `together` images come they are computed alone too; unless all digits agree it is the last time that
        they are computed together. Which processor instructions compute a product depends on its shape and on no value.
        """
        full = 1 < len(images) == self.together
        if len(images) == 1 or (full and self._alike):
            return self.forward(images)
        rows = [self.forward(image[None]) for image in images]
        alone = Outputs(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
        if full and self._alike is None:
            self._alike = _same(alone, self.forward(images))
        return alone

    @torch.inference_mode()
    def forward(self, images: Array | Tensor) -> Outputs:
        """Images (B, C, H, W) in this very thread: the tokens of all at once, then what is made of few rows one by one."""
        tokens = self.network.tokens(torch.as_tensor(images))
        rows = [self.network.outputs(part) for part in torch.split(tokens, 1)]
        return Outputs(*(torch.cat(parts).float().numpy() for parts in zip(*rows, strict=True)))


def _same(one: Outputs, other: Outputs) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def missing() -> str:
    """Where PyTorch is, this is; `EngineFacts.notes` say what the machine lacks."""
    return ""


def make(bundle: Bundle, precision: str) -> TunedEngine:
    """Pack the bundle's model.

    Raises:
        UserError: a precision that this machine has no instructions for, or int8 without calibration.
    """
    if precision == "bf16" and (reason := bf16_missing()):
        raise UserError(f"--engine tuned cannot compute in bf16: {reason}. Say --precision fp32.")
    if precision == "int8":
        return _in_8_bits(bundle)
    network = PackedViT(bundle.model, TYPES[precision])
    notes = []
    if network.native:
        notes.append("blocks compiled for this processor")
    else:
        notes.append(f"blocks by PyTorch's operators, packed ({network.without})")
        if reason := products_missing(network.dtype):
            notes[-1:] = [f"blocks by PyTorch's public operators ({network.without}; {reason})"]
    if precision == "bf16":
        notes.append("float32: softmax, the numbers within norms, the last norm and what comes after it")
    config = bundle.config
    tokens = config.prefix_tokens + config.grid[0] * config.grid[1]
    return TunedEngine(network, precision=precision, tokens=tokens, notes=tuple(notes))


def _in_8_bits(bundle: Bundle) -> TunedEngine:
    """Blocks in 8 bits where the calibration says so; the rest packed in bf16, or in fp32 where that is not there."""
    found = read_calibration(bundle)
    model, ranges = prepared(bundle, found)
    config = bundle.config
    reason = native8_missing(config)
    blocks = f"blocks by PyTorch's operators ({reason})" if reason else "blocks compiled for this processor"
    read = 1 + config.distilled if config.pool == "cls" else None
    network = PackedViT(quantise(model, ranges, read=read), torch.float32 if bf16_missing() else torch.bfloat16)
    tokens = config.prefix_tokens + config.grid[0] * config.grid[1]
    return TunedEngine(network, precision="int8", tokens=tokens, notes=(blocks, *found.notes))
