"""What the tables of several formats share: one spelling of names, and split q, k and v."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.converters.engine import Rule, same
from vitkit.models.vit import SIZES

__all__ = [
    "WRAPPERS",
    "assumed_heads",
    "both",
    "fused",
    "new_name",
    "patch_kernel",
    "renamed",
]

# What training code puts before every name: torch's wrappers, and the attribute a Lightning module keeps its model in.
WRAPPERS = (r"^(?:(?:module|_orig_mod|model|net|network)\.)+", "")
# (embed_dim, depth) -> heads, where their width is not 64. Read off config.json of google/siglip-so400m-patch14-384 and of
# laion/CLIP-ViT-{g,bigG}-14-*; OpenCLIP's model_configs/ViT-e-14.json; H: arXiv 2010.11929, table 1.
ODD_HEADS = {
    (SIZES["H"][0], SIZES["H"][1]): SIZES["H"][3],
    (1152, 27): 16,
    (1408, 40): 16,
    (1664, 48): 16,
    (1792, 56): 16,
}
SIGLIP_GIANT = (1536, 40)  # with attention pooling; DINOv2's giant of this width and depth has heads of 64


def assumed_heads(embed_dim: int, depth: int, map_pool: bool = False) -> int:
    """The number of heads of the published size of this width and depth, else of heads of width 64: an assumption.

    1 stands for "nothing tells", where the width is no multiple of 64.
    """
    if map_pool and (embed_dim, depth) == SIGLIP_GIANT:
        return 16
    return ODD_HEADS.get((embed_dim, depth), embed_dim // 64 if embed_dim % 64 == 0 else 1)


def patch_kernel(state: Mapping[str, Tensor], name: str) -> tuple[int, int, int, int]:
    """(D, C, patch height, patch width) of the kernel that makes tokens of an image's patches.

    Raises:
        UserError: it is a layer of another kind, for videos or for patches cut out before.
    """
    shape = tuple(state[name].shape)
    if len(shape) != 4:
        raise UserError(
            f"{name} has shape {shape}; a Vision Transformer of images has a kernel (width, channels, patch height, "
            "patch width) there. This is a model of another kind."
        )
    return shape


def new_name(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    """The name with every pattern of ``(pattern, replacement)`` replaced, one after the other."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(state: Mapping[str, Tensor], patterns: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """The state with names as `new_name` gives them.

    Raises:
        UserError: two tensors of the file are two spellings of one name.
    """
    found: dict[str, str] = {}
    for name in state:
        new = new_name(name, patterns)
        if new in found:
            raise UserError(f"the file has {found[new]} and {name}, two spellings of one tensor; remove one of them.")
        found[new] = name
    return {new: state[name] for new, name in found.items()}


def both(ours: str, theirs: str, bias: bool = True) -> list[Rule]:
    """Weight and bias, stored alike; the weight alone where there is no bias."""
    return [same(f"{ours}.{kind}", f"{theirs}.{kind}") for kind in ("weight", "bias")[: 1 + bias]]


def fused(ours: str, theirs: Sequence[str], bias: bool) -> list[Rule]:
    """Our one linear layer whose rows are those of several of theirs, one below the other."""
    return [
        Rule(
            f"{ours}.{kind}",
            tuple(f"{name}.{kind}" for name in theirs),
            torch.cat,
            lambda tensor: list(tensor.chunk(len(theirs))),
        )
        for kind in ("weight", "bias")[: 1 + bias]
    ]
