"""From what the user names to a model: a bundle folder, a checkpoint of any published format, `box`, or a name of the zoo."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitkit.artefact import find_artefact, read_artefact, refusal
from vitkit.bundle import Bundle, is_bundle, read_bundle_config
from vitkit.config import UserError, did_you_mean, override, read_json
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig
from vitkit.zoo.adapt import adapt_channels, rebuild, resize
from vitkit.zoo.box import is_box, read_box
from vitkit.zoo.exported import exported_bundle
from vitkit.zoo.recognise import ADAPTED, Recognised, recognise
from vitkit.zoo.rows import ROWS, find_row, suggest
from vitkit.zoo.sidecar import SIDECAR

__all__ = ["MODEL_FIELDS", "PREPROCESS_FIELDS", "find_checkpoint", "load_model", "open_model", "unseen_pixels"]

MODEL_FIELDS = frozenset(f.name for f in dataclasses.fields(ViTConfig))
PREPROCESS_FIELDS = frozenset(f.name for f in dataclasses.fields(Preprocess))


def load_model(name: str | Path, *, offline: bool = False, exported: bool = False, **overrides: Any) -> Bundle:
    """Load what the user names. Local paths win over names of the zoo.

    Args:
        name: a bundle folder, a checkpoint file or folder of any format of `vitkit.converters`, ``box``, or a zoo name.
        offline: open no socket; a name must be in the download cache.
        exported: an exported artefact will do, which has an engine and no weights.
        overrides: fields of `ViTConfig` or `Preprocess` that the weights cannot tell. ``image_size``, ``patch_size`` and
            ``in_channels`` adapt the model to run so; ``source_image_size`` is the size that stored positions are for.

    Raises:
        UserError: nothing of that name, an unknown override, or weights that do not fit.
    """
    if exported and isinstance(name, str | Path) and (folder := find_artefact(Path(name))):
        if overrides:
            raise UserError(
                f"{folder} is an exported artefact: {', '.join(overrides)} cannot be changed any more. Export the model anew so."
            )
        return exported_bundle(read_artefact(folder))
    return open_model(name, overrides, offline=offline)[1]


def open_model(
    name: str | Path, overrides: Mapping[str, Any], *, offline: bool = False
) -> tuple[Recognised | None, Bundle]:
    """As `load_model`, with what a foreign checkpoint was recognised as; None of a bundle."""
    if not isinstance(name, str | Path) or not str(name).strip():
        raise UserError(f"a model is named by a path or a name of vit models, got {name!r}.")
    overrides = dict(overrides)
    source_image_size = overrides.pop("source_image_size", None)
    if isinstance(source_image_size, int):
        source_image_size = (source_image_size, source_image_size)
    known = MODEL_FIELDS | PREPROCESS_FIELDS | {"source_image_size"}
    for key in overrides:
        if key not in known:
            raise UserError(f"unknown override {key!r}.{did_you_mean(key, known)} Known: {', '.join(sorted(known))}.")
    found = None
    if _exists(path := Path(name)) and path.is_dir() and is_bundle(path):
        if source_image_size is not None:
            raise UserError(
                "source_image_size is for bare checkpoints; a bundle says itself what its positions are for."
            )
        bundle = Bundle.read(path)
    elif is_box(name):
        if source_image_size is not None:
            raise UserError("source_image_size is for bare checkpoints; box says itself what its positions are for.")
        bundle, overrides = read_box(overrides)
    else:
        said = {key: value for key, value in overrides.items() if key in MODEL_FIELDS}
        found = find_checkpoint(name, source_image_size=source_image_size, overrides=said, offline=offline)
        bundle = _to_bundle(found)
        # Published so: positions, or patch kernels, of one size, run at another.
        record = bundle.preprocess_record
        if record and "image_size" not in overrides and record.image_size != bundle.config.image_size:
            overrides["image_size"] = record.image_size
        if found.row and found.row.patch_size and "patch_size" not in overrides:
            overrides["patch_size"] = found.row.patch_size
    bundle = _apply(bundle, overrides)
    if unseen := unseen_pixels(bundle.config):
        bundle.notes += (unseen,)
    bundle.place = path if _exists(path) else None
    return found, bundle


def find_checkpoint(
    name: str | Path,
    *,
    source_image_size: tuple[int, int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    offline: bool = False,
) -> Recognised:
    """Recognise the foreign checkpoint that the user names, fetching it where it is a name of the zoo.

    Raises:
        UserError: nothing of that name, or as `recognise` and `fetch`.
    """
    path = Path(name)
    there = _exists(path)
    if there is False and path.is_symlink():
        raise UserError(f"{path} is a link to {path.readlink()}, which is not there.")
    if there and path.is_dir():
        if (path / "config.json").is_file() and (path / "model.safetensors").is_file() and not _is_foreign(path):
            read_bundle_config(path)  # says what is wrong with it
        if is_bundle(path / "model"):
            raise UserError(f"{path} is not a model. Did you mean {path / 'model'}?")
    if there and (folder := find_artefact(path)):
        raise refusal(folder)
    if there:
        return recognise(path, source_image_size=source_image_size, overrides=overrides)
    row = find_row(str(name))
    if row is None:
        near = [p.name for p in path.parent.iterdir()] if there is False and path.parent.is_dir() else []
        begun = any(row.name.startswith(str(name)) for row in ROWS)  # a name that was not typed to its end
        hint = ("" if begun else did_you_mean(path.name, near)) or suggest(str(name))
        raise UserError(f"no model {str(name)!r}: no such file or folder, and not a known name (see vit models).{hint}")
    from vitkit.zoo.fetch import fetch

    return recognise(fetch(row, offline=offline), source_image_size=source_image_size, overrides=overrides, row=row)


def _exists(path: Path) -> bool | None:
    """Is the path there? None where no file could have such a name."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a null byte
        return None


