"""Principal components of filters against the eigenvectors of their covariance, and against planted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.unfused import drawn
from vitkit.analysis.filters import filter_components, mean_frequency, scaled_tiles
from vitkit.config import UserError


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_components_are_the_eigenvectors_of_the_covariance(channels: int) -> None:
    model = drawn(patch_size=(4, 6), image_size=(16, 18), in_channels=channels)
    found = filter_components(model, 5)
    kernel = model.patch_embed.weight.detach().double().numpy()  # (D, C, p, q)
    rows = np.array([[filter_[:, y, x] for y in range(4) for x in range(6)] for filter_ in kernel]).reshape(
        len(kernel), -1
    )
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    assert found.components.shape == (5, 4, 6, channels)
    for number in range(5):
        expected = vectors[:, -1 - number]
        ours = found.components[number].ravel()
        assert abs(expected @ ours) == pytest.approx(1, abs=1e-9)
        assert ours[np.abs(ours).argmax()] > 0
    assert found.explained == pytest.approx((values[::-1] / values.sum())[:5])


def test_planted_basis_functions_come_back_in_the_order_of_their_variance() -> None:
    model = drawn(patch_size=(8, 8), image_size=(16, 16), embed_dim=64)
    wave = np.cos(np.pi * (np.arange(8) + 0.5) / 8)
    basis = np.stack([np.ones((8, 8)), np.outer(np.ones(8), wave), np.outer(wave, np.ones(8))])
    basis = np.repeat(basis[:, None], 3, axis=1)
    basis /= np.linalg.norm(basis.reshape(3, -1), axis=1)[:, None, None, None]
    weights = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 4)) + 1)[0]
    weights = np.linalg.qr(weights - weights.mean(axis=0))[0][:, :3] * [3, 2, 1]  # each of mean 0, uncorrelated
    with torch.no_grad():
        model.patch_embed.weight.copy_(torch.from_numpy(np.einsum("di,icyx->dcyx", weights, basis)))
    found = filter_components(model)
    assert len(found.components) == 3  # no more than the filters span
    for ours, planted in zip(found.components, basis, strict=True):
        assert abs((ours.transpose(2, 0, 1) * planted).sum()) == pytest.approx(1, abs=1e-6)
    assert found.explained == pytest.approx(np.array([9, 4, 1]) / 14, abs=1e-6)
    assert found.frequency[0] == pytest.approx(0, abs=1e-9)


def test_frequency_of_known_pictures() -> None:
    y, x = np.mgrid[:8, :8]
    pictures = [np.ones((8, 8)), (-1.0) ** (x + y), np.cos(2 * np.pi * x / 4), np.cos(2 * np.pi * 2 * y / 8)]
    found = mean_frequency(np.stack(pictures)[..., None])
    assert found == pytest.approx([0, 0.5**0.5, 0.25, 0.25])
    noise = np.random.default_rng(0).normal(size=(400, 8, 8, 3))
    model = drawn(patch_size=(8, 8), image_size=(16, 16))
    assert mean_frequency(noise).mean() == pytest.approx(filter_components(model).noise, abs=0.005)


def test_tiles_reach_from_0_to_1_over_all_channels() -> None:
    components = np.random.default_rng(0).normal(size=(3, 4, 5, 3))
    components[2] = 0.5
    tiles = scaled_tiles(components)
    assert tiles[:2].min(axis=(1, 2, 3)).tolist() == [0, 0]
    assert tiles[:2].max(axis=(1, 2, 3)).tolist() == [1, 1]
    assert tiles[2].max() == 0  # an even one divides nothing by zero
    order = np.argsort(components[0], axis=None)
    assert (np.diff(tiles[0].ravel()[order]) >= 0).all()


def test_few_filters_have_few_components() -> None:
    assert len(filter_components(drawn(embed_dim=8, num_heads=1)).components) == 7


def test_a_hybrid_and_filters_that_are_all_alike_are_refused() -> None:
    hybrid = drawn(stem=(1,), patch_size=(1, 1))
    with pytest.raises(UserError, match="reads what a ResNet makes of the image, 256 channels and not pixels"):
        filter_components(hybrid)
    alike = drawn()
    with torch.no_grad():
        alike.patch_embed.weight.fill_(0.1)
    with pytest.raises(UserError, match="all the same"):
        filter_components(alike)


def test_the_model_is_left_as_it_was() -> None:
    model = drawn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    filter_components(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
