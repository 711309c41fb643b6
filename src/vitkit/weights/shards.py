"""Weights in several files with an index, as Hugging Face writes them: `model.safetensors.index.json` and its like."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from vitkit.config import UserError
from vitkit.weights.opened import Stamp, WeightsFile, shown

__all__ = ["open_shards"]

MOST_INDEX = 100_000_000  # bytes


def open_shards(path: Path, stamp: Stamp, open_one: Callable[[Path], WeightsFile]) -> WeightsFile:
    """Open all shards of an index; ``open_one`` opens a single file.

    Raises:
        UserError: not an index, a shard that is missing or out of the folder, or tensors that are not where it says.
    """
    where, metadata = _read_index(path, stamp)
    files = sorted(set(where.values()))
    missing = [file for file in files if not os.path.exists(path.parent / file)]  # of absurd names too
    if missing:
        raise UserError(
            f"{path}: {len(missing)} of {len(files)} shards are missing: {', '.join(map(shown, missing[:5]))}. Put them "
            "beside the index."
        )
    shards = {file: open_one(path.parent / file) for file in files}
    for file, shard in shards.items():
        _check(path, file, shard, where)
    kinds = {shard.container for shard in shards.values()}
    if len(kinds) > 1:
        raise UserError(f"{path}: its shards are of different kinds ({', '.join(sorted(kinds))}).")

    def load(names: Collection[str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for file, shard in shards.items():
            if wanted := [name for name in shard.header if name in names and where[name] == file]:
                tensors |= shard.read(wanted)
        return tensors

    return WeightsFile(
        path=path,
        container=kinds.pop(),
        header={name: shards[file].header[name] for name, file in where.items()},
        metadata=metadata,
        wrappers=(),
        files=(path, *(path.parent / file for file in files)),
        stamps=(stamp, *(shard.stamps[0] for shard in shards.values())),
        load=load,
    )


def _read_index(path: Path, stamp: Stamp) -> tuple[dict[str, str], dict[str, Any]]:
    if stamp.size > MOST_INDEX:
        raise UserError(f"{path} has {stamp.size} bytes, too many for an index of shards.")
    try:
        index = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not whole JSON; fetch it again.") from None
    where = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(file, str) for file in where.values()):
        raise UserError(
            f"{path} is JSON, but no index of shards (it has no weight_map of names to files): not weights."
        )
    for file in where.values():
        if not file or file in (".", "..") or "\0" in file or Path(file).name != file or "\\" in file:
            raise UserError(f"{path}: the shard {shown(file)} is not a file beside the index; nothing else is opened.")
    metadata = index.get("metadata")
    return where, metadata if isinstance(metadata, dict) else {}


def _check(path: Path, file: str, shard: WeightsFile, where: dict[str, str]) -> None:
    expected = {name for name, there in where.items() if there == file}
    if absent := sorted(expected - set(shard.header)):
        raise UserError(
            f"{path}: the shard {shown(file)} lacks {shown(absent[0])}, which the index says it has ({len(absent)} such)."
        )
    for name in shard.header:
        if name not in expected:
            elsewhere = f"in {shown(where[name])}" if name in where else "nowhere"
            raise UserError(
                f"{path}: the shard {shown(file)} holds {shown(name)}, which the index says is {elsewhere}."
            )