def _is_foreign(folder: Path) -> bool:
    """Is ``config.json`` that of another library, or something said by `vitkit.json`?"""
    if (folder / SIDECAR).is_file():
        return True
    try:
        return bool({"model_type", "architectures", "architecture"} & set(read_json(folder / "config.json")))
    except (UserError, TypeError):
        return False


def _to_bundle(found: Recognised) -> Bundle:
    """Read a recognised checkpoint."""
    model = found.build()
    notes = list(found.assumed)
    if found.ignored:
        notes.append(
            f"left out {len(found.ignored)} tensors that are no part of the image model ({found.ignored[0]}, ...)"
        )
    if model.head is not None and not model.head.weight.any():
        notes.append("the head is all zeros: these weights give features, not classes")
    calibration = found.sidecar.calibration if found.sidecar else {}
    return Bundle(
        model=model,
        preprocess_record=found.preprocess,
        classes=found.classes,
        source=found.source,
        licence=found.licence,
        notes=tuple(notes),
        **calibration,
    )


def unseen_pixels(config: ViTConfig) -> str | None:
    """What to say of pixels at the lower and right edge that fill no patch; None where there are none."""
    stride = 1 if config.stem is None else 4 * 2 ** max(len(config.stem) - 1, 0)
    rows, columns = (size % (patch * stride) for size, patch in zip(config.image_size, config.patch_size, strict=True))
    if not rows and not columns:
        return None
    H, W = config.image_size
    return f"images of {H}x{W} are not whole patches: {rows} rows and {columns} columns of pixels are not seen"


def _apply(bundle: Bundle, overrides: Mapping[str, Any]) -> Bundle:
    """Change the size and the settings of a loaded model."""
    changes = {k: v for k, v in overrides.items() if k in MODEL_FIELDS and k not in ADAPTED}
    config = override(bundle.config, changes, "override")
    if config != bundle.config:
        bundle.model = rebuild(config, dict(bundle.model.state_dict()), "override")
    adapted = {k: v for k, v in overrides.items() if k in ADAPTED}
    override(bundle.config, adapted, "override")  # says what is wrong with them
    if "in_channels" in adapted:
        bundle.model = adapt_channels(bundle.model, adapted["in_channels"])
    told = {k: v for k, v in overrides.items() if k in PREPROCESS_FIELDS}
    if {"image_size", "patch_size"} & set(adapted):
        size = adapted.get("image_size", bundle.config.image_size)
        bundle.model = resize(bundle.model, size, adapted.get("patch_size"))
        told["image_size"] = bundle.config.image_size
    if told and bundle.preprocess_record is not None:
        bundle.preprocess_record = override(bundle.preprocess_record, told, "override")
    elif {"mean", "std"} <= set(told):
        record = Preprocess(**{"image_size": bundle.config.image_size, **told})
        bundle.preprocess_record = record
        shown = {"fit": record.fit, "crop_fraction": f"{record.crop_fraction:g}", "interpolation": record.interpolation}
        if assumed := ", ".join(f"{name} {value}" for name, value in shown.items() if name not in told):
            bundle.notes += (f"assumed {assumed}: nothing tells how images were prepared",)
    elif set(told) - {"image_size"}:
        raise UserError(
            "nothing says how images were prepared for these weights: also say "
            f"{' and '.join(name for name in ('mean', 'std') if name not in told)}."
        )
    return bundle
