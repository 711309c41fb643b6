"""`vit convert`: a model written in another library's format, read back and compared before it is called done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitkit.bundle import is_bundle
from vitkit.config import UserError, did_you_mean
from vitkit.console import Console
from vitkit.weights.files import SUFFIXES
from vitkit.zoo.load import load_model
from vitkit.zoo.sidecar import SIDECAR
from vitkit.zoo.write import TARGETS, largest_difference, write_checkpoint

__all__ = ["ConvertResult", "convert"]


@dataclass(frozen=True)
class ConvertResult:
    """What was written and how the model read back differs."""

    files: tuple[Path, ...]
    layout: str
    difference: float  # max |logit difference| on noise images
    scale: float  # max |logit|


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: str,
    force: bool = False,
    overrides: dict[str, Any] | None = None,
    console: Console | None = None,
) -> ConvertResult:
    """Write the model ``source`` in the format ``to`` and read it back.

    Args:
        source: a bundle folder, a checkpoint file or folder of any format, or a zoo name.
        destination: a folder, or a bare file where the name ends in the format's extension.
        to: google | big_vision | timm | huggingface | torchvision | vitkit (a bundle folder).
        force: replace what is at ``destination``.
        overrides: fields of the model or preprocessing configuration that the weights cannot tell.

    Raises:
        UserError: no such model or format; the format cannot express the model; the destination exists; what was read back
            computes something else.
    """
    console = console or Console()
    if to not in TARGETS:
        raise UserError(f"unknown format {to!r}.{did_you_mean(to, TARGETS)} Known: {', '.join(TARGETS)}.")
    path = Path(destination)
    if to == "vitkit" and path.suffix.lower() in SUFFIXES:
        raise UserError(f"{path}: a bundle is a folder, not a file; leave {path.suffix} out.")
    _check_free(path, force)
    bundle = load_model(source, **(overrides or {}))
    console.say(f"model     {bundle.source}")
    for note in bundle.notes:
        console.say(f"          {note}")
    if to == "vitkit":
        files: tuple[Path, ...] = (bundle.save(path) / "model.safetensors", path / "config.json")
        layout, tensors, notes = "vitkit", len(bundle.model.state_dict()), tuple[str, ...]()
    else:
        written = write_checkpoint(bundle, path, to)
        files, layout, tensors, notes = written.files, written.layout, written.tensors, written.notes
    for note in notes:
        console.warn(note)
    console.say(f"wrote     {', '.join(map(str, files))}: {tensors} tensors of layout {layout}")
    told: dict[str, Any] = {"image_size": bundle.config.image_size} if path.is_file() else {}
    back = load_model(path, **told)
    difference, scale = largest_difference(bundle.model, back.model)
    console.say(f"check     read back: largest difference of an output {difference:.2g}, of outputs up to {scale:.3g}")
    if not difference <= 1e-5 * max(scale, 1.0):
        raise UserError(
            f"{path}: read back, the model computes something else (difference {difference:.2g}). Do not use the file; this is "
            "a bug in vitkit worth reporting."
        )
    return ConvertResult(files, layout, difference, scale)


def _check_free(path: Path, force: bool) -> None:
    """Only what vitkit wrote is written over, and as a whole: no weights of another format stay beside the new ones."""
    if path.suffix.lower() in SUFFIXES:
        if path.is_dir() or (path.is_file() and not force):
            raise UserError(
                f"{path} exists. Choose another place{'' if path.is_dir() else ', or --force to write over it'}."
            )
        return
    if path.is_file():
        raise UserError(f"{path} is a file; name a folder, or a file that ends in the format's extension.")
    if not path.is_dir() or not any(path.iterdir()):
        return
    ours = is_bundle(path) or (path / SIDECAR).is_file()
    if not ours:
        raise UserError(f"{path} exists and holds something else than a model written by vitkit. Choose another place.")
    if not force:
        raise UserError(f"{path} exists. Choose another place, or --force to write over it.")
