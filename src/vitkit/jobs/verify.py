"""`vit verify`: what a checkpoint is, how much of that is proved, and what to beware of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.pixels import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.load import PREPROCESS_FIELDS, open_model
from vitkit.zoo.peers import Compared, NotComparedError, compare_with_peer
from vitkit.zoo.recognise import Recognised, file_sha256
from vitkit.zoo.reference import REFERENCES, Reference, pattern

__all__ = ["Verified", "verify"]

# What published Vision Transformers were trained with; others are possible, and worth a second look.
USUAL = {"[-1, 1]": (HALF, HALF), "ImageNet": (IMAGENET_MEAN, IMAGENET_STD), "CLIP": (CLIP_MEAN, CLIP_STD)}
TOLERANCE = 1e-4  # of the outputs' scale, to an independent implementation


@dataclass(frozen=True)
class Verified:
    """What was found; `warnings` is empty where nothing is to beware of."""

    source: str
    layout: str
    config: ViTConfig
    tensors: int
    ignored: tuple[str, ...]
    preprocess: Preprocess | None
    checks: dict[str, str]  # what was compared with what -> the figure
    warnings: tuple[str, ...]
    told_by: dict[str, str] = field(default_factory=dict)  # of configuration and preprocessing

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dataclasses.asdict(self)


def verify(
    source: str | Path,
    *,
    strict: bool = False,
    overrides: dict[str, Any] | None = None,
    console: Console | None = None,
) -> Verified:
    """Recognise ``source``, account for its tensors, and compare it with what is known of it.

    Args:
        source: a bundle folder, a checkpoint file or folder of any format, or a zoo name.
        strict: warnings are failures.
        overrides: fields of the model or preprocessing configuration that the weights cannot tell, as of `vitkit.load`.

    Raises:
        UserError: not a whole checkpoint; outputs that differ from the reference's or from an independent implementation's;
            with ``strict``, any warning.
    """
    console = console or Console()
    found, bundle = open_model(source, overrides or {})
    if found is None:
        layout, tensors, ignored = "vitkit bundle, checksum right", len(bundle.model.state_dict()), tuple[str, ...]()
        told_by = {"model": "config.json", "preprocess": "config.json"}
    else:
        layout, tensors, ignored = found.format.NAME, found.tensors, found.ignored
        preprocess_from = found.preprocess_from or "nothing"
        if PREPROCESS_FIELDS & set(overrides or {}):
            preprocess_from = f"you and {preprocess_from}" if found.preprocess else "you"
        told_by = {"model": found.config_from, "preprocess": preprocess_from}
    _describe(console, bundle, found, layout, tensors, ignored, told_by)
    warnings = _warnings(bundle, found)
    checks, failures = _compare(bundle, found)
    for name, figure in checks.items():
        console.say(f"{name:<10}{figure}")
    for warning in warnings:
        console.warn(warning)
    if failures or (strict and warnings):
        raise UserError(f"{source}: not verified: {'; '.join(failures or warnings)}")
    return Verified(
        str(source), layout, bundle.config, tensors, ignored, bundle.preprocess_record, checks, warnings, told_by
    )


def _describe(
    console: Console,
    bundle: Bundle,
    found: Recognised | None,
    layout: str,
    tensors: int,
    ignored: tuple[str, ...],
    told_by: dict[str, str],
) -> None:
    c = bundle.config
    H, W = c.image_size
    h, w = c.grid
    parameters = sum(p.numel() for p in bundle.model.parameters())
    if found:
        size = sum(path.stat().st_size for path in found.file.files)
        console.say(f"file      {found.file.path} ({found.file.container}, {size / 1e6:.1f} MB)")
    console.say(f"layout    {layout}: all {tensors} tensors of the image model matched, {len(ignored)} others left out")
    if ignored:
        console.say(f"          left out: {', '.join(ignored[:3])}{', ...' if len(ignored) > 3 else ''}")
    console.say(f"source    {bundle.source}, licence {bundle.licence}")
    console.say(f"model     {parameters / 1e6:.2f} M parameters, width {c.embed_dim}, depth {c.depth}, {c.num_heads} heads, "
                f"mlp {c.mlp_dim}, patch {c.patch_size[0]}x{c.patch_size[1]}, {c.num_classes} outputs")  # fmt: skip
    extras = {"registers": c.registers, "ResNet stem": c.stem, "pre-norm": c.pre_norm, "layer scale": c.layer_scale is not None,
              "tanh layer": c.representation_size, "distillation head": c.distilled}  # fmt: skip
    has = "".join(
        f", {name}" for name, there in extras.items() if there is not None and there is not False and there != 0
    )
    activation = "SwiGLU" if c.mlp == "swiglu" else f"{c.gelu} GELU"
    console.say(f"          {activation}, norm epsilon {c.norm_eps:g}, pool {c.pool}{has} (told by {told_by['model']})")
    positions = f"{c.position}, {h}x{w} of {H}x{W} pixels"
    console.say(f"positions {positions}; to other sizes by the rule {c.position_rule}")
    record = bundle.preprocess_record
    if record:
        size_ = f"{record.image_size[0]}x{record.image_size[1]}"
        shown = f"{size_} {record.fit} (crop fraction {record.crop_fraction:g}), {record.interpolation}"
        mean, std = ([f"{v:g}" for v in values] for values in (record.mean, record.std))
        console.say(f"images    {shown}, mean {' '.join(mean)}, std {' '.join(std)} (told by {told_by['preprocess']})")
    names = bundle.classes
    console.say(f"classes   {f'{len(names)} names: {names[0]}, {names[1 % len(names)]}, ...' if names else 'no names'}")


def _warnings(bundle: Bundle, found: Recognised | None) -> tuple[str, ...]:
    config, record = bundle.config, bundle.preprocess_record
    warnings = list(bundle.notes)
    if not config.num_classes:
        warnings.append("there is no head: these weights give features, not classes")
    elif not config.head_bias:
        warnings.append("the head is a projection into an embedding shared with text: it gives no classes")
    elif bundle.classes is None:
        warnings.append(f"the head has {config.num_classes} outputs without class names")
    if record is None:
        warnings.append("nothing says how images were prepared for these weights: say mean and std when loading")
    else:
        if record.channels == 3 and not any(_close(record, *pair) for pair in USUAL.values()):
            warnings.append(f"unusual mean {record.mean} and std {record.std}; usual are those of {', '.join(USUAL)}")
        if found and record.image_size != found.config.image_size:
            h, w = found.config.image_size
            warnings.append(f"positions are stored for images of {h}x{w}; they are resampled to the size above")
    dtypes = {tensor.dtype for tensor in found.file.header.values()} if found else set()
    if low := sorted(str(d).removeprefix("torch.") for d in dtypes & {torch.float16, torch.bfloat16}):
        warnings.append(f"stored as {', '.join(low)}: read into float32, but digits were lost when they were stored")
    return tuple(warnings)


def _close(record: Preprocess, mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    pairs = zip((*record.mean, *record.std), (*mean, *std), strict=True)
    return all(abs(a - b) < 1e-3 for a, b in pairs)


def _compare(bundle: Bundle, found: Recognised | None) -> tuple[dict[str, str], list[str]]:
    """Figures, and what is wrong with them."""
    checks, failures = {}, []
    digests = [file_sha256(path) for path in found.file.files] if found else []
    if digests:
        checks["sha256"] = ", ".join(digests)
    reference = next((known for known in REFERENCES if [known.sha256] == digests), None)
    if reference:
        difference = _from_reference(bundle.model, reference)
        checks["reference"] = (
            f"outputs on the reference pattern differ by at most {difference:.2g} from {reference.made_by}"
        )
        if difference > reference.tolerance:
            failures.append(f"outputs on the reference pattern differ by {difference:.2g}")
    else:
        checks["reference"] = "no reference outputs are known for this file"
    try:
        compared = compare_with_peer(bundle, found)
    except NotComparedError as reason:
        checks["self-test"] = f"not compared with an independent implementation: {reason}"
        return checks, failures
    reading = "which read the file by its own code" if compared.own_reading else "given the tensors that vitkit read"
    checks["self-test"] = (
        f"{compared.library}'s {compared.model}, {reading}: outputs differ by at most {compared.difference:.2g} of "
        f"{compared.scale:.3g}" + (", under the same assumptions" if found and found.assumed else "")
    )
    if not _agrees(compared):
        failures.append(f"{compared.library} computes something else (difference {compared.difference:.2g})")
    return checks, failures


def _agrees(compared: Compared) -> bool:
    return compared.difference <= TOLERANCE * compared.scale


@torch.inference_mode()
def _from_reference(model: VisionTransformer, reference: Reference) -> float:
    outputs = model(pattern(model.config.in_channels, model.config.image_size))[0]
    expected = torch.tensor(reference.outputs)
    return (outputs[: len(expected)] - expected).abs().max().item()
