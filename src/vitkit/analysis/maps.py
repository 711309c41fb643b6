"""The maps that a user can ask for by method, layer, head and class: one shape for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitkit.analysis.attention import attention_maps, chosen, pool_maps, reading_kind
from vitkit.analysis.relevance import check_classes, relevance
from vitkit.analysis.rollout import RESIDUALS, rollout
from vitkit.config import UserError, did_you_mean
from vitkit.models.vit import VisionTransformer

__all__ = ["METHODS", "POOL", "Asked", "Map", "Numbers", "ask", "draw_maps", "mean_maps"]

METHODS = {
    "gradient": "Gradient-weighted attention (Chefer, Gur and Wolf, arXiv 2103.15679): which patches speak for the class.",
    "rollout": "Attention rollout (Abnar and Zuidema, arXiv 2005.00928): how much of each patch reaches the answer by way of "
    "attention, whatever the class.",
    "attention": "Attention: what the tokens that the answer is read from look at, whatever the class.",
}
POOL = "pool"  # the layer that attention pooling is
Numbers = Sequence[int | str] | int | str | None  # as a user names layers and heads


@dataclass(frozen=True)
class Asked:
    """What maps are wanted, of a model that has them."""

    method: str
    layers: tuple[int | str, ...] = ()  # of attention: from 0, or `POOL`
    heads: tuple[int, ...] | None = None  # of attention: from 0; None: their mean
    residual: str = "half"  # of rollout
    pool: str | None = None  # how tokens are read, where not as the model does

    def describe(self) -> str:
        """The method in a sentence or two."""
        said = METHODS[self.method]
        if self.method == "rollout" and self.residual == "none":
            said += " Without the residual connections."
        if self.method == "attention":
            heads = "mean of the heads" if self.heads is None else f"heads {', '.join(map(str, self.heads))}"
            said += f" Layers {', '.join(map(str, self.layers))}; {heads}."
        return said + (f" Tokens are read as if pooled by {self.pool}." if self.pool else "")


class Map(NamedTuple):
    """One map of one image."""

    values: np.ndarray  # (h, w) float32, not negative
    layer: int | str | None = None
    head: int | None = None
    target: int | None = None  # index of the class

    @property
    def suffix(self) -> str:
        """What tells its file from those of the image's other maps."""
        named = (("layer", self.layer), ("head", self.head), ("class", self.target))
        return "".join(f".{POOL if found == POOL else f'{name}{found}'}" for name, found in named if found is not None)


def ask(
    model: VisionTransformer,
    method: str,
    layers: Numbers = None,
    heads: Numbers = None,
    residual: str = "half",
    pool: str | None = None,
) -> Asked:
    """Check what is asked for against a model.

    Args:
        model: the model.
        method: one of `METHODS`.
        layers: of attention, numbers from 0 or from the end (-1), ``"pool"`` for attention pooling, ``"all"``; None: the last, or
            the pooling where there is one.
        heads: of attention, numbers, ``"all"``; None: their mean.
        residual: of rollout, "half" (0.5 A + 0.5 I) or "none" (A alone).
        pool: of rollout and attention, read the tokens as if the model pooled so; see `attention.reading_kind`.

    Raises:
        UserError: an unknown method, a layer or head that the model does not have, an option of another method, or a model
            that the method says nothing about.
    """
    if method not in METHODS:
        raise UserError(f"--method is {method!r}; known: {', '.join(METHODS)}.{did_you_mean(str(method), METHODS)}")
    if residual not in RESIDUALS:
        raise UserError(
            f"--residual is {residual!r}; known: {', '.join(RESIDUALS)}.{did_you_mean(str(residual), RESIDUALS)}"
        )
    if method != "rollout" and residual != "half":
        raise UserError(f"--residual is for --method rollout, not {method}.")
    if method != "attention":
        for name, value in (("--layers", layers), ("--heads", heads)):
            if value is not None:
                raise UserError(f"{name} is for --method attention; {method} goes through all of them.")
    if method == "gradient":
        if pool is not None:
            raise UserError(
                "--pool is for --method rollout and attention; gradient explains the class as the model reads it."
            )
        check_classes(model)
        return Asked(method)
    reading_kind(model, pool)
    if method == "rollout":
        return Asked(method, residual=residual, pool=pool)
    config = model.config
    chosen_heads = None if heads is None else tuple(dict.fromkeys(_numbers(heads, config.num_heads, "head")))
    return Asked(method, _layers(model, layers, pool), chosen_heads, pool=pool)


