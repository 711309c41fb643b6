"""Small CSV, Parquet and tar data that several test modules make."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["png", "touch_images", "write_csv", "write_parquet", "write_tar"]


def png(shade: int = 0) -> bytes:
    """A valid image whose bytes depend on ``shade``."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade % 256, shade // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def touch_images(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


def write_csv(path: Path, *lines: str, images: bool = True, column: int = 0, delimiter: str = ",") -> Path:
    """Write the lines, and an image for each path in the given column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode())
    if images:
        touch_images(path.parent, *(line.split(delimiter)[column].strip('" ') for line in lines[1:]))
    return path


def write_parquet(
    path: Path,
    columns: Mapping[str, Sequence[Any]],
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    row_group_size: int = 2,
    types: Mapping[str, Any] | None = None,
) -> Path:
    """Write columns; ``names`` are class names per column, stored as Hugging Face does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(values, type=(types or {}).get(name)) for name, values in columns.items()}
    table = pa.table(arrays)
    if names is not None:
        features = {column: {"names": list(listed), "_type": "ClassLabel"} for column, listed in names.items()}
        stored = {"info": {"features": {"image": {"_type": "Image"}, **features}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(stored)})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
