"""Multi-label metrics against scikit-learn and by hand, thresholds, calibration, the probe, and the task seam."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from vitkit.config import UserError
from vitkit.data.sources import Sample
from vitkit.evals.calibration import fit_multilabel_temperature
from vitkit.evals.linear import PENALTIES, fit_probe
from vitkit.evals.multilabel import FEW, average_precision, choose_thresholds, roc_areas, score_multilabel
from vitkit.evals.tasks import check_metric, make_task


def draws(seed: int, n: int = 60, classes: int = 5, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, O) that know a little of their targets (n, O); ``steps`` makes many of them equal."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, classes)) < rng.uniform(0.1, 0.6, classes)).astype(np.float32)
    targets[:2] = [[1], [0]]  # each class is there, and is not there
    probabilities = 1 / (1 + np.exp(-rng.normal(2 * targets - 1, 1.5)))
    return (np.round(probabilities * steps) / steps if steps else probabilities), targets


@pytest.mark.parametrize("steps", [None, 10, 2, 1])
@pytest.mark.parametrize("seed", range(5))
def test_precision_areas_and_f1_are_scikit_learns_also_with_ties(seed: int, steps: int | None) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    p, t = draws(seed, steps=steps)
    for k in range(5):
        assert average_precision(p, t > 0)[k] == pytest.approx(
            metrics.average_precision_score(t[:, k], p[:, k]), abs=1e-14
        )
        assert roc_areas(p, t > 0)[k] == pytest.approx(metrics.roc_auc_score(t[:, k], p[:, k]), abs=1e-14)
    cuts = (0.3, 0.4, 0.5, 0.6, 0.7)
    scores = score_multilabel(p, t, cuts)
    predicted = p >= np.array(cuts)
    theirs = {
        "map": metrics.average_precision_score(t, p, average="macro"),
        "micro_f1": metrics.f1_score(t, predicted, average="micro"),
        "macro_f1": metrics.f1_score(t, predicted, average="macro"),
        "exact_match": metrics.accuracy_score(t, predicted),
        "macro_auroc": metrics.roc_auc_score(t, p, average="macro"),
    }
    for name, value in theirs.items():
        assert scores.values[name] == pytest.approx(value, abs=1e-14), name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(t, predicted, zero_division=np.nan)
    np.testing.assert_allclose(scores.precision, precision, atol=1e-14)
    np.testing.assert_allclose(scores.recall, recall, atol=1e-14)
    np.testing.assert_allclose(scores.f1, f1, atol=1e-14)


def test_a_class_without_images_is_left_out_of_every_mean() -> None:
    p = np.array([[0.9, 0.8, 0.1], [0.2, 0.7, 0.3], [0.4, 0.6, 0.2]])
    t = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 0]])
    scores = score_multilabel(p, t, (0.5, 0.5, 0.5))
    assert np.isnan([scores.average_precision[2], scores.recall[2], scores.f1[2], scores.precision[2]]).all()
    assert np.isnan(scores.auroc[1:]).all()  # class 1 has no image without it
    assert scores.values["map"] == (1 + 1) / 2
    assert scores.values["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores.values["micro_f1"] == pytest.approx(2 * 4 / (4 + 5))
    assert scores.values["exact_match"] == 2 / 3
    own = [0.9, 0.8, 0.9, 0.8, 0.7, 0.7, 0.4, 0.6, 0.8]
    assert scores.values["nll"] == pytest.approx(-np.log(own).mean())


def test_what_was_missed_is_counted_with_what_was_predicted_instead() -> None:
    p = np.array([[0.1, 0.9, 0.1], [0.2, 0.8, 0.9], [0.9, 0.1, 0.1]])
    t = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]])
    assert score_multilabel(p, t, (0.5,) * 3).missed.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_nothing_to_score_is_one_clear_message() -> None:
    with pytest.raises(UserError, match="there are no images"):
        score_multilabel(np.zeros((0, 2)), np.zeros((0, 2)))
    with pytest.raises(UserError, match="none of the 3 images has any of the 2 classes"):
        score_multilabel(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(UserError, match="not finite"):
        score_multilabel(np.full((3, 2), np.nan), np.ones((3, 2)))


def test_intervals_hold_the_value_repeat_and_shrink_with_more_images() -> None:
    few, many = draws(0, n=50), draws(0, n=800)
    a, b = score_multilabel(*few), score_multilabel(*few)
    assert a.intervals == b.intervals
    wide, narrow = a.intervals, score_multilabel(*many).intervals
    for name, (low, high) in wide.items():
        assert low < a.values[name] < high, name
        assert narrow[name][1] - narrow[name][0] < (high - low) / 2, name
    assert a.floor("map") == wide["map"][0]
    assert a.floor("nll") == -a.values["nll"]


def test_the_interval_of_map_is_that_of_redrawing_the_images_one_by_one() -> None:
    p, t = draws(3, n=40, classes=2)
    scores = score_multilabel(p, t)
    low, high = scores.intervals["map"]
    rng = np.random.default_rng(7)
    drawn = []
    for _ in range(3000):
        part = rng.integers(0, len(p), len(p))
        drawn.append(np.nanmean(average_precision(p[part], t[part] > 0)))
    moved = scores.values["map"] - np.mean(drawn)
    np.testing.assert_allclose((low, high), np.minimum(1, np.quantile(drawn, (0.025, 0.975)) + moved), atol=0.03)


def test_the_interval_holds_the_value_also_over_many_classes() -> None:
    rng = np.random.default_rng(0)
    t = rng.random((100, 400)) < 0.05
    t[0] = True
    scores = score_multilabel(rng.random((100, 400)), t)
    low, high = scores.intervals["map"]
    assert low < scores.values["map"] < high
    perfect = score_multilabel(t * 0.9 + 0.05, t)
    assert perfect.intervals["map"] == (1.0, 1.0)


def test_a_threshold_is_the_best_f1_of_all_cuts() -> None:
    p, t = draws(1, n=200, classes=4, steps=40)
    assert t.sum(0).min() >= FEW
    for k, cut in enumerate(choose_thresholds(p, t > 0)):

        def f1(at: float, k: int = k) -> float:
            predicted = p[:, k] >= at
            return 2 * (predicted * t[:, k]).sum() / (predicted.sum() + t[:, k].sum())

        assert f1(cut) == max(f1(at) for at in np.arange(-0.01, 1.02, 0.005))
        assert cut not in p[:, k]  # half-way between two probabilities, so that the last digit decides nothing


def test_a_class_with_few_positives_takes_the_common_threshold() -> None:
    p, t = draws(2, n=100, classes=3)
    t[:, 2] = 0
    t[: FEW - 1, 2] = 1
    cuts = choose_thresholds(p, t > 0)
    pooled = choose_thresholds(p.reshape(-1, 1), t.reshape(-1, 1) > 0)[0]
    assert cuts[2] == pooled
    assert pooled not in cuts[:2]
    assert choose_thresholds(p, t < 0) == (0.5, 0.5, 0.5)


def test_a_temperature_moves_thresholds_but_no_answer() -> None:
    rng = np.random.default_rng(0)
    t = rng.random((150, 3)) < 0.4
    logits = rng.normal(4.0 * t - 2, 2.5)

    def answers(temperature: float) -> np.ndarray:
        p = 1 / (1 + np.exp(-logits / temperature))
        return p >= np.array(choose_thresholds(p, t))

    assert np.array_equal(answers(1.0), answers(3.0))


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    t = rng.random((300, 4)) < 0.3
    logits = 3 * rng.normal(2.0 * t - 1, 1.0)  # too sure

    def nll(temperature: float) -> float:
        return float(np.logaddexp(0, np.where(t, -1, 1) * logits / temperature).mean())

    found = fit_multilabel_temperature(logits, t)
    grid = np.exp(np.linspace(np.log(0.2), np.log(5), 2000))
    assert found == pytest.approx(
        grid[np.argmin([300 * nll(at) + (np.log(at) / np.log(2)) ** 2 / 2 for at in grid])], rel=5e-3
    )
    assert 1 < found < 5


def blobs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    targets = rng.random((n, 3)) < (0.5, 0.3, 0.15)
    features = targets @ np.random.default_rng(9).normal(size=(3, 8)) * 2 + rng.normal(size=(n, 8)) * np.linspace(
        0.3, 3, 8
    )
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(targets.astype(np.float32))


def test_the_probe_is_scikit_learns_regression_of_each_class() -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    x, y = blobs(150, 0)
    probe = fit_probe(x, y, 3, seed=0)
    assert probe.penalty in PENALTIES
    z = ((x - x.mean(0)) / x.std(0, unbiased=False)).double().numpy()
    ours = probe.logits(x).double().sigmoid().numpy()
    for k in range(3):
        model = linear.LogisticRegression(C=1 / (probe.penalty * len(x)), tol=1e-8, max_iter=5000).fit(
            z, y[:, k].numpy()
        )
        np.testing.assert_allclose(ours[:, k], model.predict_proba(z)[:, 1], atol=2e-3)
    x_new, y_new = blobs(400, 1)
    found = np.nanmean(average_precision(probe.logits(x_new).numpy(), y_new.numpy() > 0))
    assert found == pytest.approx(probe.cv_accuracy, abs=0.08)
    assert found > 0.85


def test_the_probe_survives_a_class_with_one_image() -> None:
    x, y = blobs(20, 0)
    y[:, 2] = 0
    y[4, 2] = 1
    assert fit_probe(x, y, 3, seed=0).weight.isfinite().all()


def test_each_task_has_its_metrics_and_targets() -> None:
    single, multi = make_task("single-label", 3), make_task("multi-label", 3)
    assert check_metric(single, "auto") == "top1"
    assert check_metric(multi, "auto") == "map"
    with pytest.raises(
        UserError, match=r"--select-by top1 does not fit this data, which is multi-label; .* map, micro_f1"
    ):
        check_metric(multi, "top1")
    with pytest.raises(UserError, match="which is single-label"):
        check_metric(single, "map")
    assert single.targets([Sample("a", b"", 2), Sample("b", b"", 0)]).tolist() == [2, 0]
    wanted = multi.targets([Sample("a", b"", -1, (0, 2)), Sample("b", b"", -1)])
    assert wanted.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert single.head_bias(wanted) is None
    p, t = draws(0, classes=3)
    scores = multi.score(p, t)
    assert scores.selection_key("map") == (scores.values["map"], -scores.values["nll"])
    with pytest.raises(UserError, match="Did you mean 'map'"):
        scores.selection_key("mapp")
