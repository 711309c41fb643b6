"""The door: any published file of weights, recognised by its content, opened header first; and writing one.

Nothing in a file is run, mapped or unpickled, and nothing is allocated before its header was found sound.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from vitkit.config import UserError
from vitkit.weights.archive import list_archive
from vitkit.weights.npz import open_npz
from vitkit.weights.opened import Stamp, WeightsFile, shown, stamp_of
from vitkit.weights.recognise import HEAD, recognise
from vitkit.weights.safetensors_file import open_safetensors
from vitkit.weights.shards import open_shards
from vitkit.weights.torch_file import open_torch_pickles, open_torch_zip
from vitkit.weights.write import SUFFIXES, write_weights

__all__ = ["SUFFIXES", "WeightsFile", "open_weights", "write_weights"]

INDEXES = "*.index.json"  # of shards


def open_weights(path: str | Path) -> WeightsFile:
    """Open a file of weights: safetensors, NumPy's .npz, torch's .pth .pt .bin .ckpt, or the index of shards of these.

    A folder stands for the only index of shards in it.

    Raises:
        UserError: anything that is not a whole and harmless file of weights, saying what was found.
    """
    path = Path(path)
    if os.path.isdir(path):
        indexes = sorted(path.glob(INDEXES))
        if len(indexes) != 1:
            inside = sorted(p.name for p in path.iterdir() if p.name.endswith((*SUFFIXES, INDEXES[1:])))
            raise UserError(
                f"{path} is a folder; name the file of weights in it ({', '.join(inside[:8]) or 'none is here'})."
            )
        path = indexes[0]
    shard = re.search(r"-\d{5}-of-(\d{5})\.\w+$", path.name)
    if shard and int(shard[1]) > 1:
        raise UserError(f"{path} is one of {int(shard[1])} shards; name their index ({INDEXES}) or the folder.")
    stamp, kind = _kind_of(path)
    return open_shards(path, stamp, _open_file) if kind == "json" else _open_file(path)


def _kind_of(path: Path) -> tuple[Stamp, str]:
    stamp = stamp_of(path)
    try:
        with path.open("rb") as file:
            return stamp, recognise(file.read(HEAD), stamp.size, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None


def _open_file(path: Path) -> WeightsFile:
    stamp, kind = _kind_of(path)
    if kind == "safetensors":
        return open_safetensors(path)
    if kind == "pickle":
        return open_torch_pickles(path, stamp)
    if kind == "json":
        raise UserError(f"{path} is a JSON file, not weights.")
    archive = list_archive(path, stamp.size)
    names = list(archive.members)
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return open_torch_zip(path, archive, stamp)
    if any(name.endswith(".npy") for name in names):
        return open_npz(path, archive, stamp)
    listed = ", ".join(map(shown, names[:4])) or "nothing"
    raise UserError(
        f"{path} is a zip archive of {listed}, not weights. Weights are .npz archives of arrays or what torch.save wrote; "
        "if they are inside, unpack it and name their file."
    )
