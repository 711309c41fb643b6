"""Every metric of single-label answers against scikit-learn, on drawn answers and on edge cases."""

from __future__ import annotations

import numpy as np
import pytest

from vitkit.config import UserError
from vitkit.evals.classify import score

metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")


def answers(n: int, O: int, seed: int, step: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels; with a ``step`` many probabilities are equal."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, O, n)
    logits = rng.normal(size=(n, O)) + 1.5 * np.eye(O)[labels]
    if step:
        logits = np.round(logits / step) * step
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), labels


@pytest.mark.parametrize(
    ("n", "O", "seed", "step"), [(300, 10, 0, 0), (200, 7, 1, 1.0), (50, 2, 2, 0), (400, 6, 3, 2.0)]
)
def test_metrics_are_scikit_learns(n: int, O: int, seed: int, step: float) -> None:
    p, labels = answers(n, O, seed, step)
    values, guessed = score(p, labels).values, p.argmax(1)
    assert values["top1"] == pytest.approx(metrics.accuracy_score(labels, guessed), abs=1e-12)
    assert values["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, guessed), abs=1e-12)
    assert values["macro_f1"] == pytest.approx(metrics.f1_score(labels, guessed, average="macro"), abs=1e-12)
    assert values["nll"] == pytest.approx(metrics.log_loss(labels, p, labels=range(O)), abs=1e-12)
    wanted = np.mean([metrics.roc_auc_score(labels == k, p[:, k]) for k in range(O)])
    assert values["macro_auroc"] == pytest.approx(wanted, abs=1e-12)
    if O > 2 and not step:
        official = metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro")
        assert values["macro_auroc"] == pytest.approx(official, abs=1e-12)
        if O > 5:
            assert values["top5"] == pytest.approx(metrics.top_k_accuracy_score(labels, p, k=5), abs=1e-12)


def test_a_class_without_images_is_left_out_of_means() -> None:
    p, labels = answers(120, 5, 4)
    labels[labels == 3] = 1
    values, guessed, present = score(p, labels).values, p.argmax(1), [0, 1, 2, 4]
    recalls = metrics.recall_score(labels, guessed, labels=present, average=None)
    assert values["balanced_accuracy"] == pytest.approx(recalls.mean(), abs=1e-12)
    f1 = metrics.f1_score(labels, guessed, labels=present, average="macro")
    assert values["macro_f1"] == pytest.approx(f1, abs=1e-12)
    areas = [metrics.roc_auc_score(labels == k, p[:, k]) for k in present]
    assert values["macro_auroc"] == pytest.approx(np.mean(areas), abs=1e-12)


def test_all_wrong_is_zero_and_worse_than_chance() -> None:
    labels = np.arange(30) % 3
    p = np.full((30, 3), 0.45)
    p[np.arange(30), labels] = 0.1
    values = score(p, labels).values
    assert [values[name] for name in ("top1", "balanced_accuracy", "macro_f1", "macro_auroc")] == [0, 0, 0, 0]
    assert values["nll"] == pytest.approx(-np.log(0.1))


def test_all_equal_is_half_an_area_and_the_lower_class() -> None:
    values = score(np.full((12, 4), 0.25), np.arange(12) % 4).values
    assert (values["top1"], values["macro_auroc"]) == (0.25, 0.5)


def test_one_image_has_no_area_under_a_curve() -> None:
    scores = score(np.array([[0.2, 0.8]]), np.array([1]))
    assert "macro_auroc" not in scores.values
    assert (scores.values["top1"], scores.values["balanced_accuracy"], scores.values["macro_f1"]) == (1, 1, 1)


@pytest.mark.parametrize(("label", "shown"), [(3, "3"), (-1, "-1")])
def test_a_label_that_is_no_class_is_refused(label: int, shown: str) -> None:
    with pytest.raises(UserError, match=rf"the label {shown}; the model has 3 classes, 0 to 2"):
        score(np.full((2, 3), 1 / 3), np.array([0, label]))


def test_as_many_labels_as_images_and_at_least_one() -> None:
    with pytest.raises(UserError, match="2 images were scored and there are 1 labels"):
        score(np.full((2, 3), 1 / 3), np.array([0]))
    with pytest.raises(UserError, match="no images"):
        score(np.empty((0, 3)), np.empty(0, int))
