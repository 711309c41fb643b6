"""What a patch embedding looks for: the principal components of its filters.

Source: arXiv 2010.11929, section 4.5 and figure 7 (left); what the paper leaves open is said in VIT_SPEC 8 and decided here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer

__all__ = ["SHOWN", "Filters", "filter_components", "mean_frequency", "scaled_tiles"]

SHOWN = 28  # components that figure 7 shows

Array = npt.NDArray[np.float64]


class Filters(NamedTuple):
    """The first n principal components of a patch embedding's filters, those of the greatest variance first."""

    components: Array  # (n, p, q, C), each of length 1; the entry of the greatest size is positive
    explained: Array  # (n,) share of the filters' variance
    frequency: Array  # (n,) `mean_frequency`
    noise: float  # `mean_frequency` that white noise has on average in patches of this size


def filter_components(model: VisionTransformer, count: int = SHOWN) -> Filters:
    """Principal components of the embedding's D filters, each one observation of p*q*C numbers less the mean filter.

    There may be fewer than ``count``: not more than the filters span. They act on pixels as preprocessing leaves them.

    Raises:
        UserError: the model's patches are of a ResNet's output and not of pixels; all filters are the same, or not finite.
    """
    if model.stem is not None:
        raise UserError(
            "this model is a hybrid: its patch embedding reads what a ResNet makes of the image, "
            f"{model.patch_embed.in_channels} channels and not pixels, so that its filters are no pictures."
        )
    kernel = model.patch_embed.weight.detach().cpu().double().permute(0, 2, 3, 1)  # (D, p, q, C)
    flat = kernel.flatten(1)
    if not bool(flat.isfinite().all()):
        raise UserError("the filters of this patch embedding are not all finite numbers: its weights are damaged.")
    flat = flat - flat.mean(dim=0)
    _, sizes, rows = torch.linalg.svd(flat, full_matrices=False)
    span = int((sizes > sizes[0] * max(flat.shape) * torch.finfo(torch.float32).eps).sum())
    if not span:
        raise UserError("the filters of this patch embedding are all the same; they have no principal components.")
    rows = rows[: min(count, span)]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    components = (rows * largest.sign()).reshape(-1, *kernel.shape[1:]).numpy()
    shares = sizes.square() / sizes.square().sum()
    return Filters(
        components,
        shares[: len(components)].numpy(),
        mean_frequency(components),
        float(_frequencies(kernel.shape[1], kernel.shape[2]).mean()),
    )


def mean_frequency(components: Array) -> Array:
    """Spatial frequency of pictures (n, p, q, C) in cycles per pixel, the mean over each one's power spectrum, (n,).

    0 for an even colour, and at most 0.71 (a chequerboard of single pixels).
    """
    power = (np.abs(np.fft.fft2(components, axes=(1, 2))) ** 2).sum(axis=3)  # (n, p, q)
    found: Array = (power * _frequencies(*components.shape[1:3])).sum(axis=(1, 2)) / power.sum(axis=(1, 2))
    return found


def _frequencies(p: int, q: int) -> Array:
    """(p, q) distance of every entry of a spectrum from frequency 0, in cycles per pixel."""
    return np.hypot(np.fft.fftfreq(p)[:, None], np.fft.fftfreq(q)[None])


def scaled_tiles(components: Array) -> Array:
    """Components (n, p, q, C) as pictures in [0, 1], each from its least to its greatest entry over all channels."""
    low = components.min(axis=(1, 2, 3), keepdims=True)
    spread = components.max(axis=(1, 2, 3), keepdims=True) - low
    scaled: Array = (components - low) / np.where(spread > 0, spread, 1)
    return scaled
