"""How alike the position embeddings of patches are.

Source: arXiv 2010.11929, section 4.5, figures 7 (centre) and 10.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer

__all__ = ["Similarity", "Structure", "position_similarity", "position_structure", "position_table"]

MOST_SHOWN = 24  # tiles a side: of a larger grid every second, third, ... row and column is compared with all patches
TOLERANCE = 1e-9

Array = npt.NDArray[np.float64]


class Similarity(NamedTuple):
    """Cosine similarity of the position embeddings of chosen patches with those of all."""

    values: Array  # (r, c, h, w): [i, j] is the map of the patch at rows[i], columns[j]; nan for an embedding of zeros
    rows: tuple[int, ...]  # r of 0..h-1
    columns: tuple[int, ...]  # c of 0..w-1


class Structure(NamedTuple):
    """What the paper reads off the figure, as numbers; None where the grid has no such pairs."""

    nearness: float | None  # correlation of similarity with nearness (minus distance in patches), -1 to 1
    rows: float | None  # similarity of two patches of one row less that of others at the same distance
    columns: float | None  # the same of one column


def position_table(model: VisionTransformer, layer: int = 0) -> Tensor:
    """The embedding that is added to each patch, (h*w, D), in float64; rows of prefix tokens are left out.

    ``layer`` matters where every block has a table of its own (``position_at="layers"``).

    Raises:
        UserError: the model adds none to its tokens; no such layer; embeddings that are not finite.
    """
    config = model.config
    if config.position == "none":
        raise UserError("this model has no position embeddings (position='none'), so that there is nothing to compare.")
    if config.position == "relative":
        raise UserError(
            "this model's positions are relative (position='relative'): a vector for each offset of two patches, in every "
            "attention, and no embedding for each patch that could be compared."
        )
    if not -config.position_tables <= layer < config.position_tables:
        raise UserError(
            f"there is no table of positions {layer}: the model has {config.position_tables}, numbered from 0."
        )
    with torch.no_grad():
        table = model.positions(layer % config.position_tables)[0, config.prefix_tokens :].cpu().double()
    if not bool(table.isfinite().all()):
        raise UserError("the position embeddings of this model are not all finite numbers: its weights are damaged.")
    return table


def position_similarity(model: VisionTransformer, layer: int = 0) -> Similarity:
    """Cosine of every patch's position embedding with those of all patches: a grid of grids.

    Works for learned (1-D and 2-D) and fixed embeddings. Of grids of more than 24 a side every second (third, ...) row and column
    is taken, beginning with the first, each compared with all.

    Raises:
        UserError: as `position_table`.
    """
    table = position_table(model, layer)
    h, w = model.config.grid
    rows, columns = (tuple(range(0, n, -(-n // MOST_SHOWN))) for n in (h, w))
    directions = F.normalize(table, dim=1).masked_fill(table.norm(dim=1, keepdim=True) == 0, float("nan"))
    taken = directions.reshape(h, w, -1)[list(rows)][:, list(columns)].flatten(0, 1)  # (r*c, D)
    values = (taken @ directions.T).reshape(len(rows), len(columns), h, w)
    return Similarity(values.clamp(-1, 1).numpy(), rows, columns)


def position_structure(similarity: Similarity) -> Structure:
    """How much similarity follows nearness, and rows and columns beyond that.

    Patches of one row are also nearer to each other than others are. So each of their distances is compared with pairs of
    neither one row nor one column: with the line between the means of the next shorter and the next longer distance that
    such pairs have. Neighbours have no such pairs and do not count.
    """
    values, rows, columns = similarity
    h, w = values.shape[2:]
    down = np.abs(np.subtract.outer(rows, np.arange(h)))[:, None, :, None]  # (r, 1, h, 1)
    across = np.abs(np.subtract.outer(columns, np.arange(w)))[None, :, None, :]  # (1, c, 1, w)
    down, across = (np.broadcast_to(n, values.shape) for n in (down, across))
    known = np.isfinite(values)
    distance = np.hypot(down, across)
    others = known & (distance > 0)
    nearness = None
    if others.any() and values[others].std() > TOLERANCE and distance[others].std() > TOLERANCE:
        nearness = float(np.corrcoef(values[others], -distance[others])[0, 1])
    squares = down**2 + across**2
    aslant = known & (down > 0) & (across > 0)
    in_row, in_column = known & (down == 0) & (across > 0), known & (across == 0) & (down > 0)
    return Structure(nearness, *(_excess(values, squares, ones, aslant) for ones in (in_row, in_column)))


def _excess(
    values: Array, squares: npt.NDArray[np.int_], ones: npt.NDArray[np.bool_], others: npt.NDArray[np.bool_]
) -> float | None:
    """Mean of ``ones`` less what ``others`` have at the same distance, of which the squares are given."""
    if not others.any():
        return None
    lengths, means, _ = _by_length(values[others], squares[others])
    own, own_means, counts = _by_length(values[ones], squares[ones])
    between = (own >= lengths[0]) & (own <= lengths[-1])
    if not between.any():
        return None
    difference = own_means[between] - np.interp(own[between], lengths, means)
    return float(np.average(difference, weights=counts[between]))


def _by_length(values: Array, squares: npt.NDArray[np.int_]) -> tuple[Array, Array, npt.NDArray[np.int_]]:
    """Distances in rising order, the mean of the values at each, and their number."""
    lengths, place, counts = np.unique(squares, return_inverse=True, return_counts=True)
    return np.sqrt(lengths), np.bincount(place, weights=values) / counts, counts
