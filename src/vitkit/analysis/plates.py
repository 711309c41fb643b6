"""The pictures of `vit analyze`, each with its numbers, what they say, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vitkit.analysis.draw import Drawing, drawing
from vitkit.analysis.figures import (
    draw_distance,
    draw_entropy,
    draw_filters,
    draw_layers,
    draw_outliers,
    draw_similarity,
    draw_token_norms,
)
from vitkit.analysis.filters import Filters
from vitkit.analysis.findings import (
    Finding,
    distance_finding,
    entropy_finding,
    filter_finding,
    layer_finding,
    norm_finding,
    position_finding,
)
from vitkit.analysis.positions import Similarity, position_structure
from vitkit.analysis.survey import Surveyed
from vitkit.analysis.tokens import DEVIATIONS, TIMES
from vitkit.models.vit import ViTConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Plate", "distance_plate", "draw_plates", "entropy_plate", "filter_plate", "layer_plate", "norm_lines",
           "position_plate", "survey_plates", "token_plate"]  # fmt: skip

DIGITS = 5  # significant ones of numbers that are written

Array = npt.NDArray[np.float64]


class Plate(NamedTuple):
    """One picture, before it is drawn."""

    part: str  # what it shows
    stem: str  # of its files
    key: str  # of its numbers in analysis.json
    numbers: dict[str, Any]
    finding: Finding
    how: str  # how to read it, and how it was computed
    size: tuple[float, float]  # (width, height) in inches
    draws: tuple[Callable[[Axes], None], ...]  # one for each of its axes, side by side


def draw_plates(plates: Sequence[Plate], folder: Path) -> dict[str, Path]:
    """Write ``folder/STEM.svg`` and ``.png`` of each; the SVG files by stem.

    Raises:
        UserError: matplotlib is absent, or a file cannot be written.
    """
    written = {}
    for plate in plates:
        page: Drawing
        with drawing(*plate.size, columns=len(plate.draws)) as page:
            for axes, draw in zip(page.axes.flat, plate.draws, strict=True):
                draw(axes)
            written[plate.stem], _ = page.save(folder / plate.stem)
    return written


def filter_plate(filters: Filters) -> Plate:
    """Figure 7, left."""
    n, p, q, C = filters.components.shape
    colours = {1: "Each is scaled to gray from its least to its greatest entry.",
               3: "Each is scaled from its least to its greatest entry of red, green and blue."}.get(
        C, f"Images have {C} channels, which are no colours: each component is a row of {C} gray pictures, one for each channel."
    )  # fmt: skip
    return Plate(
        "filters",
        "filters",
        "filters",
        {
            "components": _rounded(filters.components),
            "explained": _rounded(filters.explained),
            "frequency": _rounded(filters.frequency),
            "noise_frequency": _rounded(np.array(filters.noise)),
        },
        filter_finding(filters),
        f"The first {n} principal components of the patch embedding's filters ({p} x {q} pixels, less the mean filter), from the "
        f"top left in rows. {colours}",
        (4.6, 3.0) if C in (1, 3) else (4.6, 5.5),
        (lambda axes: draw_filters(axes, filters),),
    )


def position_plate(similarity: Similarity, tables: int = 1) -> Plate:
    """Figures 7, centre, and 10."""
    h, w = similarity.values.shape[2:]
    structure = position_structure(similarity)
    first = f" Of the {tables} tables, one before each block, the first." if tables > 1 else ""
    every = "" if len(similarity.rows) == h and len(similarity.columns) == w else (
        f" Of the {h} x {w} patches those of {len(similarity.rows)} rows and {len(similarity.columns)} columns have a map."
    )  # fmt: skip
    return Plate(
        "position similarity",
        "positions",
        "positions",
        {
            "rows": list(similarity.rows),
            "columns": list(similarity.columns),
            "similarity": _rounded(similarity.values),
            "nearness": structure.nearness,
            "row_excess": structure.rows,
            "column_excess": structure.columns,
        },
        position_finding(structure),
        "At the place of each patch, a map of the cosine similarity of its position embedding with those of all patches. "
        f"Embeddings of class token and registers are left out.{first}{every}",
        (4.8, 4.0),
        (lambda axes: draw_similarity(axes, similarity),),
    )


def distance_plate(found: Surveyed, config: ViTConfig) -> Plate:
    """Figures 7, right, and 11."""
    height, width = config.image_size
    return Plate(
        "attention distance",
        "attention_distance",
        "attention_distance",
        {
            "pixels": _rounded(found.distance),
            "renormalised_pixels": _rounded(found.renormalised),
            "uniform_pixels": found.uniform_distance,
        },
        distance_finding(found),
        "How far patches look: the distance to each patch times its weight, mean over all patches and "
        f"{found.images} images of {height} x {width} pixels. Weights of class token and registers are dropped and the others left "
        "as they are, as in published practice; the data also hold it with weights made to sum to 1.",
        (4.8, 3.4),
        (lambda axes: draw_distance(axes, found.distance, found.uniform_distance),),
    )


def entropy_plate(found: Surveyed) -> Plate:
    """How spread attention is."""
    shares = found.entropy / max(found.uniform_entropy, 1e-12)
    return Plate(
        "attention entropy",
        "attention_entropy",
        "attention_entropy",
        {"nats": _rounded(found.entropy), "share": _rounded(shares), "uniform_nats": found.uniform_entropy},
        entropy_finding(found),
        "How spread attention is: entropy of each token's weights, mean over all tokens and images, as a share of that of "
        "uniform attention. 0 looks at one token.",
        (4.8, 3.4),
        (lambda axes: draw_entropy(axes, shares),),
    )


def layer_plate(cka: Array, images: int) -> Plate:
    """How alike the layers' representations are."""
    return Plate(
        "similarity of layers",
        "layers",
        "layers",
        {"cka": _rounded(cka), "images": images, "estimator": "linear CKA, unbiased, summed over minibatches"},
        layer_finding(cka),
        "Linear centred kernel alignment of what enters the first block (0) and what each block gives, all tokens of an "
        f"image as one vector; unbiased, summed over minibatches of {images} images. 1: the same but for rotation and scale.",
        (4.6, 3.8),
        (lambda axes: draw_layers(axes, cka),),
    )


