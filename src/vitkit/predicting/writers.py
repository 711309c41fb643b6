"""Rows of predictions as CSV, JSON lines or Parquet: as they come, as the bytes of a part, and of parts joined."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TextIO

import numpy as np

from vitkit.answers import Prediction
from vitkit.config import UserError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["KINDS", "Columns", "Joiner", "Row", "check_kind", "encode", "write_text"]

Array = np.ndarray[Any, Any]
KINDS = ("csv", "jsonl", "parquet")
GROUP, GROUP_WITH_FEATURES = (
    8192,
    2048,
)  # rows of a Parquet row group, at least, which are in memory when parts are joined


class Row(NamedTuple):
    """One image's answer."""

    path: str
    prediction: Prediction
    features: Array | None = None  # (D,) float32


class Columns(NamedTuple):
    """What a row says beside path, prediction and probability."""

    top: int  # ranked classes
    multilabel: bool  # the prediction is a set of classes
    unknown: bool  # the model can tell images unlike its training images
    features: int = 0  # their number, D; 0: without

    @property
    def first(self) -> int:
        """The first rank with columns of its own: a set of classes is not the first of them."""
        return 1 if self.multilabel and self.top > 1 else 2

    @property
    def ranked(self) -> list[str]:
        """The names of the columns of ranked classes."""
        return [f"{name}_{rank}" for rank in range(self.first, self.top + 1) for name in ("prediction", "probability")]


def check_kind(kind: str, features: bool) -> None:
    """Refuse what cannot be written.

    Raises:
        UserError: features where they have no place, or a format whose library is not there.
    """
    if features and kind == "csv":
        raise UserError("--features are written to .parquet or .jsonl files, not to CSV. Choose another -o.")
    if kind == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError("a .parquet file needs pyarrow: pip install 'vitkit[parquet]'.") from None


def encode(rows: Sequence[Row], columns: Columns, kind: str) -> bytes:
    """Rows as a part of a file: without the line of column names, or a whole Parquet file."""
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(_table(rows, columns), sink, use_dictionary=_repeated(columns))
        return bytes(sink.getvalue())
    text = io.StringIO()
    for line in _lines(rows, columns, kind):
        text.write(line)
    return text.getvalue().encode("utf-8", "surrogateescape")


def write_text(rows: Iterable[Row], file: TextIO, columns: Columns, kind: str) -> int:
    """Write rows as they come, and return how many they are."""
    count = 0
    if kind == "csv":
        file.write(_header(columns))
    for line in _lines(rows, columns, kind):
        count += 1
        file.write(line)
        if file is sys.stdout:
            file.flush()
    return count


def _header(columns: Columns) -> str:
    return _csv(["path", "prediction", "probability", *columns.ranked, *(["unknown"] if columns.unknown else [])])


def _csv(values: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _lines(rows: Iterable[Row], columns: Columns, kind: str) -> Iterator[str]:
    for path, prediction, features in rows:
        pairs = list(zip(prediction.classes, prediction.probabilities, strict=True))
        if kind == "csv":
            ranked = (value for pair in pairs[columns.first - 1 :] for value in pair)
            mark = [str(prediction.unknown).lower()] if columns.unknown else []
            yield _csv([path, prediction.answer, prediction.probability, *ranked, *mark])
            continue
        line: dict[str, Any] = {
            "path": path, "prediction": prediction.answer, "probability": prediction.probability,
        }  # fmt: skip
        if prediction.labels is not None:
            line["labels"] = list(prediction.labels)
        if columns.unknown:
            line["unknown"] = prediction.unknown
        if columns.top > 1:
            line["top"] = [{"class": name, "probability": p} for name, p in pairs]
        if features is not None:
            line["features"] = features.tolist()
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _schema(columns: Columns) -> pa.Schema:
    import pyarrow as pa

    fields = [("path", pa.string()), ("prediction", pa.string()), ("probability", pa.float64())]
    fields += [(name, pa.string() if name.startswith("prediction") else pa.float64()) for name in columns.ranked]
    if columns.multilabel:
        fields.append(("labels", pa.list_(pa.string())))
    if columns.unknown:
        fields.append(("unknown", pa.bool_()))
    if columns.features:
        fields.append(("features", pa.list_(pa.float32(), columns.features)))
    return pa.schema(fields)


def _repeated(columns: Columns) -> list[str]:
    """Columns whose values are few, and are written once each."""
    return ["prediction", *(name for name in columns.ranked if name.startswith("prediction"))]


def _table(rows: Sequence[Row], columns: Columns) -> pa.Table:
    import pyarrow as pa

    schema = _schema(columns)
    values: dict[str, Any] = {
        # A file's name need not be UTF-8, and a Parquet string must.
        "path": [row.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for row in rows],
        "prediction": [row.prediction.answer for row in rows],
        "probability": [row.prediction.probability for row in rows],
        "labels": [list(row.prediction.labels or ()) for row in rows],
        "unknown": [row.prediction.unknown for row in rows],
    }
    for rank in range(columns.first, columns.top + 1):
        values[f"prediction_{rank}"] = [row.prediction.classes[rank - 1] for row in rows]
        values[f"probability_{rank}"] = [row.prediction.probabilities[rank - 1] for row in rows]
    arrays = [pa.array(values[field.name], field.type) for field in schema if field.name != "features"]
    if columns.features:
        flat = np.concatenate([np.empty(0, np.float32), *(row.features for row in rows if row.features is not None)])
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), columns.features))
    return pa.Table.from_arrays(arrays, schema=schema)


class Joiner:
    """Writes parts one after the other into one file, with a few of their rows in memory."""

    def __init__(self, file: BinaryIO, columns: Columns, kind: str) -> None:
        self._file, self._kind = file, kind
        self._waiting: list[pa.Table] = []
        self._least = GROUP_WITH_FEATURES if columns.features else GROUP
        self._writer: Any = None
        if kind == "parquet":
            import pyarrow.parquet as pq

            self._writer = pq.ParquetWriter(file, _schema(columns), use_dictionary=_repeated(columns))
        elif kind == "csv":
            file.write(_header(columns).encode())

    def add(self, part: bytes) -> int:
        """Write a part, and return how many rows it has.

        Raises:
            ValueError: it is damaged.
        """
        if self._kind == "parquet":
            return self._add_table(part)
        self._file.write(part)
        if self._kind == "jsonl":
            return part.count(b"\n")
        with io.TextIOWrapper(io.BytesIO(part), encoding="utf-8", errors="surrogateescape", newline="") as text:
            try:
                return sum(1 for _ in csv.reader(text, strict=True))
            except csv.Error as error:
                raise ValueError(str(error)) from None

    def _add_table(self, part: bytes) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(pa.BufferReader(part), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(str(error)) from None
        self._waiting.append(table)
        if sum(len(each) for each in self._waiting) >= self._least:
            self._flush()
        return len(table)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._flush()
            self._writer.close()
