"""Deletion and insertion against areas known by hand, fair ties and random orders, randomised weights, the verdict."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shared import shared_data
from vitkit.analysis.relevance import relevance
from vitkit.config import UserError
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import load_input
from vitkit.data.sources import read_source
from vitkit.evals.evidence import evidence, judge, randomised, spearman
from vitkit.evals.faithfulness import Areas, blurred, faithfulness, forwards
from vitkit.evals.intervals import Mean
from vitkit.jobs.load import load
from vitkit.models.vit import VisionTransformer, ViTConfig

WORTH = torch.tensor([[0.1, 0.2], [0.3, 0.4]])  # what each quarter of the picture adds to the probability
BRIGHT = WORTH.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(1, 3, 8, 8)


def half_seen(images: Tensor) -> Tensor:
    """The sum of `WORTH` over quarters that have their own detail, which blur and 0 have not."""
    quarters = images[:, 0].unfold(1, 4, 4).unfold(2, 4, 4)  # (B, 2, 2, 4, 4)
    return ((quarters.std((-2, -1)) > 0.5) * WORTH).sum((1, 2))


def checked(count: int = 1) -> Tensor:
    """Pictures of a fine chequer, which no quarter of a blurred picture has."""
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    return board.expand(count, 3, 8, 8).clone()


def test_areas_of_four_patches_are_those_computed_by_hand() -> None:
    found = faithfulness(half_seen, checked(), WORTH[None])
    # From the most to the least marked: 1, .6, .3, .1, 0 left; and as many there: 0, .4, .7, .9, 1. Trapezoids a quarter wide.
    assert found.deletion == pytest.approx([(0.5 + 0.6 + 0.3 + 0.1 + 0) / 4])
    assert found.insertion == pytest.approx([(0 + 0.4 + 0.7 + 0.9 + 0.5) / 4])
    backwards = faithfulness(half_seen, checked(), -WORTH[None])
    assert backwards.deletion == pytest.approx([(0.5 + 0.9 + 0.7 + 0.4 + 0) / 4])
    assert backwards.insertion == pytest.approx([(0 + 0.1 + 0.3 + 0.6 + 0.5) / 4])


def test_two_steps_take_two_patches_each() -> None:
    found = faithfulness(half_seen, checked(), WORTH[None], steps=2)
    assert found.deletion == pytest.approx([0.5 * (1 + 0.3) / 2 + 0.5 * 0.3 / 2])
    assert found.insertion == pytest.approx([0.5 * 0.7 / 2 + 0.5 * (0.7 + 1) / 2])
    one = faithfulness(half_seen, checked(), WORTH[None], steps=1)  # all at once: the order says nothing
    assert [float(area[0]) for area in one] == pytest.approx([0.5] * 4)


def test_constant_maps_are_as_good_as_random_ones_and_true_ones_better() -> None:
    images = checked(600)
    for value in (0.0, 0.5):
        found = judge(faithfulness(half_seen, images, torch.full((600, 2, 2), value)))
        for gain in (found.deletion_gain, found.insertion_gain):
            assert gain.low is not None and gain.high is not None  # noqa: PT018
            assert gain.low < 0 < gain.high
    ties = torch.tensor([[0.0, 0.0], [0.0, 1.0]])  # of the three others nothing is said
    found = judge(faithfulness(half_seen, images, ties.expand(600, 2, 2)))
    best_then_random = (0.5 + 0.6 + 0.4 + 0.2 + 0) / 4
    assert found.deletion == pytest.approx(best_then_random, abs=0.01)
    assert found.deletion_gain.low is not None
    assert found.deletion_gain.low > 0
    assert found.random_deletion == pytest.approx(0.5, abs=0.01)
    assert found.random_insertion == pytest.approx(0.5, abs=0.01)


def test_numbers_are_a_function_of_the_seed_and_the_image_whatever_it_comes_with() -> None:
    images, maps = checked(6), torch.zeros(6, 2, 2)
    whole = faithfulness(half_seen, images, maps, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(whole, faithfulness(half_seen, images, maps, seed=3), strict=True))
    parts = [faithfulness(half_seen, images[a:b], maps[a:b], seed=3, first=a) for a, b in ((0, 1), (1, 4), (4, 6))]
    for part, area in zip(zip(*parts, strict=True), whole, strict=True):
        assert np.array_equal(np.concatenate(part), area)
    other = faithfulness(half_seen, images, maps, seed=4)
    assert not all(np.array_equal(a, b) for a, b in zip(whole, other, strict=True))


def test_patches_are_those_of_the_model_where_pixels_are_left_over() -> None:
    """On 5 x 7 pixels, patches of 2 x 3: the last row and column belong to no patch of the model."""
    seen: list[Tensor] = []

    def score(images: Tensor) -> Tensor:
        seen.append(images[:, 0].clone())
        return torch.ones(len(images))

    maps = torch.tensor([[[3.0, 2.0], [1.0, 0.0]]])
    faithfulness(score, torch.ones(1, 1, 5, 7), maps, patch_size=(2, 3), randoms=1)
    gone = next(picture[0] for picture in seen if 0 < picture.mean() < 1)  # the most marked patch is away
    assert torch.equal(gone == 0, torch.nn.functional.pad(torch.ones(2, 3), (0, 4, 0, 3)).bool())
    seen.clear()
    faithfulness(score, torch.ones(1, 1, 4, 6), maps, randoms=1)  # without, the grid divides the image
    gone = next(picture[0] for picture in seen if 0 < picture.mean() < 1)
    assert torch.equal(gone == 0, torch.nn.functional.pad(torch.ones(2, 3), (0, 3, 0, 2)).bool())


def test_the_plan_knows_the_number_of_forward_passes() -> None:
    calls = 0

    def score(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return half_seen(images)

    for steps, randoms in ((14, 2), (3, 1), (1, 1)):
        calls = 0
        faithfulness(score, checked(), WORTH[None], steps=steps, randoms=randoms)
        assert calls == forwards(4, steps=steps, randoms=randoms)


def test_blur_leaves_nothing_finer_than_a_patch() -> None:
    assert blurred(checked(), (2, 2)).abs().max() < 1e-6
    means = blurred(BRIGHT, (2, 2))
    assert means.shape == BRIGHT.shape
    assert torch.allclose(means[0, 0, ::7, ::7], WORTH)  # the corners keep their patch's mean
    assert blurred(torch.rand(1, 1, 9, 14), (2, 3)).shape == (1, 1, 9, 14)


@pytest.mark.parametrize(
    ("maps", "changes", "text"),
    [
        (torch.zeros(2, 2, 2), {}, r"1 images need as many maps \(h, w\), got a tensor of \(2, 2, 2\)"),
        (torch.zeros(1, 4), {}, "1 images need as many maps"),
        (torch.full((1, 2, 2), torch.nan), {}, "not finite; compute them in float32"),
        (torch.zeros(1, 2, 2), {"steps": 0}, "must be at least 1, got 0 and 2"),
        (torch.zeros(1, 2, 2), {"randoms": 0}, "must be at least 1, got 14 and 0"),
    ],
)
def test_what_cannot_be_checked_is_refused(maps: Tensor, changes: dict[str, int], text: str) -> None:
    with pytest.raises(UserError, match=text):
        faithfulness(half_seen, checked(), maps, **changes)  # type: ignore[arg-type]


def test_rank_correlation_against_counting() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (5, 30)).astype(float), rng.integers(0, 6, (5, 30)).astype(float)
    b[0], b[1] = a[0] ** 3, -a[1]

    def ranks(row: np.ndarray) -> list[float]:
        return [sum(float(y < x) + 0.5 * float(y == x) for y in row) for x in row]

    wanted = [np.corrcoef(ranks(x), ranks(y))[0, 1] for x, y in zip(a, b, strict=True)]
    assert spearman(a, b) == pytest.approx(wanted)
    assert spearman(a, b)[:2] == pytest.approx([1, -1])
    assert np.isnan(spearman(np.ones((1, 4)), rng.random((1, 4)))).all()


CONFIG = ViTConfig(
    embed_dim=24, depth=2, num_heads=3, mlp_dim=40, patch_size=(4, 4), image_size=(16, 24), num_classes=5, registers=1
)


def made(**changes: object) -> VisionTransformer:
    model = VisionTransformer(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]
    model.init_weights(0)
    assert model.head is not None
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"pool": "map"}, {"stem": (1,), "patch_size": (2, 2), "position": "relative"}])
def test_random_weights_are_those_of_blocks_and_pooling_alone(changes: dict[str, object]) -> None:
    model = made(**changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = randomised(model, 1)
    assert other.config == model.config
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], before[name])
        inside = name.startswith(("blocks.", "map_pool."))
        if not inside or tensor.ndim > 1:  # biases and norms start as they are
            assert torch.equal(tensor, before[name]) != inside, name
    again = randomised(model, 1).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in other.state_dict().items())
    with torch.inference_mode():
        loaded = made(**changes)
    assert next(randomised(loaded, 1).parameters()).isfinite().all()


def test_evidence_is_that_of_its_parts() -> None:
    model = made()
    images = torch.randn(5, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 1, 2, 3, 4])
    batches = [(images[:2], targets[:2]), (images[2:], targets[2:])]
    found = evidence(model, iter(batches), relevance, lambda logits: logits.softmax(-1), steps=4, randoms=1, seed=7)

    @torch.no_grad()
    def score(masked: Tensor) -> Tensor:
        return model(masked).softmax(-1)[range(5), targets]

    maps = relevance(model, images, targets)
    areas = faithfulness(score, images, maps, steps=4, randoms=1, seed=7)
    assert found.images == found.compared == 5
    assert found.deletion == pytest.approx(areas.deletion.mean(), abs=1e-6)
    assert found.insertion_gain.value == pytest.approx((areas.insertion - areas.random_insertion).mean(), abs=1e-6)
    random = relevance(randomised(model, 7), images, targets)
    rows = [x.flatten(1).double().numpy() for x in (maps, random)]
    assert found.correlation is not None
    assert found.correlation.value == pytest.approx(spearman(rows[0], rows[1]).mean(), abs=1e-3)
    assert json.loads(json.dumps(found.to_dict()))["insertion_gain"]["low"] == found.insertion_gain.low
    assert found.to_dict()["verdict"] == found.verdict
    plain = evidence(model, batches, relevance, lambda x: x.softmax(-1), steps=4, randoms=1, seed=7, randomise=False)
    assert plain.correlation is None
    assert plain.compared == 0
    with pytest.raises(UserError, match="no images to check the maps on"):
        evidence(model, [], relevance, lambda x: x)


@pytest.mark.parametrize(
    ("deletion", "insertion", "text"),
    [
        (0.1, 0.1, "The maps matter: taking away and putting back what they mark changes the answer more than random"),
        (0.1, 0.0, "weak evidence that the maps matter: only taking away what"),
        (0.0, 0.1, "weak evidence that the maps matter: only putting back what"),
        (0.0, 0.0, "There is no evidence that the maps matter"),
        (-0.1, 0.1, "The maps mislead"),
    ],
)
def test_the_verdict_follows_the_intervals(deletion: float, insertion: float, text: str) -> None:
    spread = np.linspace(-0.05, 0.05, 20)
    areas = Areas(0.4 - deletion + spread, 0.5 + insertion + spread, np.full(20, 0.4), np.full(20, 0.5))
    assert text in judge(areas).verdict
    few = judge(Areas(*(area[:9] for area in areas)))
    assert few.verdict == "9 images are too few for a verdict: it takes 10 images or more, and --check 10 or more."
    one = judge(Areas(*(area[:1] for area in areas)))
    assert one.deletion_gain[1:] == (None, None)
    assert one.verdict.startswith("1 image is too few")


def test_the_verdict_says_whether_random_weights_give_the_same_maps() -> None:
    areas = Areas(*(np.full(12, value) + np.linspace(0, 0.01, 12) for value in (0.1, 0.6, 0.3, 0.4)))
    learnt = judge(areas, np.linspace(0, 0.2, 12))
    assert "They are other maps than those of random blocks (rank correlation 0.10)." in learnt.verdict
    alike = judge(areas, np.array([np.nan, *np.linspace(0.7, 0.9, 11)]))
    assert "They hardly differ from the maps of random blocks (rank correlation 0.80)" in alike.verdict
    few = judge(Areas(*(area[:2] for area in areas)), np.array([0.9, 0.9]))
    assert few.verdict.startswith("2 images are too few for a verdict: it takes 10")
    assert "They" not in few.verdict  # nothing is said of either kind
    assert few.correlation is not None
    assert judge(Areas(*(area[:1] for area in areas))).verdict.startswith("1 image is too few")
    assert alike.compared == 11
    undefined = judge(areas, np.full(12, np.nan))
    assert undefined.correlation is None


def test_maps_of_a_trained_model_beat_random_ones_on_photographs() -> None:
    bundle = load(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))
    record = bundle.require_preprocess()
    samples = read_source(shared_data("imagenet_sample")).splits["test"][::14]  # 12 of them
    images = torch.stack([to_tensor(load_input(sample.source, record)) for sample in samples])
    with torch.inference_mode():
        targets = bundle.model(images).argmax(1)
    found = evidence(bundle.model, [(images, targets)], relevance, bundle.probabilities, steps=3, randoms=1)
    for gain in (found.deletion_gain, found.insertion_gain):
        assert isinstance(gain, Mean)
        assert gain.low is not None
        assert gain.low > 0
    assert found.correlation is not None
    assert found.correlation.value < 0.5
    assert found.verdict.startswith("The maps matter")
