"""The pictures of what is inside a model: each function draws numbers that others computed on axes that `draw.drawing` gives.

with drawing(4, 3.4) as page:
    draw_distance(page.one, distance, uniform)
    page.save(Path("attention_distance"))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vitkit.analysis.draw import SEQUENTIAL, line_style
from vitkit.analysis.filters import Filters, scaled_tiles
from vitkit.analysis.positions import Similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "draw_distance",
    "draw_entropy",
    "draw_filters",
    "draw_layers",
    "draw_outliers",
    "draw_similarity",
    "draw_token_norms",
    "filter_mosaic",
    "similarity_mosaic",
]

Array = npt.NDArray[np.float64]

ACROSS = 7  # filters in a row of the picture, as in the paper
MOST_TICKS = 13


def filter_mosaic(filters: Filters) -> Array:
    """All components as one picture (height, width, 3), in [0, 1], white between them, in rows of seven.

    Of one channel they are gray. Of other than one or three channels each is a row of gray pictures, one for each channel, and
    there are fewer in a row.
    """
    tiles = scaled_tiles(filters.components)  # (n, p, q, C)
    n, p, q, C = tiles.shape
    if C not in (1, 3):
        tiles = tiles.transpose(0, 1, 3, 2).reshape(n, p, C * q, 1)
    columns = ACROSS if C in (1, 3) else max(1, ACROSS // C)
    gap = max(1, p // 16)
    return _mosaic(np.broadcast_to(tiles, (*tiles.shape[:3], 3)), columns, gap, 1.0)


def similarity_mosaic(similarity: Similarity) -> Array:
    """The grid of grids as one picture (height, width) of similarities, nan between the maps."""
    r, c, h, w = similarity.values.shape
    return _mosaic(similarity.values.reshape(r * c, h, w), c, max(1, max(h, w) // 14), np.nan)


def _mosaic(tiles: Array, columns: int, gap: int, between: float) -> Array:
    """Tiles (n, p, q, ...) in rows of ``columns``, with ``gap`` pixels of a value between them."""
    n, p, q = tiles.shape[:3]
    columns = min(n, columns)
    rows = -(-n // columns)
    picture = np.full((rows * (p + gap) - gap, columns * (q + gap) - gap, *tiles.shape[3:]), between)
    for number, tile in enumerate(tiles):
        top, left = (number // columns) * (p + gap), (number % columns) * (q + gap)
        picture[top : top + p, left : left + q] = tile
    return picture


def draw_filters(axes: Axes, filters: Filters) -> None:
    """Figure 7 (left): the principal components of a patch embedding's filters, the first at the top left."""
    axes.imshow(filter_mosaic(filters))
    _bare(axes)
    axes.set_xticks([])
    axes.set_yticks([])
    n, C = filters.components.shape[0], filters.components.shape[3]
    axes.set_title(f"{'RGB embedding' if C == 3 else 'Embedding'} filters\n(first {n} principal components)")


