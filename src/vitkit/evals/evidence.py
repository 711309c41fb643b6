"""The evidence that maps matter: deletion and insertion against random orders, and the maps of a model with random blocks.

Source of randomised weights: Adebayo et al., NeurIPS 2018, arXiv 1810.03292, section 3.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitkit.analysis.attention import patch_pixels
from vitkit.config import UserError
from vitkit.evals.faithfulness import RANDOMS, STEPS, Areas, Score, areas_of, rows
from vitkit.evals.intervals import Mean, mean_of
from vitkit.models.initialise import initialise
from vitkit.models.vit import VisionTransformer

__all__ = ["FEW", "Evidence", "evidence", "evidence_of", "judge", "randomised", "spearman"]

Array = np.ndarray[Any, Any]
Maps = Callable[
    [VisionTransformer, Tensor, Tensor], Tensor
]  # model, images (B, C, H, W), classes (B,) to maps (B, h, w)
ALIKE = 0.5  # mean rank correlation with the maps of random weights from which maps say little about what was learnt
FEW = 10  # images from which a verdict is given


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
        """One sentence in plain words, and of images enough a second one where weights were randomised."""
        said = _of_gains(self)
        if self.correlation is None or self.images < FEW:
            return said
        value = f"rank correlation {self.correlation.value:.2f}"
        if self.correlation.value < ALIKE:  # so are maps of noise: this alone is no evidence
            return f"{said} They are other maps than those of random blocks ({value})."
        return f"{said} They hardly differ from the maps of random blocks ({value}): they show the image more than the model."

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; a mean is {"value", "low", "high"}, with null where there is no interval."""
        plain = dataclasses.asdict(self)
        means = ("deletion_gain", "insertion_gain", "correlation")
        plain |= {name: None if (mean := getattr(self, name)) is None else mean._asdict() for name in means}
        return {**plain, "verdict": self.verdict}


def _of_gains(found: Evidence) -> str:
    if found.images < FEW:
        images = "1 image is" if found.images == 1 else f"{found.images} images are"
        return f"{images} too few for a verdict: it takes {FEW} images or more, and --check {FEW} or more."
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
    probabilities: Callable[[Tensor], Array | Tensor],
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
    probabilities: Callable[[Tensor], Array | Tensor],
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
        found.append(areas_of(score, images, made, patch_pixels(model.config), steps, randoms, seed, first))
        if other is not None:
            drawn = [maps_of(other, images, targets) for maps_of in methods]
            correlations.append([spearman(rows(a), rows(b)) for a, b in zip(made, drawn, strict=True)])
        first += len(images)
    if not first:
        raise UserError("no images to check the maps on; name at least one.")
    results = []
    for number in range(len(methods)):
        areas = Areas(*(np.concatenate(parts) for parts in zip(*(batch[number] for batch in found), strict=True)))
        alike = np.concatenate([batch[number] for batch in correlations]) if other is not None else None
        results.append(judge(areas, alike, steps=steps, randoms=randoms))
    return results


def _score(model: VisionTransformer, targets: Tensor, probabilities: Callable[[Tensor], Array | Tensor]) -> Score:
    @torch.inference_mode()
    def score(images: Tensor) -> Tensor:
        found = torch.as_tensor(probabilities(model(images).cpu()))
        return found.gather(1, targets.cpu()[:, None])[:, 0]

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
