"""Writing tensors to a file that the publishers' own libraries read; a failed write leaves what was there."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitkit.config import UserError

__all__ = ["SUFFIXES", "write_weights"]

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")  # that files of weights usually have


def write_weights(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to ``path`` in the container that its suffix says.

    ``.safetensors``; ``.npz`` (arrays, not compressed); ``.pth .pt .bin .ckpt`` (torch.save of a plain dict).

    Raises:
        UserError: another suffix, a dtype that NumPy does not have for ``.npz``, or a file that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"cannot write weights to {path}: its name ends in none of {', '.join(SUFFIXES)}.")
    writer: Callable[[Path, dict[str, Tensor]], None]
    writer = {".safetensors": _safetensors, ".npz": _npz}.get(suffix, _torch)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(partial, _own(tensors))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(_usual_mode())  # safetensors makes files that only their owner may read
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        # safetensors and torch wrap what the system says into errors of their own
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot write {path}: {reason}. Free space or choose another place.") from None


def _usual_mode() -> int:
    """The permissions of a file that `open` makes."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, each with memory of its own: views would be written with all that they are part of."""
    written, seen = {}, set[int]()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.untyped_storage().nbytes() != value.nbytes or value.data_ptr() in seen:
            value = value.clone()
        seen.add(value.data_ptr())
        written[name] = value
    return written


def _safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path, metadata={"format": "pt"})  # transformers asks for it


def _npz(path: Path, tensors: dict[str, Tensor]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            try:
                array = tensor.numpy()
            except TypeError:
                raise UserError(
                    f"cannot write {name} of dtype {str(tensor.dtype).removeprefix('torch.')} to an .npz file, NumPy has no "
                    "such numbers: convert it to float32 before."
                ) from None
            with archive.open(name + ".npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _torch(path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, path)