def draw_similarity(axes: Axes, similarity: Similarity) -> None:
    """Figures 7 (centre) and 10: at each patch's place the map of how alike its position embedding is to those of all patches.

    Rows and columns of patches are numbered from 1, as in the paper.
    """
    h, w = similarity.values.shape[2:]
    picture = similarity_mosaic(similarity)
    shown = axes.imshow(np.ma.masked_invalid(picture), vmin=-1, vmax=1, cmap=SEQUENTIAL)
    gap = max(1, max(h, w) // 14)
    _number(axes.xaxis, [i * (w + gap) + (w - 1) / 2 for i in range(len(similarity.columns))], similarity.columns, 1)
    _number(axes.yaxis, [i * (h + gap) + (h - 1) / 2 for i in range(len(similarity.rows))], similarity.rows, 1)
    _bare(axes)
    axes.set_xlabel("patch column")
    axes.set_ylabel("patch row")
    axes.set_title("Position embedding similarity")
    _bar(axes, shown, "cosine similarity")


def draw_distance(axes: Axes, distance: Array, uniform: float | None = None) -> None:
    """Figures 7 (right) and 11: mean attention distance (L, K) in pixels, a dot for each head, a line through the layers' means.

    ``uniform`` is the distance of attention that is the same everywhere.
    """
    _heads(axes, distance, uniform)
    axes.set_ylabel("mean attention distance (pixels)")
    axes.set_title("Mean attention distance")


def draw_entropy(axes: Axes, entropy: Array) -> None:
    """Attention entropy (L, K) as a share of that of uniform attention, drawn as `draw_distance`."""
    _heads(axes, entropy, 1.0)
    axes.set_ylabel("attention entropy (of uniform attention's)")
    axes.set_title("Attention entropy")


def _heads(axes: Axes, values: Array, uniform: float | None) -> None:
    L, K = values.shape
    layers = np.arange(L)
    axes.scatter(np.repeat(layers, K), values.ravel(), s=18, color="#5b6fa8", edgecolors="white", linewidths=0.4,
                 label="one head", zorder=3)  # fmt: skip
    axes.plot(layers, values.mean(axis=1), label="mean of the heads", **{**line_style(0), "marker": ""}, zorder=2)
    if uniform is not None:
        axes.axhline(uniform, color="#888888", linestyle=(0, (1, 2)), linewidth=1.2, label="uniform attention")
    axes.set_ylim(0, max(float(values.max()), uniform or 0.0) * 1.06 or 1)
    _number(axes.xaxis, list(layers), range(L), 0)
    axes.set_xlabel("network depth (layer)")
    axes.legend(loc="lower right")


def draw_layers(axes: Axes, cka: Array) -> None:
    """Linear CKA (L + 1, L + 1) of what is between the layers: 0 is what enters the first, i what block i - 1 gives."""
    shown = axes.imshow(np.ma.masked_invalid(cka), vmin=0, vmax=1, cmap=SEQUENTIAL, origin="lower")
    for axis in (axes.xaxis, axes.yaxis):
        _number(axis, list(range(len(cka))), range(len(cka)), 0)
    _bare(axes)
    axes.set_xlabel("blocks passed")
    axes.set_ylabel("blocks passed")
    axes.set_title("Similarity of representations")
    _bar(axes, shown, "linear CKA")


def draw_token_norms(axes: Axes, lines: Sequence[tuple[str, Array]]) -> None:
    """Norms of tokens after each layer, one line (L + 1,) for each kind of token or quantile, on a logarithmic axis."""
    for index, (label, values) in enumerate(lines):
        axes.plot(np.arange(len(values)), values, label=label, **line_style(index))
    if any((values > 0).any() for _, values in lines):  # a model of zeros has none, and no logarithms
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        axes.minorticks_off()
        places = _decimal_places(*axes.get_ylim())
        axes.set_yticks(places, [f"{place:g}" for place in places])
    _number(axes.xaxis, list(range(len(lines[0][1]))), range(len(lines[0][1])), 0)
    axes.set_xlabel("blocks passed")
    axes.set_ylabel("norm of a token")
    axes.set_title("Token norms")
    axes.legend(loc="upper center", ncol=2)


def _decimal_places(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two limits; of more than nine the powers alone."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    found = [times * power for power in powers for times in (1, 2, 5) if low <= times * power <= high]
    return found if len(found) <= 9 else [power for power in powers if low <= power <= high]


def draw_outliers(axes: Axes, shares: Array) -> None:
    """Share (L + 1,) of patch tokens whose norm is an outlier of its image, in percent."""
    axes.bar(np.arange(len(shares)), 100 * shares, color="#5b6fa8", edgecolor="#00204d", linewidth=0.6)
    axes.set_ylim(0, max(1.0, 110 * float(shares.max())))
    if not shares.any():
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color="#555555")
    _number(axes.xaxis, list(range(len(shares))), range(len(shares)), 0)
    axes.set_xlabel("blocks passed")
    axes.set_ylabel("outliers among patch tokens (%)")
    axes.set_title("Outlier tokens")


def _number(axis: Any, places: Sequence[float], names: Sequence[int], first: int) -> None:
    """Ticks at places, each called by its number, counted from ``first``; of many only some."""
    step = -(-len(places) // MOST_TICKS)
    axis.set_ticks(list(places[::step]), [str(name + first) for name in names[::step]])


def _bare(axes: Axes) -> None:
    """No frame and no grid around a picture."""
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_facecolor("white")
    for side in axes.spines.values():
        side.set_visible(False)


def _bar(axes: Axes, shown: Any, label: str) -> None:
    figure = axes.figure
    assert figure is not None
    bar = figure.colorbar(shown, ax=axes, shrink=0.82, pad=0.03, label=label)
    bar.outline.set_visible(False)
