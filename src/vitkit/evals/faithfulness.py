"""Do the patches that a map marks matter to the model? Deletion, insertion and randomised weights.

Deletion takes patches away from the most to the least marked and replaces them by 0, the mean colour of preprocessed pixels:
the sooner the class's probability falls, the better, so a small area under the curve is good. Insertion puts them back in the
same order into an image blurred until nothing finer than a patch is left: a large area is good. (From the blurred image and not
from an empty one, because single patches on a plain ground are images unlike any other.) What is judged is the difference to
random orders of the same image.
Source: Petsiuk, Das and Saenko, BMVC 2018, arXiv 1806.07421, section 4.3, there by pixels; randomised weights:
Adebayo et al., NeurIPS 2018, arXiv 1810.03292, section 3.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.analysis.attention import patch_pixels
from vitkit.config import UserError
from vitkit.evals.intervals import Mean, mean_of
from vitkit.models.initialise import initialise
from vitkit.models.vit import VisionTransformer

__all__ = [
    "Areas",
    "Evidence",
    "blurred",
    "evidence",
    "evidence_of",
    "faithfulness",
    "forwards",
    "judge",
    "randomised",
    "spearman",
]

Array = np.ndarray[Any, Any]
Score = Callable[[Tensor], Tensor]  # images (B, C, H, W) to the probability (B,) of each one's explained class
Maps = Callable[
    [VisionTransformer, Tensor, Tensor], Tensor
]  # model, images (B, C, H, W), classes (B,) to maps (B, h, w)
STEPS = 14  # points of a curve after the first: 14 patches at a time on a grid of 14 x 14
RANDOMS = 2  # random orders of each image, averaged
ALIKE = 0.5  # mean rank correlation with the maps of random weights from which maps say little about what was learnt
FEW = 10  # images from which a verdict is given


class Areas(NamedTuple):
    """Areas under the curves of n images, each (n,) float64 in [0, 1]: mean probability while patches go or come."""

    deletion: Array
    insertion: Array
    random_deletion: Array  # of random orders
    random_insertion: Array


@dataclass(frozen=True)
class Evidence:
    """Whether maps matter, over ``images`` images; gains are above 0 where maps are better than random orders."""

    images: int
    steps: int
    randoms: int
    deletion: float  # mean area under the curve; lower is better
    insertion: float  # higher is better
    random_deletion: float
    random_insertion: float
    deletion_gain: Mean  # random_deletion - deletion, image by image
    insertion_gain: Mean  # insertion - random_insertion
    compared: int  # images of which the rank correlation is defined; 0 where weights were not randomised
    correlation: Mean | None  # Spearman's, between the maps of the model and of one with random blocks

    @property
    def verdict(self) -> str:
        """One sentence in plain words, and a second one where weights were randomised."""
        said = _of_gains(self)
        if self.correlation is None:
            return said
        value = f"rank correlation {self.correlation.value:.2f} with the maps of random blocks"
        if self.correlation.value < ALIKE:
            return f"{said} The maps depend on what the model learnt ({value})."
        return f"{said} The maps hardly depend on what the model learnt ({value}): they show the image more than the model."

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; a mean is {"value", "low", "high"}, with null where there is no interval."""
        plain = dataclasses.asdict(self)
        means = ("deletion_gain", "insertion_gain", "correlation")
        plain |= {name: None if (mean := getattr(self, name)) is None else mean._asdict() for name in means}
        return {**plain, "verdict": self.verdict}


def _of_gains(found: Evidence) -> str:
    if found.images < FEW:
        count = "1 image is" if found.images == 1 else f"{found.images} images are"
        return f"{count} too few for a verdict: it takes {FEW} images or more, and --check {FEW} or more."
    signs = []
    for gain in (found.deletion_gain, found.insertion_gain):
        assert gain.low is not None
        assert gain.high is not None
        signs.append((gain.low > 0) - (gain.high < 0))
    if signs == [1, 1]:
        return "The maps matter: taking away and putting back what they mark changes the answer more than random patches do."
    if -1 in signs:
        return "The maps mislead: what they mark changes the answer less than random patches do."
    if 1 in signs:
        which = "taking away" if signs[0] else "putting back"
        rest = f"only {which} what they mark changes the answer more than random patches do."
        return f"There is weak evidence that the maps matter: {rest}"
    return (
        "There is no evidence that the maps matter: what they mark changes the answer no more than random patches do."
    )


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
    (found,) = _areas(score, images, [maps], patch_size, steps, randoms, seed, first)
    return found


def _areas(
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
        values = _rows(maps)
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


@torch.no_grad()
def randomised(model: VisionTransformer, seed: int) -> VisionTransformer:
    """A copy whose blocks and attention pooling are drawn anew as before training; embedding, last norm and heads stay."""
    drawn = copy.deepcopy(model)
    initialise(drawn, seed)
    kept = {
        name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("blocks.", "map_pool."))
    }
    drawn.load_state_dict(kept, strict=False)
    return drawn


