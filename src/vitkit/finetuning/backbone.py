"""The weights a run starts from, how its images are fitted, and the new head."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit.bundle import Bundle, is_bundle, read_bundle_config, unprepared
from vitkit.config import UserError, read_json
from vitkit.console import Console
from vitkit.data.bands import measure_channels
from vitkit.data.pixels import Preprocess, choose_fit
from vitkit.finetuning.arguments import Arguments
from vitkit.finetuning.data import TaskData
from vitkit.models.vit import VisionTransformer
from vitkit.recipes.finetune import Plan
from vitkit.recipes.sizes import SMALL_MODEL, run_size, scratch_config
from vitkit.zoo.adapt import adapt_channels, resize
from vitkit.zoo.box import PLACE, is_box
from vitkit.zoo.load import MODEL_FIELDS, find_checkpoint, load_model

__all__ = ["check_model", "choose_preprocess", "describe_size", "load_backbone", "with_new_head"]

MAX_MEASURED = 1_000  # training images, evenly spread, that mean and std of channels are measured on


def check_model(arguments: Arguments) -> None:
    """Is the model there, and does it say all it must? Asked before the data are read, which may take long.

    Raises:
        UserError: as `load_backbone`, but for the values of the weights.
    """
    if arguments.model is None:
        return
    if is_box(arguments.model):
        return
    if is_bundle(Path(arguments.model)):
        read_bundle_config(Path(arguments.model))
        return
    said = dict(arguments.overrides)
    size = said.pop("source_image_size", None)
    found = find_checkpoint(
        arguments.model,
        source_image_size=(size, size) if isinstance(size, int) else size,
        overrides={name: value for name, value in said.items() if name in MODEL_FIELDS},
    )
    if found.preprocess is None and not {"mean", "std"} <= set(said):
        raise unprepared(found.source)


def load_backbone(
    arguments: Arguments, stored_plan: Path | None, data: TaskData, console: Console
) -> tuple[Bundle, bool]:
    """The weights to start from, without their head, at the size to run at."""
    if arguments.model is not None:
        size = _plan(stored_plan).preprocess.image_size if stored_plan else arguments.image_size
        sized: dict[str, Any] = {"image_size": size} if size else {}
        said = "patch_size" in arguments.overrides
        if (
            size and not said and is_box(arguments.model) and max(size) <= SMALL_MODEL
        ):  # as `run_size` would: its patches stay
            sized["patch_size"] = tuple(read_bundle_config(PLACE)["model"]["patch_size"])
        bundle = load_model(arguments.model, **{**arguments.overrides, **sized})
        record = bundle.require_preprocess()
        if bundle.config.pool == "none":
            raise UserError("this model classifies every token (pool='none'); fine-tuning needs one answer per image.")
        console.say(f"model     {bundle.source}, {describe_size(bundle.model)}, licence {bundle.licence}")
        for note in bundle.notes:
            console.say(f"          {note}")
        if not {"image_size"} & {*sized, *arguments.overrides}:
            (H, W), own = run_size(bundle.config, data.training_scan.sizes), bundle.config.image_size
            if own != (H, W):
                console.say(
                    f"size      {H}x{W}: the photos are larger than the model's own {own[0]}x{own[1]}, and {_more(own, (H, W))} "
                    f"work makes it more accurate; --image-size {own[0] if own[0] == own[1] else f'{own[0]}x{own[1]}'} for its own"
                )
                record = dataclasses.replace(record, image_size=(H, W))
                bundle = dataclasses.replace(bundle, model=resize(bundle.model, (H, W)), preprocess_record=record)
        return _of_channels(bundle, arguments, data, console), True
    config = scratch_config(
        data.training_scan.sizes, arguments.image_size, len(data.source.classes), arguments.channels
    )
    model = VisionTransformer(config)
    model.init_weights(arguments.seed)
    console.warn(
        "--model scratch: training a small Vision Transformer from random weights. Without pre-training it learns little from "
        "few images; leave --model out, or name a pre-trained checkpoint, for a better result."
    )
    console.say(f"model     random weights, {describe_size(model)}")
    if arguments.image_size not in (None, config.image_size):
        H, W = config.image_size
        console.say(f"          the asked-for size is cut to whole patches: {H}x{W}")
    record = Preprocess(image_size=config.image_size, fit="squash", crop_fraction=0.875)
    if arguments.channels != 3:
        record = _measured(record, arguments, data, console)
    return Bundle(model.eval(), record, source="random weights", licence="the user's own"), False


def _more(own: tuple[int, int], size: tuple[int, int]) -> str:
    """In words, how much more a forward costs at ``size``, to a tenth."""
    times = size[0] * size[1] / (own[0] * own[1])
    return "a third more" if 1.25 < times < 1.42 else f"{times:.1f} times the"


def _of_channels(bundle: Bundle, arguments: Arguments, data: TaskData, console: Console) -> Bundle:
    """The model for the images' channels; where they are not the ones it was trained on, its first layer is adapted."""
    had, channels = bundle.config.in_channels, arguments.channels
    if had == channels:
        return bundle
    model = adapt_channels(bundle.model, channels)
    console.say(f"channels  first layer adapted from {had} to {channels} channels")
    record = _measured(bundle.require_preprocess(), arguments, data, console)
    return dataclasses.replace(bundle, model=model, preprocess_record=record)


