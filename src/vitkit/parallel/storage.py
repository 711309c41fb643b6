"""Tensors of which each rank has a part, to and from a folder of safetensors files, on any number of ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from vitkit.config import UserError

__all__ = ["read_parts", "write_parts"]


def write_parts(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Each rank writes its parts as one file; of a tensor that all have, one rank writes all. Every rank calls this.

    Raises:
        UserError: the folder cannot be written.
    """
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
    try:
        with _quiet():
            reader = HuggingFaceStorageReader(str(folder))
            load(dict(targets), storage_reader=reader, no_dist=not dist.is_initialized())
    except (CheckpointException, OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{folder} cannot be read: {_reason(error)}.") from None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _reason(error: BaseException) -> str:
    """The first rank's own error in what Distributed Checkpoint reports of all."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (inner, _) = sorted(error.failures.items())[0]
        return f"rank {rank}: {_reason(inner)}"
    return getattr(error, "strerror", None) or str(error).splitlines()[0] if str(error) else type(error).__name__
