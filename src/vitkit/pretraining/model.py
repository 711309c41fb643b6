"""The model of a run from a recipe, what is trained around it, and the bundle that is released."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.objectives.masked_patch import MaskedPatches
from vitkit.recipes.recipe import Recipe
from vitkit.train import Objective
from vitkit.zoo.adapt import resize
from vitkit.zoo.load import load_model

__all__ = ["check_start", "config_for", "first_model", "released", "with_objective"]


def config_for(recipe: Recipe, classes: int) -> ViTConfig:
    """The recipe's model with a head for the data's classes; none where labels are not read."""
    outputs = 0 if recipe.objective == "masked_patch" else classes
    return dataclasses.replace(recipe.model, num_classes=outputs)


def check_start(recipe: Recipe) -> None:
    """Refuse a fine-tuning recipe without weights, which can be told before any data is read.

    Raises:
        UserError: it needs ``start``.
    """
    if recipe.needs_start and not recipe.start:
        raise UserError(f"recipe {recipe.name} goes on from pre-trained weights: say start=WEIGHTS.")


def first_model(recipe: Recipe, classes: int, console: Console) -> VisionTransformer:
    """The model before step 0: random weights, or those of ``start`` at the recipe's size with a new head of zeros.

    Raises:
        UserError: a fine-tuning recipe without ``start``, or weights that cannot be loaded.
    """
    config = config_for(recipe, classes)
    check_start(recipe)
    if not recipe.start:
        model = VisionTransformer(config)
        model.init_weights(recipe.seed, recipe.head_bias)
        return model
    bundle = load_model(recipe.start)
    console.say(f"start     {bundle.source}, licence {bundle.licence}")
    for note in bundle.notes:
        console.say(f"          {note}")
    sized = resize(bundle.model, recipe.model.image_size)
    own = dataclasses.replace(
        sized.config, num_classes=config.num_classes, representation_size=0, head_bias=True, distilled=False,
        dropout=recipe.model.dropout, drop_path=recipe.model.drop_path,
    )  # fmt: skip
    model = VisionTransformer(own)
    kept = {name: tensor for name, tensor in sized.state_dict().items() if not name.startswith(("head", "pre_logits"))}
    model.load_state_dict(kept, strict=False)
    if own.num_classes:
        model.reset_head(recipe.head_bias)
    return model


def with_objective(recipe: Recipe, model: VisionTransformer) -> tuple[nn.Module, Objective]:
    """(the module to train, what it minimises)."""
    if recipe.objective == "masked_patch":
        masked = MaskedPatches(recipe.seed, recipe.preprocess.mean, recipe.preprocess.std)
        torch.manual_seed(recipe.seed)
        return masked.build(model), masked
    return model, Classify(recipe.smoothing, sigmoid=recipe.objective == "sigmoid")


def backbone_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's own tensors among those of the module that was trained."""
    inner = {name.removeprefix("backbone."): t for name, t in weights.items() if name.startswith("backbone.")}
    return inner or weights


def released(
    recipe: Recipe, config: ViTConfig, weights: dict[str, Tensor], classes: tuple[str, ...], training: dict[str, Any]
) -> Bundle:
    """The bundle of the trained weights, without what regularised the training."""
    model = VisionTransformer(dataclasses.replace(config, dropout=0.0, drop_path=0.0))
    model.load_state_dict({name: tensor.detach().cpu() for name, tensor in backbone_weights(weights).items()})
    started = f" from {recipe.start}" if recipe.start else ""
    return Bundle(
        model.eval(),
        recipe.preprocess,
        classes=classes if config.num_classes else None,
        source=f"vit pretrain {recipe.name}{started}",
        licence="the user's own",
        training=training,
    )