def _layers(model: VisionTransformer, layers: Numbers, pool: str | None) -> tuple[int | str, ...]:
    depth = model.config.depth
    pooled = (POOL,) if model.map_pool is not None and pool in (None, "map") else ()
    if layers is None:
        return pooled or (depth - 1,)
    if isinstance(layers, str) and layers == "all":
        return (*range(depth), *pooled)
    wanted = _listed(layers)
    if POOL in wanted and not pooled:
        raise UserError(
            f"--layers pool is attention pooling, which this model does not use (it pools by {pool or model.config.pool})."
        )
    numbers = iter(
        _numbers([layer for layer in wanted if layer != POOL], depth, "layer") if set(wanted) != {POOL} else ()
    )
    return tuple(dict.fromkeys(POOL if layer == POOL else next(numbers) for layer in wanted))


def _numbers(wanted: Sequence[int | str] | int | str, count: int, what: str) -> tuple[int, ...]:
    if isinstance(wanted, str) and wanted == "all":
        return tuple(range(count))
    numbers = _listed(wanted)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise UserError(f"--{what}s {number!r} is no {what}; write numbers such as 0,2,-1, or all.")
    return chosen(numbers, count, what)


def _listed(wanted: Any) -> list[Any]:
    """What was asked for as a list; numbers of numpy, alone or in arrays, as Python's."""
    plain = wanted.tolist() if isinstance(wanted, np.ndarray | np.generic) else wanted
    if not isinstance(plain, Iterable) or isinstance(plain, str):
        return [plain]
    return [number.item() if isinstance(number, np.generic) else number for number in plain]


def draw_maps(model: VisionTransformer, image: Tensor, asked: Asked, targets: Sequence[int] = ()) -> list[Map]:
    """The maps of one image (C, H, W): of each layer and head, or of each of the classes ``targets``; at least one."""
    device = next(model.parameters()).device
    images = image[None].to(device)
    if asked.method == "gradient":
        return [  # one at a time: activations of one forward are kept, however many classes
            Map(_array(relevance(model, images, torch.tensor([target], device=device)))[0], target=target)
            for target in targets
        ]
    if asked.method == "rollout":
        return [Map(_array(rollout(model, images, asked.residual, asked.pool))[0])]
    maps = _attention(model, images, asked)
    if asked.heads is None:
        return [Map(_array(maps[layer][0].mean(dim=0)), layer) for layer in asked.layers]
    return [
        Map(values, layer, head)
        for layer in asked.layers
        for head, values in zip(asked.heads, _array(maps[layer][0]), strict=True)
    ]


def mean_maps(model: VisionTransformer, images: Tensor, asked: Asked, targets: Tensor) -> Tensor:
    """The maps (B, h, w) of images (B, C, H, W): of each one's class, or the mean over layers and heads."""
    if asked.method == "gradient":
        return relevance(model, images, targets)
    if asked.method == "rollout":
        return rollout(model, images, asked.residual, asked.pool)
    maps = _attention(model, images, asked)
    return torch.stack([maps[layer].mean(dim=1) for layer in asked.layers]).mean(dim=0)


def _attention(model: VisionTransformer, images: Tensor, asked: Asked) -> dict[int | str, Tensor]:
    """Layer -> maps (B, heads, h, w)."""
    blocks = [layer for layer in asked.layers if isinstance(layer, int)]
    found: dict[int | str, Tensor] = {}
    if blocks:
        found |= zip(blocks, attention_maps(model, images, blocks, asked.heads, asked.pool).unbind(dim=1), strict=True)
    if POOL in asked.layers:
        found[POOL] = pool_maps(model, images, asked.heads)
    return found


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
