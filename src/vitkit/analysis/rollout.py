"""Attention rollout: attention of all layers multiplied, from the pooled vector back to the patches.

Source: Abnar and Zuidema, arXiv 2005.00928; used in arXiv 2010.11929, figures 6 and 14 and appendix D.8.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vitkit.analysis.attention import reading, reading_kind, recorded_features
from vitkit.config import UserError, did_you_mean
from vitkit.models.vit import VisionTransformer

__all__ = ["RESIDUALS", "rollout", "rollout_of"]

# half: 0.5 A + 0.5 I of every layer, as Abnar and Zuidema do. none: A alone, as the text of the paper says.
RESIDUALS = ("half", "none")


def rollout(model: VisionTransformer, images: Tensor, residual: str = "half", pool: str | None = None) -> Tensor:
    """How much of each patch reaches the pooled vector by way of attention: (B, h, w) float32; of all classes alike.

    One layer's weights are in memory at a time. Columns of prefix tokens are dropped; nothing is normalised.

    Args:
        model: the model.
        images: (B, C, H, W), preprocessed.
        residual: one of `RESIDUALS`.
        pool: as in `vitkit.analysis.attention.reading_kind`.

    Raises:
        UserError: an unknown ``residual``, or a model whose output is not pooled.
    """
    _check(residual)
    reading_kind(model, pool)
    config = model.config
    features, recorded = recorded_features(model, images, range(config.depth - 1, -1, -1))
    rows = rollout_of((weights for _, weights in recorded), reading(model, features, pool), residual)
    return rows[:, config.prefix_tokens :].reshape(len(images), *config.grid)


def rollout_of(weights: Iterable[Tensor], reading: Tensor, residual: str = "half") -> Tensor:
    """The rows (B, N) of ``reading`` A_L ... A_1, where A_l is the mean over heads of layer l's weights.

    Multiplied from the left, vector by matrix, so that the product of two layers is never made.

    Args:
        weights: (B, K, N, N) of each layer, from the LAST layer to the first.
        reading: (B, N), the weight of each final token.
        residual: one of `RESIDUALS`.

    Raises:
        UserError: an unknown ``residual``.
    """
    _check(residual)
    rows = reading[:, None]  # (B, 1, N)
    with torch.autocast(reading.device.type, enabled=False):
        for layer in weights:
            attended = rows @ layer.mean(dim=1)
            rows = (attended + rows) / 2 if residual == "half" else attended
    return rows[:, 0]


def _check(residual: str) -> None:
    if residual not in RESIDUALS:
        known = ", ".join(RESIDUALS)
        raise UserError(f"residual is {residual!r}; known: {known}.{did_you_mean(str(residual), RESIDUALS)}")
