"""What every engine is: preprocessed images in, logits and features out. numpy only, so that engines without torch import none."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from vitkit.answers import Outputs

__all__ = ["PRECISIONS", "Engine", "EngineFacts"]

Array = np.ndarray[Any, Any]
PRECISIONS = ("fp32", "bf16", "int8")  # of matrix products; norms, softmax and what an engine lists are of more


class EngineFacts(NamedTuple):
    """What computed a result. Stored with it."""

    name: str  # eager | tuned | openvino | onnxruntime | cuda
    precision: str  # one of `PRECISIONS`
    library: str  # what computes, with its version: "torch 2.13.0"
    ours: bool  # False: a wrapped runtime computes
    threads: int  # processor threads that it uses
    notes: tuple[str, ...] = ()  # what stays in higher precision, which attention, what this machine lacks

    def describe(self) -> str:
        """In half a line, for people."""
        return f"{self.name} {self.precision} ({self.library}, {self.threads} thread{'s' * (self.threads != 1)})"


@runtime_checkable
class Engine(Protocol):
    """Float32 images (B, C, H, W) to `Outputs`. An image's result does not depend on the images beside it."""

    @property
    def facts(self) -> EngineFacts: ...

    @property
    def group(self) -> int:
        """Images that are computed at once, so that work is best cut into multiples of it."""
        ...

    @property
    def together(self) -> int:
        """Images that `outputs_of_group` may be given where many come; at least `group`."""
        ...

    @property
    def threads(self) -> int:
        """Groups that may be computed at a time, each in a thread of its own."""
        ...

    @property
    def pool(self) -> Executor:
        """Those threads. Work that waits for other work of the same pool never ends: submit no such."""
        ...

    def __call__(self, images: Array) -> Outputs:
        """Any number of images, on all processor threads."""
        ...

    def outputs_of_group(self, images: Array) -> Outputs:
        """At most `together` images, in this very thread, which is one of `pool`'s or a caller's that wants no other."""
        ...
