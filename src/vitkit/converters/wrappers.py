"""Names as training code wraps them: a prefix around the image model, and other parts of a larger model beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["unwrapped"]

# OpenCLIP calls an image tower that is a timm model "visual.trunk"; DINO's teacher is a "backbone", MoCo v3's encoder the
# "base_encoder". The rest are names that training code gives: torch's own wrappers, Lightning modules.
WRAPPER = re.compile(
    r"(?:(?:module|_orig_mod|model|net|network|vit|backbone|encoder|base_encoder|teacher|timm_model|visual|trunk)\.)*"
)


def unwrapped(names: Iterable[str], anchor: str, ignore: Sequence[str]) -> dict[str, str] | None:
    """Names to names without the wrapper around ``anchor``, or None: no such wrapper, or several.

    What is outside it keeps its name where a pattern in ``ignore`` says what it is. Else it is marked, so that it cannot
    pass for a tensor of the image model.
    """
    names = list(names)
    prefixes = {name[: -len(anchor)] for name in names if name.endswith(anchor)}
    prefixes = {prefix for prefix in prefixes if WRAPPER.fullmatch(prefix)}
    if len(prefixes) != 1:
        return None
    outer = prefix = prefixes.pop()
    while not all(name.startswith(outer) for name in names):  # a wrapper of what is beside the image model too
        outer = outer[: outer[:-1].rfind(".") + 1]
    plain = {}
    for name in names:
        beside = name[len(outer) :]
        known = any(re.fullmatch(pattern, beside) for pattern in ignore)
        plain[name] = name[len(prefix) :] if name.startswith(prefix) else beside if known else f"(outside) {beside}"
    return plain if len(set(plain.values())) == len(names) else None
