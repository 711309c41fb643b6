"""Tensors of which each rank has a part, to and from a folder of safetensors files, on any number of ranks.

PyTorch's Distributed Checkpoint is imported where it is used, since few runs do.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from vitkit.config import UserError

__all__ = ["read_parts", "sizes_of_parts", "write_parts"]


def write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Each rank writes its parts as one file; of a tensor that all have, one rank writes all. Every rank calls this.

    Raises:
        UserError: the folder cannot be written.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        with _quiet():
            writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
            save(dict(tensors), storage_writer=writer, no_dist=not dist.is_initialized())
    except (CheckpointException, OSError) as error:
        raise UserError(f"cannot write {folder}: {_reason(error)}. Free space or choose another place.") from None


def read_parts(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill the targets, each whole or this rank's part, from what any number of ranks wrote. Every rank calls this.

    Raises:
        UserError: a file that is missing or damaged, or a tensor that is not in them.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with _quiet():
            reader = HuggingFaceStorageReader(str(folder))
            load(dict(targets), storage_reader=reader, no_dist=not dist.is_initialized())
    except (CheckpointException, OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{folder} cannot be read: {_reason(error)}.") from None


def sizes_of_parts(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape of the whole, and type, of each tensor that `write_parts` wrote.

    Raises:
        UserError: a file that is missing or damaged.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{folder} cannot be read: {_reason(error)}.") from None
    return {
        name: (tuple(entry.size), entry.properties.dtype)
        for name, entry in found.items()
        if isinstance(entry, TensorStorageMetadata)
    }


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _reason(error: BaseException) -> str:
    """The first rank's own error in what Distributed Checkpoint reports of all."""
    for _, (inner, _) in sorted(getattr(error, "failures", {}).items()):
        return _reason(inner)
    return getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