def spearman(a: Array, b: Array) -> Array:
    """Spearman's rank correlation (n,) of rows (n, m), equal values sharing their mean rank; NaN where a row is constant."""
    first, second = (_ranks(rows) for rows in (a, b))
    product = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    with np.errstate(invalid="ignore"):
        return np.asarray((first * second).sum(1) / np.where(product > 0, product, np.nan))


def _ranks(rows: Array) -> Array:
    """Ranks (n, m) of each row, around 0."""
    found = []
    for row in rows:
        ordered = np.sort(row)
        found.append((np.searchsorted(ordered, row, "left") + np.searchsorted(ordered, row, "right") - 1) / 2)
    return np.stack(found) - (rows.shape[1] - 1) / 2


def evidence(
    model: VisionTransformer,
    batches: Iterable[tuple[Tensor, Tensor]],
    maps_of: Maps,
    probabilities: Callable[[Tensor], Tensor],
    *,
    steps: int = STEPS,
    randoms: int = RANDOMS,
    seed: int = 0,
    randomise: bool = True,
) -> Evidence:
    """Deletion, insertion and randomised weights of one kind of maps, over images that come in batches and are not kept.

    Args:
        model: in eval mode.
        batches: preprocessed images (B, C, H, W) and the class (B,) of each that is explained; memory is that of one batch.
        maps_of: makes the maps (B, h, w) of a model, such as `vitkit.analysis.relevance.relevance`.
        probabilities: logits (B, O) to probabilities (B, O), such as `Bundle.probabilities`.
        randomise: compare with the maps of a copy with random blocks too.

    Raises:
        UserError: no images, or as `faithfulness`.
    """
    (found,) = evidence_of(
        model, batches, [maps_of], probabilities, steps=steps, randoms=randoms, seed=seed, randomise=randomise
    )
    return found


def evidence_of(
    model: VisionTransformer,
    batches: Iterable[tuple[Tensor, Tensor]],
    methods: Sequence[Maps],
    probabilities: Callable[[Tensor], Tensor],
    *,
    steps: int = STEPS,
    randoms: int = RANDOMS,
    seed: int = 0,
    randomise: bool = True,
) -> list[Evidence]:
    """`evidence` of several kinds of maps of the same images, each beside the same random orders."""
    other = randomised(model, seed) if randomise else None
    found: list[list[Areas]] = []
    correlations: list[list[Array]] = []
    first = 0
    for images, targets in batches:
        made = [maps_of(model, images, targets) for maps_of in methods]
        score = _score(model, targets, probabilities)
        found.append(_areas(score, images, made, patch_pixels(model.config), steps, randoms, seed, first))
        if other is not None:
            drawn = [maps_of(other, images, targets) for maps_of in methods]
            correlations.append([spearman(_rows(a), _rows(b)) for a, b in zip(made, drawn, strict=True)])
        first += len(images)
    if not first:
        raise UserError("no images to check the maps on; name at least one.")
    results = []
    for number in range(len(methods)):
        areas = Areas(*(np.concatenate(parts) for parts in zip(*(batch[number] for batch in found), strict=True)))
        alike = np.concatenate([batch[number] for batch in correlations]) if other is not None else None
        results.append(judge(areas, alike, steps=steps, randoms=randoms))
    return results


def _rows(maps: Tensor) -> Array:
    return np.asarray(maps.detach().flatten(1).double().cpu())


def _score(model: VisionTransformer, targets: Tensor, probabilities: Callable[[Tensor], Tensor]) -> Score:
    @torch.inference_mode()
    def score(images: Tensor) -> Tensor:
        return probabilities(model(images)).gather(1, targets.to(images.device)[:, None])[:, 0]

    return score


def judge(areas: Areas, correlations: Array | None = None, *, steps: int = STEPS, randoms: int = RANDOMS) -> Evidence:
    """The evidence of areas, and of rank correlations (n,) with the maps of random weights, NaN where undefined."""
    deletion, insertion, random_deletion, random_insertion = areas
    defined = np.empty(0) if correlations is None else correlations[~np.isnan(correlations)]
    return Evidence(
        images=len(deletion),
        steps=steps,
        randoms=randoms,
        deletion=float(deletion.mean()),
        insertion=float(insertion.mean()),
        random_deletion=float(random_deletion.mean()),
        random_insertion=float(random_insertion.mean()),
        deletion_gain=mean_of(random_deletion - deletion),
        insertion_gain=mean_of(insertion - random_insertion),
        compared=len(defined),
        correlation=mean_of(defined) if len(defined) else None,
    )
