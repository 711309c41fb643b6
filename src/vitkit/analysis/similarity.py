"""How alike what the layers make of images is: linear CKA, summed over minibatches so that no image is kept.

Of a minibatch of n images a layer's tokens, all of an image as one vector, give a Gram matrix (n, n) of inner products. Their
Hilbert-Schmidt independence criterion is estimated without bias, so that minibatches of any size aim at the same value, and
CKA of layers a and b is the sum of HSIC(a, b) over the square root of those of HSIC(a, a) and HSIC(b, b).

Source: arXiv 1905.00414 (CKA), arXiv 2010.15327 section 3 (minibatches), arXiv 2108.08810 (of Vision Transformers).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitkit.config import UserError

__all__ = ["LEAST_IMAGES", "LayerSimilarity", "gram_matrix", "unbiased_hsic"]

LEAST_IMAGES = 4  # in a minibatch: of fewer the unbiased estimate does not exist

Array = npt.NDArray[np.float64]


def gram_matrix(representation: Tensor) -> Tensor:
    """Inner products (n, n) in float64 of representations (n, ...) of n images, less their mean."""
    flat = representation.flatten(1).double()  # squares of large tokens overflow in float32
    flat = flat - flat.mean(dim=0)
    return (flat @ flat.T).cpu()


def unbiased_hsic(grams: Tensor) -> Tensor:
    """HSIC (L, L) of every two of L Gram matrices (L, n, n), without bias.

    Computed by centring the off-diagonal entries, which equals the estimator HSIC_1 of Song et al., so that it is an inner
    product and CKA stays between -1 and 1.

    Raises:
        UserError: fewer than 4 images.

    Source: Song et al., JMLR 13 (2012), equation 5; Szekely and Rizzo, Annals of Statistics 42 (2014), section 3.
    """
    n = grams.shape[-1]
    if n < LEAST_IMAGES:
        raise UserError(f"similarity of layers needs at least {LEAST_IMAGES} images at a time, got {n}.")
    diagonal = torch.eye(n, dtype=torch.bool)
    off = grams.double().masked_fill(diagonal, 0)
    sums = off.sum(dim=-1)  # (L, n)
    whole = sums.sum(dim=-1)[:, None, None] / ((n - 1) * (n - 2))
    centred = off - sums[:, :, None] / (n - 2) - sums[:, None, :] / (n - 2) + whole
    flat = centred.masked_fill(diagonal, 0).flatten(1)  # (L, n*n)
    return flat @ flat.T / (n * (n - 3))


class LayerSimilarity:
    """Sums HSIC over minibatches."""

    def __init__(self, layers: int) -> None:
        self._sums = torch.zeros(layers, layers, dtype=torch.float64)
        self.images = 0  # that took part

    def add(self, grams: Tensor) -> None:
        """Take in one minibatch: Gram matrices (L, n, n). One of fewer than 4 images, the last may be one, does not count."""
        n = grams.shape[-1]
        if n >= LEAST_IMAGES:
            self._sums += n * unbiased_hsic(grams)
            self.images += n

    def cka(self) -> Array | None:
        """CKA (L, L) of all minibatches; nan for a layer that gives the same for every image; None where none counted."""
        if not self.images:
            return None
        own = self._sums.diagonal().clamp(min=0).sqrt()
        known = own > 0
        values = self._sums / torch.where(known, own, 1.0)[:, None] / torch.where(known, own, 1.0)
        values[~known] = values[:, ~known] = float("nan")
        return values.clamp(-1, 1).numpy()
