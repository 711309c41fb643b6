"""Looks for label errors with a model's features, or with features learnt from the thumbnails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitkit.console import Console, percent
from vitkit.data.audit import Scan
from vitkit.data.findings import EXAMPLES, Finding
from vitkit.data.samples import Sample
from vitkit.data.survey import Survey

if TYPE_CHECKING:
    from torch import Tensor

    from vitkit.evals.label_errors import LabelErrors

__all__ = ["Suspect", "Suspects", "find_among", "find_label_errors", "judge"]

LEAST_IMAGES = 50  # below, a probe tells nothing
LEAST_OF_CLASS = 5  # images; a class of fewer has folds that train on none
WORK = 2.5e13  # multiplications and additions that a model's features may take: one to three minutes on two cores
LEAST_GRID = 6  # patches each way, below which a model sees nothing


@dataclass(frozen=True)
class Suspect:
    """An image whose label is likely wrong. ``place`` is that of the survey; classes by index."""

    place: int
    given: int
    suggested: int
    probability_given: float  # out of fold
    probability_suggested: float

    @property
    def score(self) -> float:
        """1 where the probe is sure that the label is wrong."""
        return 1 - self.probability_given


@dataclass(frozen=True)
class Suspects:
    """Likely label errors, worst first; ``estimated`` of them are likely wrong."""

    ranked: Sequence[Suspect] = ()
    estimated: int = 0
    method: str = ""
    notes: Sequence[str] = field(default=())  # what was not looked at, and why
    findings: Sequence[Finding] = field(default=())


def find_label_errors(
    found: Survey, scans: Mapping[str, Scan], model: str | Path | None, overrides: dict[str, Any], console: Console
) -> Suspects:
    """Rank the images of all splits by how surely a probe that never saw them contradicts their label.

    Raises:
        UserError: the model cannot be used, or a file cannot be read any more.
    """
    places, notes = _judged(found, np.arange(len(found.places)))
    if not len(places):
        return Suspects(notes=notes)
    if model is None:
        features, method = _thumbnail_features(scans, console)
        features = features[places]
    else:
        places, features, method = _model_features(found, places, model, overrides, console)
        if len(places) < len(found.places):
            notes.append(
                f"label errors were looked for among {len(places)} of {len(found.places)} images, to bound the time"
            )
    return judge(found, places, features, method, notes)


def find_among(found: Survey, samples: Sequence[Sample], features: Tensor, method: str) -> Suspects:
    """The same for some images whose features (n, D) are at hand: those of the probe of a fine-tuning run."""
    place_of = {id(place.sample): index for index, place in enumerate(found.places)}
    all_places = np.array([place_of[id(sample)] for sample in samples])
    places, notes = _judged(found, all_places)
    if not len(places):
        return Suspects(notes=notes)
    import torch

    kept = torch.from_numpy(np.isin(all_places, places))
    return judge(found, places, features[kept], method, notes, listed_in="report.json")


def _judged(found: Survey, places: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Those of ``places`` whose labels a probe can judge, none where it cannot; and what was left out."""
    none = np.empty(0, np.int64)
    if found.source.multilabel:
        return none, ["label errors are looked for in data of one class per image only; these have several"]
    labels = [found.places[place].sample.label for place in places.tolist()]
    counts = Counter(labels)
    small = {label for label, count in counts.items() if count < LEAST_OF_CLASS}
    chosen = places[[label not in small for label in labels]]
    notes = []
    if small:
        left = len(places) - len(chosen)
        notes.append(f"{left} images of {len(small)} classes with fewer than {LEAST_OF_CLASS} images were not judged")
    if len(chosen) < LEAST_IMAGES or len(counts) - len(small) < 2:
        return none, [*notes, f"too few images to look for label errors: {len(chosen)}, needs {LEAST_IMAGES}"]
    return chosen, notes


