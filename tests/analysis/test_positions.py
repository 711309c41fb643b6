"""Position similarity against loops, for every kind of position; its structure on tables where it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from analysis.unfused import drawn
from vitkit.analysis.positions import Similarity, position_similarity, position_structure
from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer


def patch_vectors(model: VisionTransformer, layer: int) -> list[list[torch.Tensor]]:
    """What is added to the patch in each row and column, read off the parameters one by one."""
    config = model.config
    h, w = config.grid
    rows = []
    for y in range(h):
        row = []
        for x in range(w):
            if config.position == "learned":
                row.append(model.pos_embed[layer, config.position_prefix + y * w + x])
            elif config.position == "learned2d":
                row.append(torch.cat([model.pos_x[layer, x], model.pos_y[layer, y]]))
            else:
                row.append(model.pos_fixed[0, y * w + x])
        rows.append([vector.detach() for vector in row])
    return rows


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"registers": 3},
        {"registers": 2, "prefix_positions": "cls"},
        {"registers": 2, "prefix_positions": "none"},
        {"cls_token": False, "pool": "mean"},
        {"position": "learned2d"},
        {"position": "sincos2d"},
        {"position_at": "shared"},
        {"image_size": (32, 80)},
    ],
    ids=str,
)
def test_every_kind_against_a_loop(changes: dict[str, object]) -> None:
    model = drawn(**changes)
    found = position_similarity(model)
    h, w = model.config.grid
    vectors = patch_vectors(model, 0)
    assert found.values.shape == (h, w, h, w)
    assert (found.rows, found.columns) == (tuple(range(h)), tuple(range(w)))
    for y, x, v, u in np.ndindex(h, w, h, w):
        a, b = vectors[y][x].double(), vectors[v][u].double()
        assert found.values[y, x, v, u] == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-9)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_a_table_for_every_layer(layer: int) -> None:
    model = drawn(position_at="layers")
    found = position_similarity(model, layer)
    vectors = patch_vectors(model, layer)
    a, b = vectors[1][2], vectors[3][0]
    assert found.values[1, 2, 3, 0] == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-6)


def test_what_has_no_table_says_so() -> None:
    with pytest.raises(UserError, match="no position embeddings"):
        position_similarity(drawn(position="none"))
    with pytest.raises(UserError, match=r"relative.*a vector for each offset"):
        position_similarity(drawn(position="relative"))
    with pytest.raises(UserError, match="no table of positions 1: the model has 1"):
        position_similarity(drawn(), 1)


def test_of_a_large_grid_some_places_are_compared_with_all() -> None:
    model = drawn(position="sincos2d", patch_size=(1, 1), image_size=(50, 10))
    found = position_similarity(model)
    assert found.values.shape == (17, 10, 50, 10)
    assert found.rows == tuple(range(0, 50, 3))
    vectors = patch_vectors(model, 0)
    a, b = vectors[6][4], vectors[49][9]
    assert found.values[2, 4, 49, 9] == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-6)


def test_an_embedding_of_zeros_is_like_nothing() -> None:
    model = drawn()
    with torch.no_grad():
        model.pos_embed[0, 1 + 5] = 0
    found = position_similarity(model).values.reshape(16, 16)
    unknown = np.zeros((16, 16), dtype=bool)
    unknown[5] = unknown[:, 5] = True
    assert (np.isnan(found) == unknown).all()
    structure = position_structure(position_similarity(model))
    assert structure.nearness is not None
    assert math.isfinite(structure.nearness)


def naive_excess(values: np.ndarray, along: str) -> float:
    """Same as `Structure.rows` or `.columns`, over lists of pairs."""
    h, w = values.shape[2:]
    ones: dict[float, list[float]] = {}
    others: dict[float, list[float]] = {}
    for y, x, v, u in np.ndindex(h, w, h, w):
        in_row, in_column, length = y == v, x == u, math.hypot(y - v, x - u)
        if in_row != in_column and in_row == (along == "rows"):
            ones.setdefault(round(length, 9), []).append(values[y, x, v, u])
        elif not in_row and not in_column:
            others.setdefault(round(length, 9), []).append(values[y, x, v, u])
    total, count = 0.0, 0
    for length, found in ones.items():
        below = [each for each in others if each <= length]
        above = [each for each in others if each >= length]
        if not below or not above:
            continue
        low, high = max(below), min(above)
        part = (length - low) / (high - low) if high > low else 0
        total += len(found) * (np.mean(found) - (1 - part) * np.mean(others[low]) - part * np.mean(others[high]))
        count += len(found)
    return total / count


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_structure_against_a_loop(size: tuple[int, int]) -> None:
    similarity = position_similarity(drawn(image_size=size))
    found = position_structure(similarity)
    assert found.rows == pytest.approx(naive_excess(similarity.values, "rows"))
    assert found.columns == pytest.approx(naive_excess(similarity.values, "columns"))


def grid_of(function: object, h: int = 8, w: int = 8) -> Similarity:
    values = np.array(
        [[[[function(y, x, v, u) for u in range(w)] for v in range(h)] for x in range(w)] for y in range(h)]
    )  # type: ignore[operator]
    return Similarity(values.astype(float), tuple(range(h)), tuple(range(w)))


def test_structure_of_known_tables() -> None:
    radial = position_structure(grid_of(lambda y, x, v, u: -math.hypot(y - v, x - u)))
    assert radial.nearness == pytest.approx(1)
    assert (radial.rows, radial.columns) == pytest.approx((0, 0), abs=1e-9)
    lines = position_structure(grid_of(lambda y, x, v, u: 0.5 * (y == v)))
    assert lines.rows == pytest.approx(0.5)
    assert lines.columns == pytest.approx(0)
    even = position_structure(grid_of(lambda y, x, v, u: 1.0))
    assert even.nearness is None
    assert (even.rows, even.columns) == pytest.approx((0, 0))
    single = position_structure(grid_of(lambda y, x, v, u: 1.0, 1, 1))
    assert single == (None, None, None)
    strip = position_structure(grid_of(lambda y, x, v, u: -abs(x - u), 1, 6))
    assert strip.nearness == pytest.approx(1)
    assert strip.rows is None  # there is no patch of another row
