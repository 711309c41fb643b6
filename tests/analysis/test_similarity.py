"""Minibatch CKA against the estimator written out, against plain CKA, and on representations of which it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitkit.analysis.similarity import LayerSimilarity, gram_matrix, unbiased_hsic
from vitkit.config import UserError


def drawn_layers(images: int, seed: int = 0) -> list[torch.Tensor]:
    """Three representations (n, tokens, width) that share part of what they say."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(images, 6, generator=generator)
    mixed = [common @ torch.randn(6, 20, generator=generator) for _ in range(3)]
    return [
        (m + s * torch.randn(m.shape, generator=generator)).reshape(images, 4, 5)
        for m, s in zip(mixed, (0.3, 1, 4), strict=True)
    ]


def hsic_1(K: np.ndarray, L: np.ndarray) -> float:
    """Equation 5 of Song et al. (2012), as arXiv 2010.15327 writes it."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    one = np.ones(n)
    third = 2 / (n - 2) * (one @ K @ L @ one)
    return float((np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2)) - third) / (n * (n - 3)))


def direct_cka(layers: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Minibatch CKA with uncentred Gram matrices, pair by pair."""
    found = np.empty((len(layers), len(layers)))
    sums = np.zeros_like(found)
    start = 0
    for size in sizes:
        part = [layer[start : start + size].reshape(size, -1) for layer in layers]
        for a, b in np.ndindex(found.shape):
            sums[a, b] += size * hsic_1(part[a] @ part[a].T, part[b] @ part[b].T)
        start += size
    for a, b in np.ndindex(found.shape):
        found[a, b] = sums[a, b] / np.sqrt(sums[a, a] * sums[b, b])
    return found


@pytest.mark.parametrize("sizes", [[40], [16, 16, 8], [4] * 10])
def test_against_the_estimator_written_out(sizes: list[int]) -> None:
    layers = drawn_layers(40)
    ours, start = LayerSimilarity(3), 0
    for size in sizes:
        ours.add(
            torch.stack([gram_matrix(layer[start : start + size] + 7) for layer in layers])
        )  # a mean changes nothing
        start += size
    expected = direct_cka([layer.double().numpy() for layer in layers], sizes)
    assert ours.cka() == pytest.approx(expected, abs=1e-5)
    assert ours.images == 40
    assert np.diag(expected) == pytest.approx(1)


def test_many_images_give_plain_cka_and_minibatches_aim_at_the_same() -> None:
    layers = drawn_layers(2048)
    flat = [layer.flatten(1).double().numpy() for layer in layers]
    centred = [x - x.mean(axis=0) for x in flat]

    def plain(x: np.ndarray, y: np.ndarray) -> float:
        return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))

    ours = LayerSimilarity(3)
    for start in range(0, 2048, 16):
        ours.add(torch.stack([gram_matrix(layer[start : start + 16]) for layer in layers]))
    for a, b in np.ndindex(3, 3):
        assert ours.cka()[a, b] == pytest.approx(plain(centred[a], centred[b]), abs=0.02)


def test_rotation_and_scale_do_not_matter_and_unrelated_layers_are_unlike() -> None:
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1)))[0]
    other = torch.randn(64, 10, generator=torch.Generator().manual_seed(2))
    ours = LayerSimilarity(3)
    ours.add(torch.stack([gram_matrix(x), gram_matrix(-3 * x @ rotation + 1), gram_matrix(other)]))
    cka = ours.cka()
    assert cka[0, 1] == pytest.approx(1, abs=1e-5)
    assert abs(cka[0, 2]) < 0.1


def test_a_layer_that_says_nothing_of_images_has_no_similarity() -> None:
    ours = LayerSimilarity(2)
    ours.add(torch.stack([gram_matrix(torch.randn(8, 3)), gram_matrix(torch.ones(8, 3))]))
    cka = ours.cka()
    assert cka[0, 0] == pytest.approx(1)
    assert np.isnan(cka[0, 1])
    assert np.isnan(cka[1, 1])


def test_fewer_than_four_images_do_not_count() -> None:
    ours = LayerSimilarity(2)
    ours.add(torch.zeros(2, 3, 3))
    assert ours.cka() is None
    ours.add(torch.stack([gram_matrix(layer) for layer in drawn_layers(6)[:2]]))
    before = ours.cka()
    ours.add(torch.ones(2, 3, 3))
    assert ours.images == 6
    assert np.array_equal(ours.cka(), before)
    with pytest.raises(UserError, match="at least 4 images at a time, got 3"):
        unbiased_hsic(torch.zeros(2, 3, 3))
