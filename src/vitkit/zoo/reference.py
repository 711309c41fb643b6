"""Outputs of known files on a pattern that anyone can make, computed once by an independent implementation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["REFERENCES", "Reference", "pattern"]


@dataclass(frozen=True)
class Reference:
    """The first outputs of a file on `pattern`."""

    sha256: str  # of the file
    outputs: tuple[float, ...]
    made_by: str
    tolerance: float = 1e-3  # as for the reference logits of whole images


def pattern(channels: int, image_size: tuple[int, int]) -> Tensor:
    """The image (1, C, H, W) of the golden vectors: value i is (7919 i mod 1009) / 504 - 1, counted with channels last."""
    H, W = image_size
    i = torch.arange(math.prod((H, W, channels)))
    return ((i * 7919 % 1009) / 504 - 1).reshape(1, H, W, channels).permute(0, 3, 1, 2)


REFERENCES = (
    Reference(  # deit_tiny_patch16_224
        sha256="95d022269f1c85aa09004d450ee6f2cf2b0eae4a6b8881c6de80758eab5b8118",
        outputs=(-0.15287, 0.07307, -0.18103, -0.43918, 0.10069, 0.18679, -0.36047, -0.27535),
        made_by="timm 1.0.31",
    ),
)
