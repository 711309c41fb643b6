"""Do the patches that a map marks matter to the model? Deletion and insertion of them.

Deletion takes patches away from the most to the least marked and replaces them by 0, the mean colour of preprocessed pixels:
the sooner the class's probability falls, the better, so a small area under the curve is good. Insertion puts them back in the
same order into an image blurred until nothing finer than a patch is left: a large area is good. (From the blurred image and not
from an empty one, because single patches on a plain ground are images unlike any other.) What is judged is the difference to
random orders of the same image.
Source: Petsiuk, Das and Saenko, BMVC 2018, arXiv 1806.07421, section 4.3, there by pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.config import UserError

__all__ = ["RANDOMS", "STEPS", "Areas", "areas_of", "blurred", "faithfulness", "forwards", "rows"]

Array = np.ndarray[Any, Any]
Score = Callable[[Tensor], Tensor]  # images (B, C, H, W) to the probability (B,) of each one's explained class
STEPS = 14  # points of a curve after the first: 14 patches at a time on a grid of 14 x 14
RANDOMS = 2  # random orders of each image, averaged


class Areas(NamedTuple):
    """Areas under the curves of n images, each (n,) float64 in [0, 1]: mean probability while patches go or come."""

    deletion: Array
    insertion: Array
    random_deletion: Array  # of random orders
    random_insertion: Array


def forwards(patches: int, *, steps: int = STEPS, randoms: int = RANDOMS) -> int:
    """Forward passes that `faithfulness` takes for one image of so many patches: what a plan of the time needs."""
    return 3 + 2 * (1 + randoms) * (min(steps, patches) - 1)


def faithfulness(
    score: Score,
    images: Tensor,
    maps: Tensor,
    *,
    patch_size: tuple[int, int] | None = None,
    steps: int = STEPS,
    randoms: int = RANDOMS,
    seed: int = 0,
    first: int = 0,
) -> Areas:
    """Deletion and insertion of patches in the order of maps, and in random orders.

    Equal values of a map are put into a random order, so that a constant map is as good as a random one. The draws of an image
    are a function of ``seed`` and its number alone.

    Args:
        score: images (B, C, H, W) to probabilities (B,); called with all ``images`` at once, 2 (1 + randoms) ``steps`` times.
        images: (B, C, H, W) float, preprocessed, so that 0 is the mean colour.
        maps: (B, h, w), higher where the model is said to look.
        patch_size: pixels of a patch (height, width); by default the grid divides the image evenly.
        steps: points of a curve; at most as many as there are patches.
        randoms: random orders of each image.
        first: number of the first image, where images come in several calls.

    Raises:
        UserError: maps that are not finite or not one of each image, fewer than one step or random order.
    """
    (found,) = areas_of(score, images, [maps], patch_size, steps, randoms, seed, first)
    return found


def areas_of(
    score: Score,
    images: Tensor,
    many: Sequence[Tensor],
    patch_size: tuple[int, int] | None,
    steps: int,
    randoms: int,
    seed: int,
    first: int,
) -> list[Areas]:
    """`faithfulness` of several kinds of maps of the same images, whose random orders are the same and computed once."""
    for maps in many:
        if maps.ndim != 3 or len(maps) != len(images):
            raise UserError(f"{len(images)} images need as many maps (h, w), got a tensor of {tuple(maps.shape)}.")
        if not bool(torch.isfinite(maps).all()):
            raise UserError("the maps hold values that are not finite; compute them in float32.")
    if steps < 1 or randoms < 1:
        raise UserError(f"steps and randoms must be at least 1, got {steps} and {randoms}.")
    grid = (many[0].shape[1], many[0].shape[2])
    patches = grid[0] * grid[1]
    generators = [np.random.default_rng([seed, first + index]) for index in range(len(images))]
    cells = _cells((images.shape[2], images.shape[3]), grid, patch_size, images.device)
    counts = _counts(patches, steps)
    plain, blur = torch.zeros_like(images), blurred(images, grid)
    ends = [score(ground).double().cpu().numpy() for ground in (images, plain, blur)]

    def areas(orders: Array) -> tuple[Array, Array]:
        ranks = torch.from_numpy(orders.argsort(1)).to(images.device)  # (B, h*w): when a patch has its turn
        turn = ranks[:, cells][:, None]  # (B, 1, H, W)
        gone = _area(score, images, plain, turn, counts, (ends[0], ends[1]))
        back = _area(score, blur, images, turn, counts, (ends[2], ends[0]))
        return gone, back

    ties = np.stack([rng.random(patches) for rng in generators])
    own = []
    for maps in many:
        values = rows(maps)
        own.append(areas(np.stack([np.lexsort((tie, -value)) for tie, value in zip(ties, values, strict=True)])))
    drawn = [areas(np.stack([rng.permutation(patches) for rng in generators])) for _ in range(randoms)]
    return [Areas(*pair, *np.mean(drawn, axis=0)) for pair in own]


def _cells(
    size: tuple[int, int], grid: tuple[int, int], patch_size: tuple[int, int] | None, device: torch.device
) -> Tensor:
    """The number (H, W) of the patch that each pixel is in; what is left beside the last patches counts to them."""
    axes = []
    for axis in range(2):
        pixels = torch.arange(size[axis], device=device)
        place = pixels * grid[axis] // size[axis] if patch_size is None else pixels // patch_size[axis]
        axes.append(place.clamp(max=grid[axis] - 1))
    return axes[0][:, None] * grid[1] + axes[1]


def _counts(patches: int, steps: int) -> list[int]:
    """How many patches were taken at each point of a curve, from 0 to all."""
    steps = min(steps, patches)
    return [round(patches * step / steps) for step in range(steps + 1)]


def _area(
    score: Score, before: Tensor, after: Tensor, turn: Tensor, counts: Sequence[int], ends: tuple[Array, Array]
) -> Array:
    """Area (B,) under the score while ``before`` becomes ``after``, over the share of patches; ``ends`` are the scores of both."""
    curve = [score(torch.where(turn < count, after, before)).double().cpu().numpy() for count in counts[1:-1]]
    shares = np.array(counts) / counts[-1]
    return np.asarray(np.trapezoid(np.stack([ends[0], *curve, ends[1]], axis=1), shares, axis=1))


def blurred(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) in which nothing finer than a patch of the grid (h, w) is left: the patches' means, joined smoothly."""
    means = F.adaptive_avg_pool2d(images, grid)
    size = (images.shape[2], images.shape[3])
    return F.interpolate(means, size, mode="bilinear", align_corners=False)


def rows(maps: Tensor) -> Array:
    return np.asarray(maps.detach().flatten(1).double().cpu())
