"""Metrics by hand, the probe against scikit-learn, calibration against a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitkit.config import UserError
from vitkit.evals.calibration import fit_bias_and_temperature, fit_temperature
from vitkit.evals.classify import score, wilson
from vitkit.evals.linear import PENALTIES, fit_probe


@pytest.mark.parametrize(("hits", "n"), [(129, 167), (0, 10), (10, 10), (1, 2), (970, 1000)])
def test_the_wilson_interval_is_scipys(hits: int, n: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs scipy")
    assert wilson(hits, n) == pytest.approx(tuple(stats.binomtest(hits, n).proportion_ci(method="wilson")), abs=1e-9)


def test_the_wilson_interval_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    scores = score(probabilities, np.array([0, 0, 1, 1]))  # right, wrong, wrong, right; class 2 has no image
    assert scores.confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert scores.values["top1"] == 0.5
    assert scores.values["top5"] == 1.0
    assert scores.values["balanced_accuracy"] == 0.5
    assert scores.values["macro_f1"] == 0.5
    assert scores.values["nll"] == pytest.approx(-np.log([0.7, 0.4, 0.3, 0.8]).mean())
    assert scores.recall[:2].tolist() == [0.5, 0.5]
    assert np.isnan(scores.recall[2])
    assert np.isnan(scores.precision[2])


def test_balanced_accuracy_ignores_how_many_images_a_class_has() -> None:
    probabilities = np.array([[0.9, 0.1]] * 10)
    scores = score(probabilities, np.array([0] * 9 + [1]))
    assert scores.values["top1"] == 0.9
    assert scores.values["balanced_accuracy"] == 0.5


def test_top5_counts_rank_and_ties_go_to_the_lower_index() -> None:
    flat = score(np.full((10, 10), 0.1), np.arange(10))
    assert (flat.values["top1"], flat.values["top5"]) == (0.1, 0.5)
    probabilities = np.array([[0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05]])
    assert score(probabilities, np.array([4])).values["top5"] == 1.0
    assert score(probabilities, np.array([5])).values["top5"] == 0.0


def test_outputs_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="not finite"):
        score(np.array([[np.nan, 0.5]]), np.array([0]))


def test_calibration_error_of_always_sure_and_half_right() -> None:
    scores = score(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    assert scores.values["ece"] == pytest.approx(0.5)
    assert np.isfinite(scores.values["nll"])  # a zero probability does not make the mean infinite


def test_selection_prefers_the_metric_and_then_the_lower_loss() -> None:
    sure = score(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([0, 1]))
    unsure = score(np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([0, 1]))
    wrong = score(np.array([[0.9, 0.1], [0.9, 0.1]]), np.array([0, 1]))
    assert sure.selection_key("top1") > unsure.selection_key("top1") > wrong.selection_key("top1")
    assert sure.selection_key("nll") > unsure.selection_key("nll")
    with pytest.raises(UserError, match="Did you mean 'top1'"):
        sure.selection_key("top")


def blobs(n: int, classes: int, dim: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    features = centres[labels] * 1.5 + rng.normal(size=(n, dim)) * np.linspace(0.2, 5, dim)
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def test_the_probe_solves_the_same_problem_as_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    x, y = blobs(120, 4, 10, 0)
    probe = fit_probe(x, y, 4, seed=0)
    assert probe.penalty in PENALTIES
    z = ((x - x.mean(0)) / x.std(0, unbiased=False)).double().numpy()
    # ours: mean loss + penalty / 2 |W|^2 / classes; theirs: C * sum of losses + |W|^2 / 2
    model = linear.LogisticRegression(C=4 / (probe.penalty * len(x)), tol=1e-8, max_iter=5000).fit(z, y.numpy())
    ours = probe.logits(x).double().softmax(1).numpy()
    np.testing.assert_allclose(ours, model.predict_proba(z), atol=2e-3)
    x_new, y_new = blobs(400, 4, 10, 1)
    assert (probe.logits(x_new).argmax(1) == y_new).double().mean() > 0.8
    assert 0.85 < probe.cv_accuracy <= 1.0


def test_the_probe_survives_constant_features_and_tiny_classes() -> None:
    x, y = blobs(7, 3, 6, 0)
    x[:, 2] = 4.0
    probe = fit_probe(x, y, 3, seed=0)
    assert probe.weight.isfinite().all()
    assert not probe.weight[:, 2].any()  # a feature that says nothing gets no weight


def test_the_probe_is_a_function_of_its_arguments_and_leaves_the_threads_alone() -> None:
    x, y = blobs(60, 3, 8, 0)
    threads = torch.get_num_threads()
    a, b = fit_probe(x, y, 3, seed=1), fit_probe(x, y, 3, seed=1)
    assert torch.equal(a.weight, b.weight)
    assert torch.get_num_threads() == threads


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    logits = (rng.normal(size=(400, 5)) + 2 * np.eye(5)[labels]) * 3  # three times too sure
    found = fit_temperature(logits, labels)

    def nll(t: float) -> float:
        z = logits / t
        z -= z.max(1, keepdims=True)
        return float((np.log(np.exp(z).sum(1)) - z[np.arange(400), labels]).mean())

    grid = np.exp(np.linspace(np.log(0.2), np.log(5), 2000))
    best = grid[np.argmin([400 * nll(t) + (np.log(t) / np.log(2)) ** 2 / 2 for t in grid])]
    assert found == pytest.approx(best, rel=5e-3)
    assert nll(found) < nll(1.0)


def test_a_few_right_images_do_not_claim_certainty() -> None:
    logits = np.array([[2.0, 0.0]])
    few, many = (fit_temperature(np.repeat(logits, n, axis=0), np.zeros(n, int)) for n in (3, 3000))
    assert 0.6 < few < 1
    assert 0.2 <= many < 0.3


def test_a_shift_per_class_mends_a_preference_that_the_temperature_cannot() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 600, p=[0.6, 0.3, 0.1])
    logits = rng.normal(size=(600, 3)) + 3 * np.eye(3)[labels] + np.log([0.6, 0.3, 0.1])
    spoilt = 2 * (logits + np.array([0.0, 1.5, -1.0]))  # too sure, and fond of class 1
    shift, temperature = fit_bias_and_temperature(spoilt, labels)
    mended = (spoilt + shift) / temperature
    assert shift[1] < shift[0] < shift[2]
    assert (mended.argmax(1) == labels).mean() > (spoilt.argmax(1) == labels).mean() + 0.03
    weighted, _ = fit_bias_and_temperature(spoilt, labels, (0.5, 1.0, 3.0))
    hits = [((spoilt + s).argmax(1) == labels)[labels == 2].mean() for s in (shift, weighted)]
    assert hits[1] > hits[0]  # the costly class is found more often


def test_few_images_of_a_class_get_no_shift() -> None:
    labels = np.array([0] * 50 + [1] * 19)
    logits = np.random.default_rng(0).normal(size=(69, 2))
    shift, temperature = fit_bias_and_temperature(logits, labels)
    assert not shift.any()
    assert temperature == fit_temperature(logits, labels)
