"""What spoke for the most confident wrong answers: a map of each, for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitkit.analysis.flops import forward_macs
from vitkit.analysis.maps import ask, draw_maps
from vitkit.analysis.overlay import jpeg, open_view, png
from vitkit.bundle import Bundle
from vitkit.config import write_file
from vitkit.console import Console
from vitkit.data.filenames import file_stems
from vitkit.data.pixels import ImageError
from vitkit.data.thumbnails import data_address
from vitkit.evals.scoring import Scored
from vitkit.models.vit import ViTConfig

__all__ = ["FORWARDS_OF_MAP", "errors_explained", "explain_errors"]

FOLDER = "explain"  # in the run
MOST, LEAST = 12, 3  # errors that get a map
MACS = 4e11  # multiply-adds that all maps may take: a few seconds of two cores
FORWARDS_OF_MAP = 8  # forward passes that a map takes as long as, decoding and drawing among it
SIDE, THUMBNAIL = 800, 192  # pixels of the file and of the page's picture


def errors_explained(config: ViTConfig) -> int:
    """How many errors get a map: fewer of a large model. A function of the model alone, so that equal runs report alike."""
    return max(
        LEAST, min(MOST, int(MACS / (4 * forward_macs(config))))
    )  # a backward is two forwards, weights are another


def explain_errors(
    run: Path,
    bundle: Bundle,
    gallery: Mapping[str, Sequence[dict[str, Any]]],
    head: Scored,
    max_pixels: int,
    console: Console,
) -> dict[str, str]:
    """Write maps of the first errors of the gallery to ``run/explain/`` and put their names into its entries, as ``map``.

    Returns image name -> small picture as a data: address. An image that cannot be read any more is left without, and told.

    Raises:
        UserError: a file cannot be written.
    """
    errors = gallery["errors"][: errors_explained(bundle.config)]
    sources = {sample.name: sample.source for sample in head.samples}
    classes = {bundle.class_name(index): index for index in range(bundle.config.num_classes)}
    asked = ask(bundle.model, "gradient") if errors else None
    pictures: dict[str, str] = {}
    stems = file_stems([entry["name"] for entry in errors])
    for entry, stem in zip(errors, console.track(stems, len(stems), "explaining errors"), strict=True):
        assert asked is not None
        name = entry["name"]
        try:
            view = open_view(
                sources[name], bundle.require_preprocess(), bundle.config, max_pixels=max_pixels, most=SIDE
            )
        except ImageError as error:
            console.warn(f"no map of {name}: {error}")
            continue
        (found,) = draw_maps(bundle.model, view.pixels, asked, [classes[entry["prediction"]]])
        picture = view.over(found.values)
        write_file(run / FOLDER / f"{stem}.png", png(picture))
        entry["map"] = f"{FOLDER}/{stem}.png"
        pictures[name] = data_address(jpeg(picture, THUMBNAIL))
    return pictures
