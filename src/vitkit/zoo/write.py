"""A model written in another library's format, after checking that it stays the same function."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vitkit.bundle import Bundle
from vitkit.config import UserError, did_you_mean, write_json
from vitkit.converters.engine import encode
from vitkit.converters.formats import format_named
from vitkit.converters.targets import family_for
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.files import SUFFIXES, write_weights
from vitkit.zoo.sidecar import SIDECAR, Sidecar, read_sidecar

__all__ = ["TARGETS", "Written", "differences", "largest_difference", "target_named", "write_checkpoint"]

TARGETS = ("google", "big_vision", "timm", "huggingface", "torchvision", "vitkit")
# Fields that change nothing of what a trained model computes at its own size.
NO_FUNCTION = frozenset({"drop_path", "dropout", "attention_dropout", "image_size", "position_rule"})


@dataclass(frozen=True)
class Written:
    """What was written, and what its readers must know."""

    files: tuple[Path, ...]
    layout: str
    tensors: int
    notes: tuple[str, ...]


def target_named(name: str, config: ViTConfig) -> ModuleType:
    """The format to write for ``--to NAME``; of Hugging Face's families the one that can express the model.

    Raises:
        UserError: no such target, or none of its families has such a model.
    """
    if name != "vitkit" and (config.position == "relative" or config.position_at != "stem"):
        own = "relative positions" if config.position == "relative" else f"positions at {config.position_at}"
        raise UserError(f"{own} are vitkit's own; no other format has them. Write the model with --to vitkit.")
    if name == "huggingface":
        return family_for(config)
    module = format_named(name)
    if module is None or name not in TARGETS:
        raise UserError(f"unknown format {name!r}.{did_you_mean(name, TARGETS)} Known: {', '.join(TARGETS)}.")
    return module


def differences(format_: ModuleType, config: ViTConfig, tensors: dict[str, Tensor]) -> dict[str, str]:
    """What the format's own code would compute otherwise, given the tensors alone: field to ``field is theirs, here ours``."""
    state = format_.normalise(tensors)
    theirs: ViTConfig = format_.config(state, config.image_size)
    return {
        field.name: f"{field.name} is {getattr(theirs, field.name)} there and {getattr(config, field.name)} in this model"
        for field in dataclasses.fields(ViTConfig)
        if field.name not in NO_FUNCTION
        and not _alike(field.name, getattr(theirs, field.name), getattr(config, field.name))
    }


def _alike(field: str, theirs: Any, ours: Any) -> bool:
    if field == "layer_scale":  # the initial value is of training; there being such tensors is of the function
        return (theirs is None) == (ours is None)
    return bool(theirs == ours)


def write_checkpoint(bundle: Bundle, destination: Path, target: str) -> Written:
    """Write the model of a bundle.

    Args:
        destination: a folder, or a bare file where the name ends in the format's extension.
        target: one of `TARGETS` but vitkit.

    Raises:
        UserError: the format cannot express the model; a bare file would be read as another function; it cannot be written.
    """
    format_ = target_named(target, bundle.config)
    own = {name: tensor.detach().cpu() for name, tensor in bundle.model.state_dict().items()}
    config, state = format_.prepare(bundle.config, own)
    tensors = encode(state, format_.rules(config))
    tensors = format_.released(tensors) if hasattr(format_, "released") else tensors
    different = differences(format_, config, tensors)
    if destination.suffix.lower() in SUFFIXES:
        return _bare(bundle, destination, format_, tensors, different)
    notes: list[str] = []
    files = _sidecars(format_, bundle, config, target, different, notes)
    destination.mkdir(parents=True, exist_ok=True)
    weights = destination / format_.FILE
    old = read_sidecar(destination)
    write_weights(weights, tensors)
    record = Sidecar(
        weights=weights.name,
        layout=format_.NAME,
        model=config,
        preprocess=bundle.preprocess_record,
        classes=bundle.classes,
        source=bundle.source,
        licence=bundle.licence,
        calibration={
            "task": bundle.task,
            "temperature": bundle.temperature,
            **({"thresholds": list(bundle.thresholds)} if bundle.thresholds else {}),
        },
    )
    if bundle.unknown:
        notes.append("what tells unknown images stays in the bundle; other formats have no place for it")
    if bundle.temperature != 1.0:
        notes.append(
            f"only {SIDECAR} holds the calibration: other programs' probabilities lack the temperature {bundle.temperature:.3f}"
        )
    for name, value in {**files, SIDECAR: record.to_dict()}.items():
        write_json(destination / name, value)
    if old:  # what the folder held before, of another format
        for name in {old.weights, "config.json", "preprocessor_config.json", "processor_config.json"} - {
            weights.name,
            *files,
        }:
            (destination / name).unlink(missing_ok=True)
    written = (weights, *(destination / name for name in (*files, SIDECAR)))
    return Written(written, format_.NAME, len(tensors), tuple(notes))


