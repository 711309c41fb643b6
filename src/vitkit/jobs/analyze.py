"""`vit analyze`: what is inside a model, as pictures and as numbers.

The steps, in order: load the model; read off its weights what needs no images; survey it over images, a few at a time; say
what is seen; draw; write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitkit.analysis.attention import patch_pixels
from vitkit.analysis.draw import drawing
from vitkit.analysis.filters import Filters, filter_components
from vitkit.analysis.plates import Plate, draw_plates, filter_plate, position_plate, survey_plates
from vitkit.analysis.positions import Similarity, position_similarity
from vitkit.analysis.similarity import LEAST_IMAGES
from vitkit.analysis.survey import BATCH, Survey, Surveyed
from vitkit.bundle import Bundle
from vitkit.config import UserError, check_writable, free_folder
from vitkit.console import Console
from vitkit.data.containers import ImageSource
from vitkit.data.download import without_secrets
from vitkit.data.inputs import read_inputs, spread
from vitkit.data.pixels import MAX_PIXELS, ImageError
from vitkit.datasets.unlabelled import list_images
from vitkit.engines.eager import EagerEngine
from vitkit.jobs.load import load
from vitkit.protocols.opening import describe_model
from vitkit.report import versions, write_analysis

__all__ = ["IMAGES", "AnalyzeResult", "analyze"]

IMAGES = 128  # as many as the paper's figure 11 averages over
NEEDS_IMAGES = ("attention distance", "attention entropy", "similarity of layers", "token norms")


@dataclass(frozen=True)
class AnalyzeResult:
    """Where the analysis was written, and what it found: the contents of ``analysis.json``."""

    folder: Path
    page: Path
    facts: Mapping[str, Any]


def analyze(
    model: str | Path | Bundle,
    *,
    out: str | Path | None = None,
    images: str | Path | Sequence[str | Path] | None = None,
    max_images: int = IMAGES,
    strict: bool = False,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    overrides: Mapping[str, Any] | None = None,
    command: str | None = None,
    console: Console | None = None,
) -> AnalyzeResult:
    """Look into a model: filters, position embeddings, and over images attention, representations and token norms.

    Args:
        model: a bundle, a bundle folder, a checkpoint or a name of the zoo. A head is not needed.
        out: the folder to write to; by default ``runs/analyze-<model>``, numbered.
        images: files, folders or data as for `vitkit.evaluate`; labels are not needed. Without: what needs none.
        max_images: of more, so many are taken, evenly spread.
        strict: fail on the first image that cannot be used, instead of listing it.
        workers: threads that decode images.
        max_pixels: larger images are listed without being decoded.
        overrides: of the loaded model, see `vitkit.load`.
        command: the command line, for the page.

    Raises:
        UserError: no such model or images, none that can be used, an output that cannot be written; matplotlib is absent.
    """
    console = console or Console()
    for name, value in (("--max-images", max_images), ("--workers", workers)):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}.")
    with drawing(1, 1):  # say now that nothing can be drawn, and not after minutes
        pass
    name = _name(model)
    folder = Path(out) if out is not None else free_folder(Path("runs"), f"analyze-{name}")
    check_writable(folder)
    if (
        folder.exists() and any(folder.iterdir()) and not (folder / "analysis.json").exists()
    ):  # an earlier analysis is replaced
        raise UserError(f"{folder} already exists and holds something else. Choose another -o.")
    given = None if images is None else list_images(images)
    bundle = model if isinstance(model, Bundle) else load(model, **dict(overrides or {}))
    bundle.require_modules()
    console.say(f"model: {name}: {describe_model(bundle)}")
    for note in bundle.notes:
        console.say(f"model: {note}")
    left_out: dict[str, str] = {}
    plates = _from_weights(bundle, left_out)
    looked: dict[str, Any] | None = None
    if given is None:
        left_out.update(dict.fromkeys(NEEDS_IMAGES, "no images were given: name some with --images DATA."))
    else:
        chosen = [given.images[place] for place in spread(len(given.images), max_images)]
        console.say(f"images: {len(chosen):,} of {len(given.images):,} of {given.name}, evenly spread")
        found, skipped = _survey(bundle, chosen, console, strict=strict, workers=workers, max_pixels=max_pixels)
        plates += survey_plates(found, bundle.config)
        if found.cka is None:
            left_out["similarity of layers"] = f"it needs at least {LEAST_IMAGES} images, got {found.images}."
        looked = {
            "data": given.name,
            "found": len(given.images),
            "chosen": len(chosen),
            "used": found.images,
            "skipped": [{"name": image, "reason": reason} for image, reason in skipped],
        }
    for plate in plates:
        console.say(f"{plate.part}: {plate.finding.text}")
    for part, reason in left_out.items():
        console.warn(f"left out: {part}: {reason}")
    if not plates:
        raise UserError("there is nothing to show of this model without images. Name some with --images DATA.")
    facts = _facts(bundle, name, plates, looked, left_out)
    facts["command"] = command or without_secrets(f"vitkit.analyze({name!r}, images={images!r:.200})")
    pictures = draw_plates(plates, folder)
    page, _ = write_analysis(folder, facts, plates, pictures)
    console.say(f"wrote     {page}, {len(pictures)} figures (SVG and PNG), all numbers in {folder / 'analysis.json'}")
    return AnalyzeResult(folder, page, facts)


def _name(model: str | Path | Bundle) -> str:
    """What to call the model, and its folder: of a run's bundle ``RUN/model`` the run's name."""
    if isinstance(model, Bundle):
        return "model"
    path = Path(str(model))
    if not path.exists():
        path = Path(str(model).replace(":", "/"))
    elif path.is_dir():
        path = path.resolve()
        path = path.parent if path.name == "model" and path.parent.name else path
    stem = path.name.removesuffix(path.suffix) if path.is_file() else path.name
    return re.sub(r"[^\w.+-]+", "-", stem).strip("-.") or "model"


def _from_weights(bundle: Bundle, left_out: dict[str, str]) -> list[Plate]:
    """What the weights alone show."""
    plates = []
    try:
        filters: Filters = filter_components(bundle.model)
        plates.append(filter_plate(filters))
    except UserError as error:
        left_out["filters"] = str(error)
    try:
        similarity: Similarity = position_similarity(bundle.model)
        plates.append(position_plate(similarity, bundle.config.position_tables))
    except UserError as error:
        left_out["position similarity"] = str(error)
    return plates


def _survey(
    bundle: Bundle,
    images: Sequence[tuple[str, ImageSource]],
    console: Console,
    *,
    strict: bool,
    workers: int,
    max_pixels: int,
) -> tuple[Surveyed, list[tuple[str, str]]]:
    """The model over the images that can be used, `BATCH` at a time, and the others with the reason."""
    record = bundle.require_preprocess()
    engine = EagerEngine(bundle.model)
    survey = Survey(engine.model)
    skipped: list[tuple[str, str]] = []
    group: list[torch.Tensor] = []
    inputs = read_inputs([source for _, source in images], record, workers=workers, max_pixels=max_pixels)
    for (name, _), image in zip(images, console.track(inputs, len(images), "looking"), strict=True):
        if isinstance(image, ImageError):
            if strict:
                raise UserError(f"{name}: {image} (--strict)")
            skipped.append((name, str(image)))
            console.warn(f"skipped {name}: {image}")
            continue
        group.append(image)
        if len(group) == BATCH:
            survey.add(torch.stack(group).to(engine.device))
            group = []
    if group:
        survey.add(torch.stack(group).to(engine.device))
    if not survey.images:
        raise UserError(f"none of the {len(images)} images can be used; the first: {': '.join(skipped[0])}.")
    return survey.result(), skipped


def _facts(
    bundle: Bundle, name: str, plates: Sequence[Plate], looked: Mapping[str, Any] | None, left_out: Mapping[str, str]
) -> dict[str, Any]:
    c = bundle.config
    over = f"{looked['used']:,} images of {looked['data']}" if looked else "its weights alone, no images"
    return {
        "format": "vitkit-analyze",
        "format_version": 1,
        "title": f"{name}: what is inside",
        "subtitle": f"{describe_model(bundle)}; {over}",
        "model": {
            "name": name, "source": bundle.source, "depth": c.depth, "num_heads": c.num_heads, "embed_dim": c.embed_dim,
            "image_size": list(c.image_size), "grid": list(c.grid), "patch_pixels": list(patch_pixels(c)),
            "prefix_tokens": c.prefix_tokens, "position": c.position, "position_at": c.position_at, "pool": c.pool,
        },
        "images": looked,
        "findings": [{"part": p.part, "text": p.finding.text, "holds": p.finding.holds} for p in plates],
        "left_out": [{"part": part, "reason": reason} for part, reason in left_out.items()],
        "figures": [f"{p.stem}{suffix}" for p in plates for suffix in (".svg", ".png")],
        **{p.key: p.numbers for p in plates},
        "versions": versions(),
    }  # fmt: skip
