"""Every recipe: it builds at full size, says what the paper says, and trains two steps when it is made small."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vitkit.analysis.flops import training_exaflops
from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer
from vitkit.recipes.book import all_recipes, find_recipe
from vitkit.recipes.recipe import Recipe, changed, fitted_optim, steps_of
from vitkit.zoo.record import count_parameters

RECIPES = all_recipes()
NAMES = [recipe.name for recipe in RECIPES]


def test_names_are_unique_and_the_small_ones_are_there() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert {"cifar10_small", "tiny_imagenet_small"} <= set(NAMES)


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_every_recipe_builds_at_full_size_without_memory(recipe: Recipe) -> None:
    with torch.device("meta"):
        model = VisionTransformer(recipe.model)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(recipe.model)
    steps = steps_of(recipe, recipe.images)
    optim, note = fitted_optim(recipe.optim, steps)
    assert (optim, note) == (recipe.optim, "")  # of full length nothing is changed
    assert optim.rate(steps - 1, steps) < optim.lr
    assert recipe.model.image_size == recipe.preprocess.image_size


# The parameters that VIT_SPEC 1.1 lists with 1,000 classes and without the tanh layer of pre-training.
PARAMETERS = {
    "paper_b16_imagenet": 86_567_656, "paper_b32_imagenet": 88_224_232, "paper_l16_imagenet": 304_326_632,
    "paper_l32_imagenet": 306_535_400, "paper_h14_jft300m": 632_045_800, "paper_r50_b16_jft300m": 98_659_112,
    "paper_r50_l32_jft300m": 328_994_856, "augreg_i1k_ti16": 5_717_416, "augreg_i1k_s16": 22_050_664,
    "augreg_i1k_s32": 22_878_952, "augreg_i21k_s16": 22_049_896, "augreg_i21k_b16": 86_566_120,
}  # fmt: skip


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    model = dataclasses.replace(find_recipe(name).model, num_classes=1000, representation_size=0)
    assert count_parameters(model) == count


# exaFLOPs of table 6 as VIT_SPEC 10 reproduces them
JFT = {
    "paper_b32_jft300m": 56.3, "paper_b16_jft300m": 223.7, "paper_l32_jft300m": 195.9, "paper_l16_jft300m_7ep": 783.6,
    "paper_l16_jft300m_14ep": 1567.2, "paper_h14_jft300m": 4258.6, "paper_r50_b32_jft300m": 107.8,
    "paper_r50_b16_jft300m": 274.2, "paper_r50_l32_jft300m": 247.3, "paper_r50_l16_jft300m_7ep": 834.3,
    "paper_r50_l16_jft300m_14ep": 1668.6,
}  # fmt: skip


@pytest.mark.parametrize("name", JFT)
def test_the_jft_recipes_cost_what_table_6_says(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.epochs is not None
    assert training_exaflops(recipe.model, recipe.images * recipe.epochs) == pytest.approx(JFT[name], rel=1e-3)


def test_lengths_are_those_of_the_sources() -> None:
    steps = {name: steps_of(find_recipe(name), find_recipe(name).images) for name in NAMES}
    assert steps["better_s16_90ep"] == 111_477
    assert steps["augreg_i1k_s16"] == 92_897
    assert steps["paper_l16_jft300m_7ep"] == pytest.approx(517_800, rel=1e-3)
    assert steps["paper_finetune_pets"] == 500
    assert steps["masked_b16"] == 1_000_000


def test_changes_reach_the_part_they_name() -> None:
    recipe = find_recipe("better_s16_90ep")
    new = changed(
        recipe,
        {
            "steps": 7,
            "optim.lr": 0.1,
            "model.depth": 3,
            "image_size": (64, 64),
            "mixing.mixup": 0.5,
            "augment.layers": 1,
            "seed": 4,
        },
    )
    assert (new.steps, new.epochs, new.optim.lr, new.model.depth, new.seed) == (7, None, 0.1, 3, 4)
    assert new.model.image_size == new.preprocess.image_size == (64, 64)
    assert (new.mixing.mixup, new.augment.layers) == (0.5, 1)  # type: ignore[attr-defined]
    assert changed(new, {"epochs": 2}).steps is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.lrr": 1}, r"has no setting 'optim\.lrr'\. Did you mean 'optim\.lr'\?"),
        ({"batchsize": 1}, r"has no setting 'batchsize'\. Did you mean 'batch_size'\?"),
        ({"batch_size": 2.5}, r"batch_size must be a whole number, got 2\.5"),
        ({"batch_size": "many"}, r"batch_size must be a whole number, got 'many'"),
        ({"batch_size": 0}, r"batch_size must be above 0, got 0"),
        ({"epochs": True}, r"epochs must be a number, got True"),
        ({"steps": 3, "epochs": 2}, r"either steps or epochs, not both"),
        ({"objective": "sofmax"}, r"objective is 'sofmax'; known: .* Did you mean 'softmax'"),
        ({"initialisation": "smal"}, r"initialisation is 'smal'; known: official, small. Did you mean 'small'\?"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\)"),
        ({"optim.lr": "fast"}, r"lr must be of type float, got 'fast'"),
        ({"model.num_heads": 5}, r"384 does not divide into 5 heads"),
        ({"model.image_size": (64, 64)}, r"say both"),
    ],
)
def test_nonsense_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(find_recipe("better_s16_90ep"), changes)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=rf"no recipe 'cifar_small'\. Did you mean 'cifar10_small'\? .* all {len(NAMES)}\."
    ):
        find_recipe("cifar_small")


def test_a_warm_up_longer_than_the_run_becomes_a_tenth_of_it_and_says_so() -> None:
    optim, note = fitted_optim(find_recipe("paper_b16_imagenet").optim, 50)
    assert (optim.warmup_steps, optim.warmup) == (0, 0.1)
    assert "warm-up of 10000 steps does not fit into 50" in note
