"""Label errors: flipped labels lead the ranking, the estimate is near their number, and no image judges itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from planted import scene
from vitkit.console import Console
from vitkit.data.thumbnails import Thumbnails, thumbnail
from vitkit.evals.label_errors import label_errors, out_of_fold
from vitkit.evals.patches import count_filters, patch_features


@pytest.fixture(scope="module")
def flipped() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Features of three clusters, labels of which 5 % are wrong, and which those are."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 600)
    wrong = np.zeros(600, bool)
    wrong[rng.choice(600, 30, replace=False)] = True
    labels = np.where(wrong, (true + rng.integers(1, 3, 600)) % 3, true)
    centres = 2 * rng.standard_normal((3, 20))
    features = torch.from_numpy(centres[true] + rng.standard_normal((600, 20))).half()
    return features, labels, wrong


def test_flipped_labels_lead_the_ranking(flipped: tuple[torch.Tensor, np.ndarray, np.ndarray]) -> None:
    features, labels, wrong = flipped
    found = label_errors(out_of_fold(features, labels.tolist(), 3), labels.tolist())
    assert wrong[found.places[:30]].mean() > 0.9
    assert 20 <= found.estimated <= 45
    assert list(found.given) == sorted(found.given)
    assert all(suggested != labels[place] for place, suggested in zip(found.places, found.suggested, strict=True))


def test_probabilities_are_those_of_a_probe_that_did_not_see_the_image() -> None:
    """Features that name the image, and nothing else: a probe that saw it would give its label back."""
    labels = [i % 2 for i in range(40)]
    p = out_of_fold(torch.eye(40), labels, 2)
    assert p.sum(1) == pytest.approx(np.ones(40))
    assert np.abs(p - 0.5).max() < 0.1


def test_a_constant_feature_and_the_order_of_magnitude_do_not_matter(
    flipped: tuple[torch.Tensor, np.ndarray, np.ndarray],
) -> None:
    features, labels, _ = flipped
    wide = torch.cat([100 * features.double() + 7, torch.full((600, 1), 3.0).double()], 1)
    expected = out_of_fold(features.double(), labels.tolist(), 3)
    assert out_of_fold(wide, labels.tolist(), 3) == pytest.approx(expected, abs=0.01)  # float32 inside


def test_equal_calls_give_equal_probabilities(flipped: tuple[torch.Tensor, np.ndarray, np.ndarray]) -> None:
    features, labels, _ = flipped
    assert np.array_equal(out_of_fold(features, labels.tolist(), 3), out_of_fold(features, labels.tolist(), 3))


def test_patch_features_ignore_the_mirror_and_tell_pictures_apart() -> None:
    pictures = [scene(seed) for seed in range(40)]
    both = Thumbnails()
    for picture in pictures + [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in pictures]:
        both.append(thumbnail(picture))
    features = patch_features(both, Console(), filters=16).float()
    assert features.shape == (80, 8 * 16)
    left, right = features[:40].view(40, 8, 16), features[40:].view(40, 8, 16)
    assert torch.allclose(left, right, atol=0.02 * float(features.abs().max()))
    assert float(features[:40].std(0).mean()) > 10 * float((features[:40] - features[40:]).abs().mean())


def test_filters_are_bounded() -> None:
    assert [count_filters(n) for n in (10, 3_000, 50_000, 10**7)] == [32, 300, 320, 32]
