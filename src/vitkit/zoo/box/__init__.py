"""The backbone that ships with the package, by the name `box`: a small Vision Transformer pre-trained by `vit pretrain box`.

Beside this file lie the bundle (`model.safetensors` in bfloat16, `config.json`, `training.json`) and its card (`CARD.md`), which
`tools/release_box.py` wrote once. Nothing of them is read until the name is used.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitkit.bundle import Bundle
    from vitkit.models.vit import ViTConfig

__all__ = ["CARD", "NAME", "PLACE", "is_box", "patch_at", "read_box"]

NAME = "box"
PLACE = Path(__file__).resolve().parent
CARD = PLACE / "CARD.md"
FEWEST, WANTED = 4, 8  # patches of the longer side: at the least, and of the size it runs at; it was trained on 4 and 6


def is_box(name: object) -> bool:
    """Is this the name, and no file or folder that is called so?"""
    return str(name) == NAME and not Path(NAME).exists()


def read_box(overrides: Mapping[str, Any]) -> tuple[Bundle, dict[str, Any]]:
    """(the bundle, the overrides with a patch size for the image size that was asked for). Its terms are said once, on stderr.

    Raises:
        UserError: the package is damaged.
    """
    from vitkit.bundle import Bundle

    bundle, changes = Bundle.read(PLACE), dict(overrides)
    _say_terms(bundle.source, bundle.licence)
    size = changes.get("image_size")
    sides = size if isinstance(size, tuple | list) else (size,)
    if "patch_size" not in changes and sides and all(type(side) is int and side > 0 for side in sides):
        changes["patch_size"] = patch_at(bundle.config, max(sides))  # anything else is refused where it is used
    return bundle, changes


def patch_at(config: ViTConfig, side: int) -> tuple[int, int]:
    """The patch size for images whose longer side has so many pixels: its own from 16 to 32, else one that makes 4 or 8 patches.

    Of larger images each patch sees as much of the picture as it was trained to, and time and memory stay those of a small model;
    kernels are resampled (`models.positions.resample_patches`). With its own patches at 64 pixels its classes are lost
    (docs/results/box.md).
    """
    own = config.patch_size[0]
    patch = side // FEWEST if side < FEWEST * own else max(own, side // WANTED)
    return max(1, patch), max(1, patch)


@functools.cache
def _say_terms(source: str, licence: str) -> None:
    from vitkit.console import Console

    Console(out=sys.stderr).say(f"{NAME}: {source}; licence {licence}. More: vit models show {NAME}")
