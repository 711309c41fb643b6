"""What a model does with images, in one pass: attention distance and entropy, token norms, similarity of layers.

survey = Survey(model)
for images in batches:  # (B, C, H, W), preprocessed
    survey.add(images)
survey.result()

Everything is summed while a layer computes, by hooks: nothing is kept of an image or of a layer, so that memory depends
neither on the number of images nor on depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vitkit.analysis.attention import attention_distance, attention_entropy, attention_weights, patch_pixels
from vitkit.analysis.record import evaluating
from vitkit.analysis.similarity import LayerSimilarity, gram_matrix
from vitkit.analysis.tokens import Norms, TokenNorms
from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer

__all__ = ["BATCH", "Survey", "Surveyed", "uniform_distance"]

BATCH = 16  # images at a time: a minibatch of the similarity of layers
WEIGHTS = 2**24  # attention weights that are computed at a time, 64 MiB

Array = npt.NDArray[np.float64]


class Surveyed(NamedTuple):
    """Means over images; L layers, K heads, P prefix tokens."""

    images: int
    distance: Array  # (L, K) pixels; rows and columns of prefix tokens dropped, weights as they are (figures 7 and 11)
    renormalised: Array  # (L, K) pixels; the same with each patch's weights of patches made to sum to 1
    entropy: Array  # (L, K) nats, mean over all query tokens
    uniform_distance: float  # of attention that is the same for all patches
    uniform_entropy: float
    cka: (
        Array | None
    )  # (L + 1, L + 1) between what enters the first block and what each gives; None of fewer than 4 images
    cka_images: int  # that took part in it
    norms: Norms


class Survey:
    """Collects over images what `Surveyed` holds. Leaves the model as it was."""

    def __init__(self, model: VisionTransformer) -> None:
        config = model.config
        self.model = model
        self.images = 0
        self._sums = torch.zeros(3, config.depth, config.num_heads, dtype=torch.float64)
        self._similarity = LayerSimilarity(config.depth + 1)
        self._norms = TokenNorms(config.depth + 1, config.prefix_tokens)

    def add(self, images: Tensor) -> None:
        """Run the model on images (B, C, H, W), one forward; together they are a minibatch of the similarity of layers.

        Raises:
            UserError: images of another size than the model's; tokens that are not finite numbers.
        """
        grams: list[Tensor] = []

        def between(tokens: Tensor) -> None:  # called in the order of the blocks
            if not bool(tokens.isfinite().all()):
                raise UserError(
                    f"the model's tokens are not finite after {len(grams)} of its {self.model.config.depth} blocks: its weights "
                    "are damaged, or too large for the numbers that it computes with."
                )
            self._norms.add(len(grams), tokens)
            grams.append(gram_matrix(tokens))

        def attending(layer: int) -> Callable[[Tensor], None]:
            return lambda qkv: self._attend(layer, qkv)

        blocks = self.model.blocks
        hooks: list[tuple[nn.Module, Callable[[Tensor], None]]] = [(block, between) for block in blocks]
        hooks += [(block.attn.qkv, attending(layer)) for layer, block in enumerate(blocks)]
        with torch.no_grad(), evaluating(self.model), _watched(blocks[0], between, hooks):
            self.model.forward_features(images)
        self._similarity.add(torch.stack(grams))
        self.images += len(images)

    def _attend(self, layer: int, qkv: Tensor) -> None:
        config, attention = self.model.config, self.model.blocks[layer].attn
        grid, pixels, P = config.grid, patch_pixels(config), config.prefix_tokens
        together = max(1, WEIGHTS // (config.num_heads * qkv.shape[1] ** 2))  # images
        for start in range(0, len(qkv), together):
            weights = attention_weights(attention, qkv[start : start + together])
            found = (
                attention_distance(weights, grid, pixels, P),
                attention_distance(weights, grid, pixels, P, renormalise=True),
                attention_entropy(weights),
            )
            self._sums[:, layer] += torch.stack(found).double().sum(dim=1).cpu()

    def result(self) -> Surveyed:
        """The means over all images so far.

        Raises:
            UserError: there were none.
        """
        if not self.images:
            raise UserError("no images were looked at; a survey of a model needs at least one.")
        config = self.model.config
        distance, renormalised, entropy = (self._sums / self.images).numpy()
        return Surveyed(
            self.images,
            distance,
            renormalised,
            entropy,
            uniform_distance(config.grid, patch_pixels(config)),
            math.log(config.prefix_tokens + config.grid[0] * config.grid[1]),
            self._similarity.cka(),
            self._similarity.images,
            self._norms.result(self.images),
        )


def uniform_distance(grid: tuple[int, int], patch_size: tuple[int, int]) -> float:
    """Attention distance in pixels of patches that look at all patches of the grid (h, w) alike; 116.49 for 14 x 14 of 16."""
    h, w = grid
    # Of two places drawn alike from n, a difference of d > 0 has the probability 2 (n - d) / n^2.
    chances = [np.where(np.arange(n) > 0, 2, 1) * (n - np.arange(n)) / n**2 for n in (h, w)]
    lengths = np.hypot(np.arange(h)[:, None] * patch_size[0], np.arange(w)[None] * patch_size[1])
    return float(chances[0] @ lengths @ chances[1])


@contextmanager
def _watched(
    first: nn.Module, enter: Callable[[Tensor], None], hooks: Sequence[tuple[nn.Module, Callable[[Tensor], None]]]
) -> Iterator[None]:
    """Call functions while modules compute: ``enter`` with what ``first`` reads, each other with what its module gives."""

    def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        enter(inputs[0])

    def after(call: Callable[[Tensor], None]) -> Any:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            call(output)

        return hook

    handles = [first.register_forward_pre_hook(before)]
    try:
        handles += [module.register_forward_hook(after(call)) for module, call in hooks]
        yield
    finally:
        for handle in handles:
            handle.remove()