def token_plate(found: Surveyed, config: ViTConfig) -> Plate:
    """Norms of tokens, and those that stand out."""
    norms = found.norms
    return Plate(
        "token norms",
        "tokens",
        "tokens",
        {
            "median": _rounded(norms.median),
            "quantile_95": _rounded(norms.high),
            "greatest": _rounded(norms.most),
            "prefix": _rounded(norms.prefix),
            "outliers": _rounded(norms.outliers),
            "images_with_outliers": _rounded(norms.images),
        },
        norm_finding(found),
        "Euclidean norms of tokens between the blocks, before any final norm: of an image's patch tokens the median and the "
        f"95 % quantile, means over images, and the greatest of all. An outlier is at least {TIMES:g} times its image's median "
        f"and {DEVIATIONS:g} robust standard deviations (of the median absolute deviation) above it.",
        (8.4, 3.4),
        (
            lambda axes: draw_token_norms(axes, norm_lines(found, config)),
            lambda axes: draw_outliers(axes, norms.outliers),
        ),
    )


def survey_plates(found: Surveyed, config: ViTConfig) -> list[Plate]:
    """What `Survey` found over images; without the similarity of layers where there were too few."""
    plates = [distance_plate(found, config), entropy_plate(found)]
    if found.cka is not None:
        plates.append(layer_plate(found.cka, found.cka_images))
    return [*plates, token_plate(found, config)]


def norm_lines(found: Surveyed, config: ViTConfig) -> list[tuple[str, Array]]:
    """Label and norms (L + 1,) of each line of the picture of token norms."""
    norms, column = found.norms, 0
    lines = [
        ("patches, greatest", norms.most),
        ("patches, 95 % quantile", norms.high),
        ("patches, median", norms.median),
    ]
    if config.cls_token:
        lines.append(("class token", norms.prefix[:, 0]))
        column = 1
    if config.distilled:
        lines.append(("distillation token", norms.prefix[:, column]))
        column += 1
    if norms.prefix.shape[1] > column:
        lines.append(("registers, mean", norms.prefix[:, column:].mean(axis=1)))
    return lines


def _rounded(values: Array) -> Any:
    """Nested lists of numbers with as many digits as mean something; None for those that do not exist."""
    if values.ndim:
        return [_rounded(part) for part in values]
    return None if not np.isfinite(values) else float(f"{float(values):.{DIGITS}g}")
