"""The maps that a user can ask for by method, layer, head and class: one shape for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitkit.analysis.attention import attention_maps, chosen, pool_maps
from vitkit.analysis.relevance import relevance
from vitkit.analysis.rollout import rollout
from vitkit.config import UserError, did_you_mean
from vitkit.models.vit import VisionTransformer, ViTConfig

__all__ = ["METHODS", "POOL", "RESIDUALS", "Asked", "Map", "ask", "draw_maps"]

METHODS = {
    "gradient": "gradient-weighted attention (Chefer, Gur and Wolf, arXiv 2103.15679): which patches raise the score of the class",
    "rollout": "attention rollout (Abnar and Zuidema, arXiv 2005.00928): how much of each patch attention passes on, for no class",
    "attention": "attention: what the tokens that the answer is read from look at, for no class",
}
RESIDUALS = ("half", "none")
POOL = "pool"  # the layer that attention pooling is


@dataclass(frozen=True)
class Asked:
    """What maps are wanted, of a model that has them."""

    method: str
    layers: tuple[int | str, ...] = ()  # of attention: from 0, or `POOL`
    heads: tuple[int, ...] | None = None  # of attention: from 0; None: their mean
    residual: str = "half"  # of rollout


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
    config: ViTConfig,
    method: str,
    layers: Sequence[int | str] | str | None = None,
    heads: Sequence[int] | str | None = None,
    residual: str = "half",
) -> Asked:
    """Check what is asked for against a model.

    Args:
        method: one of `METHODS`.
        layers: of attention, numbers from 0 or from the end (-1), ``"pool"`` for attention pooling, ``"all"``; None: the last, or
            the pooling where there is one.
        heads: of attention, numbers, ``"all"``; None: their mean.
        residual: of rollout, "half" (0.5 A + 0.5 I) or "none" (A alone).

    Raises:
        UserError: an unknown method, a layer or head that the model does not have, or an option of another method.
    """
    if method not in METHODS:
        raise UserError(f"--method is {method!r}; known: {', '.join(METHODS)}.{did_you_mean(method, METHODS)}")
    if residual not in RESIDUALS:
        raise UserError(f"--residual is {residual!r}; known: {', '.join(RESIDUALS)}.{did_you_mean(residual, RESIDUALS)}")
    if config.pool == "none":
        raise UserError(
            "this model answers for every token (pool='none'), so that no one answer can be traced to patches. Load it with "
            "--override pool=cls or pool=mean if it has a use for that."
        )
    if method != "attention":
        for name, value in (("--layers", layers), ("--heads", heads)):
            if value is not None:
                raise UserError(f"{name} is for --method attention; {method} goes through all of them.")
    if method != "rollout" and residual != "half":
        raise UserError(f"--residual is for --method rollout, not {method}.")
    if method != "attention":
        return Asked(method, residual=residual)
    return Asked(method, _layers(config, layers), _numbers(heads, config.num_heads, "head"))


def _layers(config: ViTConfig, layers: Sequence[int | str] | str | None) -> tuple[int | str, ...]:
    pooled = (POOL,) if config.pool == "map" else ()
    if layers is None:
        return pooled or (config.depth - 1,)
    if layers == "all":
        return (*range(config.depth), *pooled)
    wanted = (layers,) if isinstance(layers, str | int) else tuple(layers)
    found: list[int | str] = []
    for layer in wanted:
        if layer == POOL and not pooled:
            raise UserError(f"--layers pool is attention pooling, which this model does not have (it pools by {config.pool}).")
        if layer != POOL and not isinstance(layer, int):
            raise UserError(f"--layers {layer!r} is no layer; write numbers such as 0,5,-1, or all.")
        found += [POOL] if layer == POOL else chosen([layer], config.depth, "layer")  # type: ignore[list-item]
    return _once(found, "--layers")


def _numbers(heads: Sequence[int] | str | None, count: int, what: str) -> tuple[int, ...] | None:
    if heads is None:
        return None
    if isinstance(heads, str) and heads != "all":
        raise UserError(f"--{what}s {heads!r} is no {what}; write numbers such as 0,2, or all.")
    wanted = None if heads == "all" else [heads] if isinstance(heads, int) else list(heads)
    return _once(chosen(wanted, count, what), f"--{what}s")  # type: ignore[arg-type]


def _once(found: Sequence[int | str], option: str) -> tuple:  # type: ignore[type-arg]
    """The numbers, each once, in the order they came in.

    Raises:
        UserError: none at all.
    """
    if not found:
        raise UserError(f"{option} names none; write numbers such as 0,5,-1, or all.")
    return tuple(dict.fromkeys(found))


def draw_maps(model: VisionTransformer, image: Tensor, asked: Asked, targets: Sequence[int] = ()) -> list[Map]:
    """The maps of one image (C, H, W): of each layer and head, or of each of the classes ``targets``; at least one.

    Raises:
        UserError: gradients of a model without classes.
    """
    if asked.method == "gradient":
        device = next(model.parameters()).device
        images = image[None].expand(len(targets), -1, -1, -1).to(device)
        values = _array(relevance(model, images, torch.tensor(targets, device=device)))
        return [Map(each, target=target) for each, target in zip(values, targets, strict=True)]
    images = image[None].to(next(model.parameters()).device)
    if asked.method == "rollout":
        return [Map(_array(rollout(model, images, asked.residual))[0])]  # type: ignore[arg-type]
    heads = tuple(range(model.config.num_heads)) if asked.heads is None else asked.heads
    blocks = [layer for layer in asked.layers if isinstance(layer, int)]
    found = _array(attention_maps(model, images, blocks, heads))[0] if blocks else np.empty(0)  # (L, K, h, w)
    by_layer: dict[int | str, np.ndarray] = dict(zip(blocks, found, strict=True))
    if POOL in asked.layers:
        by_layer[POOL] = _array(pool_maps(model, images, heads))[0]
    if asked.heads is None:
        return [Map(by_layer[layer].mean(axis=0), layer) for layer in asked.layers]
    return [Map(values, layer, head) for layer in asked.layers for head, values in zip(heads, by_layer[layer], strict=True)]


def _array(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
