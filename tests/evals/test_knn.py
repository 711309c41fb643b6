"""k-NN against scikit-learn, ties by the rule, and bad arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitkit.config import UserError
from vitkit.evals.knn import ROWS, TEMPERATURE, nearest, vote


def drawn(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "m", "k"), [(200, 2 * ROWS + 3, 20), (30, 1, 1), (25, 40, 25), (3, 5, 2)])
def test_votes_are_scikit_learns(n: int, m: int, k: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="needs scikit-learn")
    x, new, labels = drawn(n, 12, 0), drawn(m, 12, 1), np.random.default_rng(0).integers(0, 3, n)
    labels[:3] = range(3)
    votes = vote(x, torch.from_numpy(labels), new, 3, k)
    for found, weights in (
        (votes.weighted, lambda distances: np.exp((1 - distances) / TEMPERATURE)),
        (votes.majority, "uniform"),
    ):
        model = neighbors.KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weights)
        model.fit(x.double().numpy(), labels)
        np.testing.assert_allclose(found.numpy(), model.predict_proba(new.double().numpy()), atol=1e-9)
        assert found.numpy().argmax(1).tolist() == model.predict(new.double().numpy()).tolist()


def test_a_class_without_training_images_gets_no_vote() -> None:
    votes = vote(drawn(10, 4, 0), torch.arange(10) % 2, drawn(3, 4, 1), 5, 4)
    assert votes.weighted.shape == (3, 5)
    assert not votes.weighted[:, 2:].any()
    assert votes.weighted.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_of_equally_near_images_the_earlier_is_nearer_and_the_lower_class_wins_a_tie() -> None:
    x = torch.tensor([[0.0, 1], [1, 0], [2, 0], [3, 0], [0.5, 0], [1, 1]])  # four of one direction
    places, cosines = nearest(x, torch.tensor([[1.0, 0.0]]), 2)
    assert places.tolist() == [[1, 2]]
    assert cosines.tolist() == [[1, 1]]
    places, _ = nearest(x, torch.tensor([[1.0, 0.0]]), 5)
    assert places.tolist() == [[1, 2, 3, 4, 5]]
    votes = vote(x, torch.tensor([0, 2, 1, 1, 2, 0]), torch.tensor([[1.0, 0.0]]), 3, 4)
    assert votes.weighted[0].tolist() == votes.majority[0].tolist() == [0, 0.5, 0.5]
    assert votes.weighted.numpy().argmax(1).tolist() == [1]


def test_copies_of_an_image_are_equally_near_whatever_is_beside_them() -> None:
    x = drawn(301, 37, 3)
    x[[5, 100, 300]] = x[200].clone()
    places, _ = nearest(x, x[200:201].repeat(ROWS + 1, 1), 3)
    assert places.tolist() == [[5, 100, 200]] * (ROWS + 1)


@pytest.mark.parametrize("k", [0, 11])
def test_more_neighbours_than_images_are_refused(k: int) -> None:
    with pytest.raises(UserError, match=f"--neighbours {k}: expected 1 to 10"):
        nearest(drawn(10, 4, 0), drawn(2, 4, 1), k)
