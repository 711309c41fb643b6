"""Sin-cos tables and the named resampling rules (VIT_SPEC 1.3 and 3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vitkit.config import UserError
from vitkit.models.positions import (
    POSITION_RULES,
    join_axes,
    relative_index,
    relative_rows,
    resample_axis,
    resample_patches,
    resample_positions,
    sincos2d,
)


def test_sincos_values_of_the_reference() -> None:
    table = sincos2d((2, 3), 8)[0]
    expected = [0.909297, 0.0002, -0.416147, 1.0, 0.841471, 0.0001, 0.540302, 1.0]  # token (y=1, x=2)
    torch.testing.assert_close(table[5], torch.tensor(expected), atol=1e-6, rtol=0)
    large = sincos2d((14, 14), 384)[0]
    torch.testing.assert_close(large[17, :4], torch.tensor([0.14112, 0.406656, 0.621281, 0.782528]), atol=1e-6, rtol=0)
    assert large.double().sum().item() == pytest.approx(34742.763, abs=0.01)
    with pytest.raises(UserError, match="multiple of 4"):
        sincos2d((2, 2), 6)


def test_align_corners_is_linear_between_the_same_corners() -> None:
    ramp = torch.arange(3.0).reshape(1, 1, 3).expand(1, 2, 3).reshape(1, 6, 1)  # value = column on a 2 x 3 grid
    out = resample_positions(ramp, (2, 3), (2, 5), 0, "bilinear_align_corners").reshape(2, 5)
    torch.testing.assert_close(out[0], torch.tensor([0, 0.5, 1, 1.5, 2]))  # i * (3 - 1) / (5 - 1)


def test_half_pixel_bilinear_by_hand() -> None:
    ramp = torch.tensor([0.0, 1.0]).reshape(1, 2, 1)
    out = resample_positions(ramp, (1, 2), (1, 4), 0, "bilinear").flatten()
    torch.testing.assert_close(out, torch.tensor([0.0, 0.25, 0.75, 1.0]))  # centres at (i + 0.5) / 2 - 0.5, clamped


def test_antialiased_bicubic_differs_when_shrinking_and_the_rules_differ() -> None:
    table = torch.randn(1, 1 + 14 * 14, 4, generator=torch.Generator().manual_seed(0))
    outs = [resample_positions(table, (14, 14), (7, 10), 1, rule) for rule in POSITION_RULES]
    assert all(out.shape == (1, 71, 4) for out in outs)
    for out in outs:
        assert torch.equal(out[:, :1], table[:, :1])  # the prefix row is kept
    assert all((outs[a] - outs[b]).abs().max() > 0.1 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_the_same_grid_is_left_alone_and_constants_stay_constant() -> None:
    table = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(0))
    for rule in POSITION_RULES:
        assert resample_positions(table, (3, 4), (3, 4), 0, rule) is table
        flat = resample_positions(torch.full((1, 12, 4), 2.5), (3, 4), (9, 5), 0, rule)
        torch.testing.assert_close(flat, torch.full((1, 45, 4), 2.5))


def test_no_guess_about_prefix_tokens_and_rules() -> None:
    table = torch.zeros(1, 196, 4)  # could be 14 x 14, or a prefix and something else
    with pytest.raises(UserError, match="196 rows is not 1 prefix tokens"):
        resample_positions(table, (14, 14), (7, 7), 1, "bilinear")
    with pytest.raises(UserError, match="Did you mean 'bilinear'"):
        resample_positions(table, (14, 14), (7, 7), 0, "bilinea")


def cubic(t: float, a: float = -0.75) -> float:
    """Keys' kernel with the parameter that PyTorch uses."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def triangle(t: float) -> float:
    return max(0.0, 1 - abs(t))


def axis_matrix(
    old: int, new: int, kernel: Callable[[float], float], reach: int, offset: float = 0.0, antialias: bool = False
) -> np.ndarray:
    """(new, old) weights of one axis, half-pixel centres.

    Without antialias a point beyond the edge counts for the pixel at the edge; with it the kernel is as wide as the step where
    that is larger, points beyond the edge do not count, and weights are made to sum to 1.
    """
    step = old / (new + offset)
    width = max(step, 1.0) if antialias else 1.0
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * step - 0.5
        span = math.ceil(reach * width)
        for j in range(math.floor(centre) - span, math.floor(centre) + span + 1):
            weight = kernel((j - centre) / width)
            if not antialias:
                matrix[i, min(max(j, 0), old - 1)] += weight
            elif 0 <= j < old:
                matrix[i, j] += weight
    return matrix / matrix.sum(axis=1, keepdims=True) if antialias else matrix


RULES_BY_HAND = {
    "bilinear": {"kernel": triangle, "reach": 1},
    "bilinear_antialias": {"kernel": triangle, "reach": 1, "antialias": True},
    "bicubic": {"kernel": cubic, "reach": 2},
    # DINOv2's interpolate_pos_encoding: scale_factor = (new + 0.1) / old, which PyTorch also uses for the coordinates
    "bicubic_offset": {"kernel": cubic, "reach": 2, "offset": 0.1},
}


