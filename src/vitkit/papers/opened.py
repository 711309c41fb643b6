"""Models and images of the figures that are made for what a person gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, stack

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.containers import ImageSource
from vitkit.data.inputs import read_inputs, spread
from vitkit.data.pixels import ImageError
from vitkit.papers.item import Request
from vitkit.zoo.load import load_model

__all__ = ["View", "chosen", "describe", "open_models", "picture", "title", "views"]

BATCH = 8


class View(NamedTuple):
    """Some images as the model sees them."""

    names: list[str]
    images: Tensor  # (B, C, H, W)


def open_models(request: Request, console: Console) -> list[tuple[str, Bundle]]:
    """Each model with its name; what loading noted is said.

    Raises:
        UserError: no such model, or one that nothing tells the preprocessing of though images are to be looked at.
    """
    found = []
    for name in request.models:
        bundle = load_model(name, **request.overrides)
        bundle.model.eval()
        if request.images:
            bundle.require_preprocess()
        for note in bundle.notes:
            console.say(f"model: {name}: {note}")
        found.append((name, bundle))
    return found


def title(name: str) -> str:
    """What to write above a model's panel: of a run's bundle ``RUN/model`` the run's name, else the last part of the path."""
    path = Path(name)
    if path.name == "model" and path.is_dir():
        return path.resolve().parent.name
    return path.name


def chosen(request: Request, most: int) -> tuple[tuple[str, ImageSource], ...]:
    """The images to look at: all that were given, or of more than ``most`` (or --max-images) so many, evenly spread."""
    most = most if request.max_images is None else request.max_images
    return tuple(request.images[place] for place in spread(len(request.images), most))


def views(
    bundle: Bundle, images: tuple[tuple[str, ImageSource], ...], request: Request, console: Console, label: str
) -> Iterator[View]:
    """The images in their order, a few at a time; those that cannot be used are said.

    Raises:
        UserError: none can be used.
    """
    sources, record = [source for _, source in images], bundle.require_preprocess()
    inputs = read_inputs(sources, record, workers=request.workers, max_pixels=request.max_pixels)
    used, reason = 0, ""
    names: list[str] = []
    tensors: list[Tensor] = []
    for (name, _), loaded in zip(images, console.track(inputs, len(images), label), strict=True):
        if isinstance(loaded, ImageError):
            reason = reason or f"{name}: {loaded}"
            console.warn(f"skipped {name}: {loaded}")
            continue
        names.append(name)
        tensors.append(loaded)
        if len(names) == BATCH:
            yield View(names, stack(tensors))
            used, names, tensors = used + BATCH, [], []
    if names:
        yield View(names, stack(tensors))
    elif not used:
        raise UserError(f"none of the {len(images)} images can be used, the first: {reason}.")


def picture(bundle: Bundle, image: Tensor) -> npt.NDArray[np.uint8]:
    """An image (C, H, W) as the model sees it, back in colours that people see, (H, W, 3); of other channels the first, gray."""
    record = bundle.require_preprocess()
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (record.mean, record.std))
    pixels = (image.numpy() * std + mean).clip(0, 1)
    pixels = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
    shown: npt.NDArray[np.uint8] = np.rint(255 * pixels).astype(np.uint8).transpose(1, 2, 0)
    return shown


def describe(name: str, bundle: Bundle) -> dict[str, object]:
    """What a result must say of its model."""
    c = bundle.config
    return {
        "name": name, "embed_dim": c.embed_dim, "depth": c.depth, "num_heads": c.num_heads, "patch_size": list(c.patch_size),
        "image_size": list(c.image_size), "pool": c.pool, "position": c.position, "source": bundle.source,
    }  # fmt: skip
