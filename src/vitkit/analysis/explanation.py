"""One image explained: what the model answers, the maps behind it, and the picture of them over the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from vitkit.analysis.maps import Asked, Map, draw_maps
from vitkit.analysis.overlay import View
from vitkit.answers import MULTI, Outputs, Prediction
from vitkit.bundle import Bundle
from vitkit.data.pixels import ImageError
from vitkit.models.vit import VisionTransformer

__all__ = ["TOP", "Explanation", "explain_view", "gives_classes"]

Array = np.ndarray
TOP = 5  # classes told of each image
MOST_CLASSES = 8  # of a multi-label answer that get maps


@dataclass(frozen=True)
class Explanation:
    """What was found for one image."""

    path: str  # as the user named it
    stem: str  # of its files
    view: View = field(repr=False)
    prediction: Prediction | None  # None: the model gives no classes
    targets: tuple[int, ...]  # the classes that are explained; of a method that asks for none, the answer
    explained: tuple[tuple[str, float], ...]  # names of the classes with their probabilities
    maps: tuple[Map, ...] = field(repr=False)

    @property
    def values(self) -> Array:
        """The map (h, w) float32: the mean of `maps`, each of which counts alike where they are of several classes."""
        values = np.stack([found.values for found in self.maps])
        if len(self.maps) > 1 and self.maps[0].target is not None:  # relevance has no unit
            most = values.max(axis=(1, 2), keepdims=True)
            values = values / np.where(most > 0, most, 1)
        return np.asarray(values.mean(axis=0), np.float32)

    @property
    def picture(self) -> Image.Image:
        """The map over the original image."""
        return self.view.over(self.values)


def gives_classes(bundle: Bundle) -> bool:
    """Does the model answer with one class or set of classes for each image?"""
    return bundle.config.num_classes > 0 and bundle.config.head_bias and bundle.config.pool != "none"


def explain_view(
    bundle: Bundle,
    model: VisionTransformer,
    run: Callable[[np.ndarray], Outputs],
    asked: Asked,
    target: int | None,
    path: str,
    stem: str,
    view: View,
) -> Explanation:
    """Ask the model about one image.

    Args:
        bundle: says what outputs mean.
        model: its model, where maps are computed.
        run: images (B, C, H, W) to logits and features, as predictions are made.
        asked: what maps.
        target: the class to explain; None: the predicted one, of a multi-label model all that reach their thresholds, else the
            most probable.
        path, stem: what the image and its files are called.
        view: the image.

    Raises:
        ImageError: the model computes values for it that are not finite.
    """
    if not gives_classes(bundle):
        maps = tuple(draw_maps(model, view.pixels, asked))
        _check_finite(maps)
        return Explanation(path, stem, view, None, (), (), maps)
    outputs = Outputs(*(rows[0] for rows in run(view.pixels[None].numpy())))
    probabilities = bundle.probabilities(outputs.logits[None])[0]
    prediction = bundle.answer(outputs, TOP)
    targets = (target,) if target is not None else _answers(bundle, probabilities)
    maps = tuple(draw_maps(model, view.pixels, asked, targets))
    _check_finite(maps)
    named = tuple((bundle.class_name(index), float(probabilities[index])) for index in targets)
    return Explanation(path, stem, view, prediction, targets, named if asked.method == "gradient" else (), maps)


def _check_finite(maps: Sequence[Map]) -> None:
    """Refuse what cannot be drawn.

    Raises:
        ImageError: a map with values that are no numbers.
    """
    if not all(np.isfinite(found.values).all() for found in maps):
        raise ImageError("the model computes values that are not finite for it, so that it has no map")


def _answers(bundle: Bundle, probabilities: np.ndarray) -> tuple[int, ...]:
    """Indices of the classes of the answer, the most probable first."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    if bundle.task != MULTI:
        return (order[0],)
    thresholds = bundle.thresholds or (0.5,) * len(order)
    reached = [index for index in order if float(probabilities[index]) >= thresholds[index]]
    return tuple(reached[:MOST_CLASSES]) or (order[0],)