def _sidecars(
    format_: ModuleType, bundle: Bundle, config: ViTConfig, target: str, different: dict[str, str], notes: list[str]
) -> dict[str, Any]:
    """JSON files of the other library; what they, and the weights alone, cannot say there is noted."""
    if hasattr(format_, "write_sidecars"):
        record, reason = bundle.preprocess_record, ""
        for prepared in (record, None) if record else (None,):
            try:
                files: dict[str, Any] = format_.write_sidecars(config, prepared, bundle.classes)
            except UserError as error:
                reason = str(error)
                continue
            if reason:
                notes.append(f"only {SIDECAR} says how images are prepared: {reason}")
            told = format_.read_sidecars(files).model
            unread = {"gelu"} if config.mlp != "gelu" else set()
            other = [f"{k} {v}" for k, v in told.items() if k not in unread and v != getattr(config, k)]
            if other:
                notes.append(f"{target} itself computes with {', '.join(other)}; {SIDECAR} says what this model has")
            return files
        notes.append(f"only {SIDECAR} says what this model is, {target} itself cannot build it: {reason}")
    elif different := {field: text for field, text in different.items() if field not in format_.untold(config)}:
        notes.append(
            f"{SIDECAR} says what the {target} format cannot; other programs that read {format_.FILE} alone compute another "
            f"function: {'; '.join(different.values())}"
        )
    return {}


def _bare(
    bundle: Bundle, file: Path, format_: ModuleType, tensors: dict[str, Tensor], different: dict[str, str]
) -> Written:
    """Only the weights: refused where the format would make another function of them."""
    extension = Path(format_.FILE).suffix
    if file.suffix.lower() != extension:
        raise UserError(f"{file}: weights of layout {format_.NAME} are written as {extension} files, or name a folder.")
    if different:
        raise UserError(
            f"{file}: a bare {extension} file of layout {format_.NAME} would be another function, since it has no place for "
            f"what this model needs: {'; '.join(different.values())}. Name a folder (without {extension}): {SIDECAR} in it "
            "says the rest."
        )
    lost = [
        what
        for what, there in (
            ("preprocessing", bundle.preprocess_record),
            ("class names", bundle.classes),
            (
                f"the rule {bundle.config.position_rule} for positions at other sizes",
                bundle.config.position == "learned",
            ),
        )
        if there
    ]
    notes = [f"a bare file has no place for {', '.join(lost)}; a folder has"] if lost else []
    write_weights(file, tensors)
    return Written((file,), format_.NAME, len(tensors), tuple(notes))


@torch.inference_mode()
def largest_difference(a: VisionTransformer, b: VisionTransformer, seed: int = 0) -> tuple[float, float]:
    """(max |difference|, max |value|) of what two models of one input size give for noise images, two of them."""
    config = a.config
    images = torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(seed))
    x, y = a(images), b(images)
    return (x - y).abs().max().item(), x.abs().max().item()