def judge(
    found: Survey,
    places: np.ndarray,
    features: Tensor,
    method: str,
    notes: Sequence[str] = (),
    listed_in: str = "audit.json",
) -> Suspects:
    """Rank the images at ``places`` by features (n, D) that were computed of them."""
    from vitkit.evals.label_errors import label_errors, out_of_fold

    classes = found.source.classes
    labels = [found.places[place].sample.label for place in places.tolist()]
    errors = label_errors(out_of_fold(features, labels, len(classes)), labels)
    chance = Counter(labels).most_common(1)[0][1] / len(labels)
    if errors.accuracy < chance + 2 * (chance * (1 - chance) / len(labels)) ** 0.5:
        text = f"the probe gives {percent(errors.accuracy)} of the labels, the largest class alone has {percent(chance)}: it "
        return Suspects(method=method, notes=[*notes, text + "cannot judge labels. Name a model that can: --model"])
    ranked = [
        Suspect(int(places[i]), labels[i], suggested, given, other)
        for i, suggested, given, other in zip(
            errors.places, errors.suggested, errors.given, errors.other, strict=True
        )
    ]  # fmt: skip
    method = f"{method}; logistic probe, 5 folds, {percent(errors.accuracy)} of the given labels out of fold"
    return Suspects(ranked, errors.estimated, method, notes, _finding(found, ranked, errors, len(places), listed_in))


def _finding(found: Survey, ranked: Sequence[Suspect], errors: LabelErrors, n: int, listed_in: str) -> list[Finding]:
    estimated = errors.estimated
    if not estimated:
        return []
    share, classes = estimated / n, found.source.classes
    return [Finding(
        "label_errors", "high" if share >= 0.02 else "medium", share * errors.accuracy, estimated,
        f"about {estimated} of {n} labels ({100 * share:.1f} %) may be wrong: a ranking to look at, not a verdict; the list is "
        f"in {listed_in}, the most suspicious first",
        [{"split": found.places[s.place].split, "name": found.places[s.place].sample.name, "given": classes[s.given],
          "suggested": classes[s.suggested], "score": round(s.score, 4)} for s in ranked[:EXAMPLES]],
    )]  # fmt: skip


def _thumbnail_features(scans: Mapping[str, Scan], console: Console) -> tuple[Tensor, str]:
    import torch

    from vitkit.data.thumbnails import Thumbnails
    from vitkit.evals.patches import count_filters, patch_features

    joined = Thumbnails.joined([scan.thumbnails for scan in scans.values() if scan.thumbnails is not None])
    filters = count_filters(len(joined))
    features = patch_features(joined, console, filters=filters)
    assert isinstance(features, torch.Tensor)
    return features, f"features of 32x32 thumbnails learnt from these images without labels, {filters} filters"


def _model_features(
    found: Survey, places: np.ndarray, model: str | Path, overrides: dict[str, Any], console: Console
) -> tuple[np.ndarray, Tensor, str]:
    """Features of as many images, at as fine a grid, as the bounded work allows."""
    import torch

    from vitkit.data.subsets import stratified_split
    from vitkit.engines.eager import EagerEngine
    from vitkit.evals.scoring import outputs_of
    from vitkit.train import best_precision
    from vitkit.zoo.load import load_model

    bundle = load_model(model, **overrides)
    own, patch = bundle.config.grid, bundle.config.patch_size
    per_token = 2 * sum(p.numel() for p in bundle.model.parameters())
    cells = WORK / per_token / len(places)  # patches of an image that the work allows
    shrink = min(1.0, (cells / (own[0] * own[1])) ** 0.5)
    grid = tuple(min(side, max(LEAST_GRID, int(side * shrink))) for side in own)
    most = int(WORK / per_token / (grid[0] * grid[1]))
    if len(places) > most:
        labels = [found.places[place].sample.label for place in places.tolist()]
        _, part = stratified_split(labels, most / len(places), 0)
        places = places[part]
    size = (grid[0] * patch[0], grid[1] * patch[1])
    if size != bundle.config.image_size:
        bundle = load_model(model, **{**overrides, "image_size": size})
    precision, fused = best_precision()
    engine = EagerEngine(bundle.model, precision=precision, fused_attention=fused, group=16)
    samples = [found.places[place].sample for place in places.tolist()]
    features = outputs_of(engine, bundle.require_preprocess(), samples, console, "features").features
    return places, torch.from_numpy(features), f"features of {bundle.source} at {size[0]}x{size[1]} pixels, {precision}"
