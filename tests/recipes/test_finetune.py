"""Which recipe for which data: bounds, and that a plan survives its JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from vitkit.config import UserError
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig
from vitkit.recipes.finetune import Plan, choose_recipe, train_config, validation_fraction

TINY = ViTConfig.named("Ti/16")


def choose(images: int, **changes: object):
    options = {"config": TINY, "pretrained": True, "train": "all", "upscaled": False, **changes}
    return choose_recipe(images=images, **options)


def test_more_images_get_fewer_epochs_and_larger_batches() -> None:
    recipes = [choose(n) for n in (50, 300, 5_000, 50_000)]
    assert [r.epochs for r in recipes] == sorted((r.epochs for r in recipes), reverse=True)
    assert [r.batch_size for r in recipes] == sorted(r.batch_size for r in recipes)


def test_large_grids_train_smaller_in_whole_patches() -> None:
    assert choose(300).train_size == (192, 192)
    wide = ViTConfig.named("Ti/16", image_size=(224, 448))
    assert choose(300, config=wide).train_size == (192, 384)
    small = ViTConfig.named("Ti/16", image_size=(96, 96))
    assert choose(300, config=small).train_size == (96, 96)
    assert choose(300, config=ViTConfig.named("Ti/16", image_size=(256, 256))).train_size == (192, 192)
    assert choose(300, config=ViTConfig.named("Ti/16", image_size=(384, 384))).train_size == (336, 336)
    hybrid = ViTConfig.named("R50+B/16")
    assert choose(300, config=hybrid).train_size == hybrid.image_size


def test_a_small_model_sees_enlarged_images_nearly_whole_and_others_cut() -> None:
    small = ViTConfig(embed_dim=32, depth=2, num_heads=2, mlp_dim=64, patch_size=(4, 4), image_size=(32, 32))
    own, enlarged = (choose(1_000, config=small, upscaled=upscaled) for upscaled in (False, True))
    assert own.train_size == (24, 24)
    assert enlarged.train_size == (32, 32)
    assert enlarged.crop_area > own.crop_area
    assert own.epochs == enlarged.epochs == 25
    large = choose(1_000, config=dataclasses.replace(small, image_size=(64, 64)))
    assert large.epochs == 6.3  # a view costs four times as much


def test_a_frozen_backbone_has_no_stochastic_depth() -> None:
    assert choose(300, train="head").drop_path == 0
    with pytest.raises(UserError, match="known: all, head, lora"):
        choose(300, train="some")


def test_a_validation_part_is_smaller_where_images_are_few() -> None:
    assert validation_fraction(20) == 0.1
    assert validation_fraction(500) == 0.2


def test_a_plan_survives_its_json() -> None:
    recipe = choose(300)
    plan = Plan(Preprocess((224, 224)), "why", recipe, train_config(recipe, 300, 1), 2, 12.5)
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())), "plan.json")
    assert again == plan
    with pytest.raises(UserError, match=r"plan\.json is not a plan: 'train'"):
        Plan.from_dict({"preprocess": {}}, "plan.json")


def test_every_field_of_the_recipe_is_read() -> None:
    """A setting that changes nothing would be a lie: each must reach the loop, the views, the model or the plan."""
    recipe = choose(300)
    plan = Plan(Preprocess((224, 224)), "", recipe, train_config(recipe, 300, 1), 2, 0.0)
    elsewhere = {"smoothing", "drop_path", "train_size"}  # objective, model and views: tests/jobs
    changed = {
        "epochs": 3.0, "batch_size": 8, "lr": 1e-5, "layer_decay": 0.5, "weight_decay": 0.3, "warmup": 0.4,
        "decay": "linear", "ema": 0.9, "crop_area": 0.9, "flip": False, "jitter": 0.2, "shift": 0.3, "evaluations": 2,
        "patience": 1,
    }  # fmt: skip
    assert set(changed) | elsewhere == {f.name for f in dataclasses.fields(recipe)}
    for name, value in changed.items():
        other = dataclasses.replace(recipe, **{name: value})
        other_plan = dataclasses.replace(plan, recipe=other)
        assert (train_config(other, 300, 1), other_plan.augment()) != (plan.train, plan.augment()), name


@pytest.mark.parametrize("pretrained", [True, False])
def test_several_classes_per_image_keep_larger_crops_and_unsmoothed_labels(pretrained: bool) -> None:
    one, many = (
        choose_recipe(
            images=500, config=ViTConfig(), pretrained=pretrained, train="all", upscaled=False, multilabel=multilabel
        )
        for multilabel in (False, True)
    )
    assert (many.crop_area, many.smoothing) == (0.5, 0.0)
    assert one.crop_area < 0.5
    assert one.smoothing == 0.1
    assert dataclasses.replace(many, crop_area=one.crop_area, smoothing=one.smoothing) == one
