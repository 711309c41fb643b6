"""The model of a run from a recipe, what is trained around it, and the bundle that is released."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.classnames import class_indices
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.objectives.distill import Distill
from vitkit.objectives.masked_patch import MaskedPatches
from vitkit.recipes.recipe import Recipe
from vitkit.train import Objective
from vitkit.zoo.adapt import resize
from vitkit.zoo.load import load_model

__all__ = ["check_start", "config_for", "first_model", "released", "with_new_head", "with_objective"]


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
        model.init_weights(recipe.seed, recipe.head_bias, recipe.initialisation)
        return model
    bundle = load_model(recipe.start)
    console.say(f"start     {bundle.source}, licence {bundle.licence}")
    for note in bundle.notes:
        console.say(f"          {note}")
    return with_new_head(recipe, bundle.model, config.num_classes)


def with_new_head(recipe: Recipe, model: VisionTransformer, outputs: int) -> VisionTransformer:
    """A copy of a model at the recipe's size and with its dropout; a head of zeros for so many outputs, or none for 0."""
    sized = resize(model, recipe.model.image_size)
    own = dataclasses.replace(
        sized.config, num_classes=outputs, representation_size=0, head_bias=True, distilled=False,
        dropout=recipe.model.dropout, drop_path=recipe.model.drop_path,
    )  # fmt: skip
    copy = VisionTransformer(own)
    kept = {name: tensor for name, tensor in sized.state_dict().items() if not name.startswith(("head", "pre_logits"))}
    copy.load_state_dict(kept, strict=False)
    if own.num_classes:
        copy.reset_head(recipe.head_bias)
    return copy


def with_objective(
    recipe: Recipe, model: VisionTransformer, classes: Sequence[str] = (), console: Console | None = None
) -> tuple[nn.Module, Objective]:
    """(the module to train, what it minimises).

    Raises:
        UserError: a teacher that cannot be loaded or does not fit.
    """
    if recipe.distill.teacher:
        return model, _distillation(recipe, model, classes, console or Console())
    if recipe.objective == "masked_patch":
        masked = MaskedPatches(recipe.seed, recipe.preprocess.mean, recipe.preprocess.std)
        torch.manual_seed(recipe.seed)
        return masked.build(model), masked
    return model, Classify(recipe.smoothing, sigmoid=recipe.objective == "sigmoid")


def _distillation(recipe: Recipe, model: VisionTransformer, classes: Sequence[str], console: Console) -> Distill:
    """The teacher at the student's image size, seeing the student's images as it was trained to see its own."""
    asked = recipe.distill
    bundle = load_model(asked.teacher)
    console.say(f"teacher   {bundle.source}, licence {bundle.licence}")
    record, own = bundle.preprocess_record, recipe.preprocess
    if record is None:
        raise UserError(
            f"nothing says how images were prepared for the teacher {asked.teacher}. Teach with a model that says it, such as a "
            "bundle."
        )
    for name, theirs, ours in (
        ("channels", bundle.config.in_channels, model.config.in_channels),
        ("classes", bundle.config.num_classes, model.config.num_classes),
    ):
        if theirs != ours:
            raise UserError(f"the teacher {asked.teacher} has {theirs} {name} and the data {ours}; they must be equal.")
    indices = class_indices(bundle.classes, classes) if bundle.classes else range(len(classes))
    if bundle.classes and (wrong := [place for place, index in enumerate(indices) if index != place]):
        place = wrong[0]
        raise UserError(
            f"the teacher {asked.teacher} has other classes than the data, or the same in another order: class {place} is "
            f"{bundle.classes[place]!r} there and {classes[place]!r} here. Teach with a model of these classes."
        )
    size = model.config.image_size
    if bundle.config.image_size != size:
        theirs_ = bundle.config.image_size
        console.say(f"          it runs at {size[0]}x{size[1]} in place of its own {theirs_[0]}x{theirs_[1]}")
    teacher = resize(bundle.model, size)
    mean, std, mean_, std_ = (torch.tensor(values) for values in (own.mean, own.std, record.mean, record.std))
    rescale = torch.stack([std / std_, (mean - mean_) / std_])
    taught = Distill(teacher, asked.kind, asked.weight, asked.temperature, recipe.smoothing, rescale)
    taught.check(model)
    return taught


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
    started += f", taught by {recipe.distill.teacher}" if recipe.distill.teacher else ""
    return Bundle(
        model.eval(),
        recipe.preprocess,
        classes=classes if config.num_classes else None,
        source=f"vit pretrain {recipe.name}{started}",
        licence="the user's own",
        training=training,
    )
