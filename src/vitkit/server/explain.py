"""Where a model looks, for one image: a heat map to lay over the photo. Loads the model's modules at the first time."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vitkit.config import UserError, did_you_mean
from vitkit.data.pixels import ImageError
from vitkit.server.batching import unusable
from vitkit.server.errors import Refused

if TYPE_CHECKING:
    from vitkit.bundle import Bundle
    from vitkit.models.vit import VisionTransformer

__all__ = ["METHODS", "Explainer"]

METHODS = ("gradient", "rollout", "attention")
SIDE = 512  # pixels of a map's long side
FAINT, STRONG = 0.15, 0.85  # how much of the photo the map covers, where there is nothing and where most


class Explainer:
    """The modules of one model. One image at a time, in the caller's thread."""

    def __init__(self, path: str, overrides: Mapping[str, Any]) -> None:
        self._path, self._overrides = path, dict(overrides)
        self._lock = threading.Lock()
        self._opened: tuple[Bundle, VisionTransformer] | None = None

    def _open(self) -> tuple[Bundle, VisionTransformer]:
        if self._opened is None:
            from vitkit.engines.eager import EagerEngine
            from vitkit.zoo.load import load_model

            try:
                bundle = load_model(self._path, **self._overrides)
            except UserError as error:
                raise Refused(501, "cannot_explain", f"this model has no modules to look into: {error}") from None
            self._opened = bundle, EagerEngine(bundle.model).model
        return self._opened

    def explain(self, content: bytes, method: str, target: str | None, max_pixels: int, run: Any) -> dict[str, Any]:
        """The map of an encoded image.

        Args:
            content: the image.
            method: one of `METHODS`.
            target: name or index of the class; None: the predicted one. Of ``gradient`` alone.
            max_pixels: of a larger image nothing is decoded.
            run: images (B, C, H, W) to logits and features, as predictions are made.

        Raises:
            Refused: 404, 413, 422 or 501.
        """
        if method not in METHODS:
            raise Refused(
                422,
                "no_such_method",
                f"the method is {method[:40]!r}; known: {', '.join(METHODS)}.{did_you_mean(method, METHODS)}",
            )
        with self._lock:
            bundle, model = self._open()
            from vitkit.analysis.explanation import explain_view
            from vitkit.analysis.maps import ask
            from vitkit.analysis.overlay import open_view

            wanted = _index(bundle, method, target)
            try:
                asked = ask(bundle.model, method)
                view = open_view(content, bundle.require_preprocess(), bundle.config, max_pixels=max_pixels, most=SIDE)
                found = explain_view(bundle, model, run, asked, wanted, "", "", view)
            except ImageError as error:
                raise unusable(error) from None
            except UserError as error:
                raise Refused(501, "cannot_explain", str(error)) from None
            assert found.prediction is not None
            box = view.box.scaled(view.shown.width / view.size[1], view.shown.height / view.size[0])
            return {
                "prediction": found.prediction,
                "explained": bundle.class_name(found.targets[0]),
                "map": heat_map(found.values, box, (view.shown.height, view.shown.width)),
            }


def _index(bundle: Bundle, method: str, target: str | None) -> int | None:
    if target is None:
        return None
    if method != "gradient":
        raise Refused(422, "no_class_asked", f"a class is for the method gradient; {method} asks for none.")
    names = [bundle.class_name(index) for index in range(bundle.config.num_classes)]
    if target in names:
        return names.index(target)
    raise Refused(404, "no_such_class", f"the model has no class {target[:100]!r}.{did_you_mean(target, names)}")


def heat_map(values: np.ndarray, box: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A map (h, w) over ``box`` of a photo shown at ``size`` (height, width): a PNG with transparency, and where it goes."""
    from PIL import Image

    from vitkit.analysis.overlay import colours, spread

    most = float(values.max())
    heat, (left, top, right, bottom) = spread(values / most if most > 0 else values, box, size)
    heat = np.clip(heat, 0, 1)
    alpha = 255 * (FAINT + (STRONG - FAINT) * heat)
    pixels = np.concatenate([colours(heat), alpha[..., None]], axis=2)
    file = io.BytesIO()
    Image.fromarray(np.round(pixels).astype(np.uint8)).save(file, "PNG", compress_level=4)
    height, width = size
    return {
        "png": base64.b64encode(file.getvalue()).decode(),
        "left": left / width,
        "top": top / height,
        "width": (right - left) / width,
        "height": (bottom - top) / height,
    }