def _measured(record: Preprocess, arguments: Arguments, data: TaskData, console: Console) -> Preprocess:
    """The record with mean and standard deviation of each channel over training images."""
    samples = data.splits.train
    chosen = [samples[i * len(samples) // MAX_MEASURED] for i in range(MAX_MEASURED)]
    chosen = chosen if len(samples) > MAX_MEASURED else list(samples)
    mean, std = measure_channels([sample.source for sample in chosen], arguments.channels, arguments.max_pixels)
    console.say(f"channels  {arguments.channels}, mean and std measured on {len(chosen)} training images")
    return dataclasses.replace(record, mean=mean, std=std)


def describe_size(model: VisionTransformer) -> str:
    c = model.config
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{parameters / 1e6:.2f} M parameters, width {c.embed_dim}, depth {c.depth}, patch {c.patch_size[0]}x{c.patch_size[1]}, "
        f"image {c.image_size[0]}x{c.image_size[1]}"
    )


def choose_preprocess(
    arguments: Arguments, stored_plan: Path | None, backbone: Bundle, data: TaskData, console: Console
) -> tuple[Preprocess, str]:
    if stored_plan is not None:
        plan = _plan(stored_plan)
        return plan.preprocess, plan.fit_reason
    record = backbone.require_preprocess()
    if arguments.fit == "auto":
        fit, reason = choose_fit(data.training_scan.sizes, record.image_size, record.crop_fraction)
    else:
        fit, reason = arguments.fit, "as asked for"
    console.say(f"fit       {fit}: {reason}")
    return dataclasses.replace(record, fit=fit), reason


def _plan(run: Path) -> Plan:
    where = run / "plan.json"
    return Plan.from_dict(read_json(where), str(where))


def with_new_head(backbone: Bundle, classes: int, bias: Tensor | None = None) -> VisionTransformer:
    """The backbone with a head for the data's classes, zero but for its ``bias`` (O,)."""
    config = dataclasses.replace(backbone.config, num_classes=classes, head_bias=True, distilled=False)
    model = VisionTransformer(config)
    old_heads = ("head.", "head_dist.")
    state = {name: t for name, t in backbone.model.state_dict().items() if not name.startswith(old_heads)}
    model.load_state_dict(state, strict=False)
    model.reset_head()
    if bias is not None:
        model.head.bias.data.copy_(bias)  # type: ignore[union-attr]
    return model