@pytest.mark.parametrize(
    ("old", "new"), [((7, 7), (9, 12)), ((14, 14), (7, 10)), ((5, 8), (16, 3)), ((37, 37), (16, 24))]
)
@pytest.mark.parametrize("rule", RULES_BY_HAND)
def test_rules_against_their_formulas(rule: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    table = torch.randn(1, 2 + old[0] * old[1], 6, generator=torch.Generator().manual_seed(0))
    rows, columns = (axis_matrix(o, n, **RULES_BY_HAND[rule]) for o, n in zip(old, new, strict=True))
    grid = table[0, 2:].double().numpy().reshape(*old, 6)
    expected = np.einsum("ia,jb,abc->ijc", rows, columns, grid).reshape(-1, 6)
    out = resample_positions(table, old, new, 2, rule)
    np.testing.assert_allclose(out[0, 2:].numpy(), expected, atol=5e-5)  # coordinates are in single precision
    assert torch.equal(out[:, :2], table[:, :2])


def test_the_offset_of_dino_is_not_plain_bicubic() -> None:
    table = torch.randn(1, 37 * 37, 4, generator=torch.Generator().manual_seed(0))
    plain, shifted = (resample_positions(table, (37, 37), (16, 16), 0, rule) for rule in ("bicubic", "bicubic_offset"))
    assert (plain - shifted).abs().max() > 0.05
    for size in range(1, 80):  # the offset never rounds to another size
        assert resample_positions(table, (37, 37), (size, 80 - size), 0, "bicubic_offset").shape[1] == size * (
            80 - size
        )


def test_a_table_of_half_precision_stays_so_and_is_resampled_in_single() -> None:
    table = torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(0))
    out = resample_positions(table.bfloat16(), (4, 4), (6, 6), 0, "bicubic")
    assert out.dtype == torch.bfloat16
    expected = resample_positions(table.bfloat16().float(), (4, 4), (6, 6), 0, "bicubic")
    assert torch.equal(out, expected.bfloat16())


@pytest.mark.parametrize("rule", POSITION_RULES)
def test_an_axis_of_2d_positions_is_resampled_as_a_grid_that_is_alike_across(rule: str) -> None:
    axis = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0))
    grid = axis.repeat(1, 5, 1)  # 5 equal rows
    wide = resample_positions(grid, (5, 7), (5, 11), 0, rule).reshape(5, 11, 4)
    torch.testing.assert_close(resample_axis(axis, 11, rule)[0], wide[2], atol=2e-6, rtol=0)
    assert resample_axis(axis, 7, rule) is axis


def test_joined_axes_have_the_column_s_half_first() -> None:
    columns, rows = torch.arange(6.0).reshape(1, 3, 2), 10 + torch.arange(4.0).reshape(1, 2, 2)
    table = join_axes(columns, rows)
    assert table.shape == (1, 6, 4)
    assert table[0, 0].tolist() == [0, 1, 10, 11]
    assert table[0, 5].tolist() == [4, 5, 12, 13]  # second row, third column
    assert table[0, 3].tolist() == [0, 1, 12, 13]


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_relative_rows_are_offsets_in_raster_order_then_those_of_the_prefix(prefix: int) -> None:
    h, w = 2, 3
    index = relative_index((h, w), prefix)
    assert index.shape == (prefix + 6, prefix + 6)
    offsets = {index[prefix + q, prefix + k].item() - 5 for q in range(6) for k in range(6)}
    assert offsets == set(range(-5, 6))
    for q in range(6):
        for k in range(6):
            assert index[prefix + q, prefix + k] == q - k + 5
    assert (index[:prefix, prefix:] == 11).all()
    assert (index[prefix:, :prefix] == 12).all()
    assert (index[:prefix, :prefix] == 13).all()
    assert relative_rows((h, w)) == 14


@pytest.mark.parametrize("rule", POSITION_RULES)
def test_several_tables_are_resampled_each_as_if_alone(rule: str) -> None:
    tables = torch.randn(3, 2 + 12, 8, generator=torch.Generator().manual_seed(0))
    together = resample_positions(tables, (3, 4), (5, 3), 2, rule)
    assert together.shape == (3, 2 + 15, 8)
    for number in range(3):
        alone = resample_positions(tables[number : number + 1], (3, 4), (5, 3), 2, rule)
        torch.testing.assert_close(together[number], alone[0], atol=1e-6, rtol=0)
    axes = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    together = resample_axis(axes, 7, rule)
    for number in range(3):
        torch.testing.assert_close(
            together[number], resample_axis(axes[number : number + 1], 7, rule)[0], atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("new", [(8, 8), (13, 7), (32, 9), (4, 6)])
def test_resampled_kernels_keep_the_tokens_of_enlarged_patches(new: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    kernel = torch.randn(5, 3, 4, 6, generator=rng)
    patches = torch.randn(7, 3, 4, 6, generator=rng)
    tokens = F.conv2d(patches, kernel).flatten(1)
    enlarged = F.interpolate(patches, size=new, mode="bilinear", align_corners=False)
    resampled = resample_patches(kernel, new)
    assert resampled.shape == (5, 3, *new)
    torch.testing.assert_close(F.conv2d(enlarged, resampled).flatten(1), tokens, atol=1e-4, rtol=1e-5)


def test_a_shrunk_kernel_is_the_least_squares_solution_and_the_same_size_is_left_alone() -> None:
    kernel = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert resample_patches(kernel, (8, 8)) is kernel
    rows, columns = (axis_matrix(8, new, triangle, 1) for new in (3, 4))  # without antialias, as the official code
    resize = np.kron(rows, columns)  # (12, 64)
    solution, *_ = np.linalg.lstsq(resize.T, kernel.flatten(2).numpy().reshape(6, 64).T, rcond=None)
    np.testing.assert_allclose(resample_patches(kernel, (3, 4)).reshape(6, 12).numpy(), solution.T, atol=1e-10)
