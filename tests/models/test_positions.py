"""Sin-cos tables and the named resampling rules (VIT_SPEC 1.3 and 3)."""

from __future__ import annotations

import pytest
import torch

from vitkit.config import UserError
from vitkit.models.positions import POSITION_RULES, resample_positions, sincos2d


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
