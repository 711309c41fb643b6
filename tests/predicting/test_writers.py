"""Rows in every format: alike alone and joined from parts, whatever classes and paths are called."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from vitkit.answers import Prediction
from vitkit.config import UserError
from vitkit.predicting.writers import Columns, Joiner, Row, check_kind, encode, write_text

NAMES = ("plain", 'with "quotes", comma', "line\nbreak", "é漢", "\udcff.png")
ONE = [
    Row(name, Prediction(("a,b", "c"), (0.1 + 0.2, 0.5), unknown=number % 2 == 0), np.full(3, number, np.float32))
    for number, name in enumerate(NAMES)
]
SHORT = [row._replace(prediction=Prediction(("a,b",), (0.5,))) for row in ONE]
MULTI = [
    Row("a.png", Prediction(("x", "y"), (0.75, 0.25), labels=("x", "y"), least=0.25)),
    Row("b.png", Prediction(("x", "y"), (0.1, 0.05), labels=(), least=None)),
]


def joined(rows: list[Row], columns: Columns, kind: str, cuts: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    joiner = Joiner(file, columns, kind)
    counts = [joiner.add(encode(rows[a:b], columns, kind)) for a, b in zip((0, *cuts), (*cuts, len(rows)), strict=True)]
    joiner.close()
    assert sum(counts) == len(rows)
    assert counts == [b - a for a, b in zip((0, *cuts), (*cuts, len(rows)), strict=True)]
    return file.getvalue()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(ONE, Columns(2, False, True)), (SHORT, Columns(1, False, False)), (MULTI, Columns(2, True, False))],
)
def test_parts_joined_are_what_is_written_at_once(kind: str, rows: list[Row], columns: Columns) -> None:
    whole = io.StringIO()
    rows = [row._replace(features=None) for row in rows]
    assert write_text(rows, whole, columns, kind) == len(rows)
    text = whole.getvalue().encode("utf-8", "surrogateescape")
    for cuts in ((), (0,), (1,), (1, 1)):
        assert joined(rows, columns, kind, cuts) == text
    if kind == "csv":
        first, *rest = csv.reader(io.StringIO(whole.getvalue(), newline=""))
        assert first[:3] == ["path", "prediction", "probability"]
        assert [row[0] for row in rest] == [row.path for row in rows]
        assert all(len(row) == len(first) for row in rest)
    else:
        assert [json.loads(line)["path"] for line in whole.getvalue().split("\n")[:-1]] == [row.path for row in rows]


def test_parquet_has_typed_columns_and_features_of_fixed_length() -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = Columns(2, False, True, 3)
    data = joined(ONE, columns, "parquet", (2, 2))
    assert data == joined(ONE, columns, "parquet", (2, 2))
    table = pq.read_table(io.BytesIO(data))
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("path", "string"), ("prediction", "string"), ("probability", "double"), ("prediction_2", "string"),
        ("probability_2", "double"), ("unknown", "bool"), ("features", "fixed_size_list<element: float>[3]"),
    ]  # fmt: skip
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == [*NAMES[:4], "\\xff.png"]  # its strings are UTF-8
    assert [row["features"] for row in rows] == [[float(n)] * 3 for n in range(5)]
    assert {row["probability"] for row in rows} == {0.1 + 0.2}
    found = pq.read_table(io.BytesIO(joined(MULTI, Columns(2, True, False), "parquet", ()))).to_pylist()
    assert [(row["prediction"], row["labels"], row["prediction_1"]) for row in found] == [
        ("x|y", ["x", "y"], "x"),
        ("", [], "x"),
    ]
    empty = pq.read_table(io.BytesIO(joined([], columns, "parquet", ())))
    assert (len(empty), empty.schema) == (0, table.schema)


def test_a_damaged_part_is_an_error() -> None:
    pytest.importorskip("pyarrow")
    data = encode(ONE, Columns(1, False, False), "parquet")
    with pytest.raises(ValueError):  # noqa: PT011
        Joiner(io.BytesIO(), Columns(1, False, False), "parquet").add(data[: len(data) // 2])
    with pytest.raises(ValueError, match="unexpected end of data"):
        Joiner(io.BytesIO(), Columns(1, False, False), "csv").add(b'a.png,"x')


def test_features_in_csv_are_refused() -> None:
    with pytest.raises(UserError, match=r"--features are written to \.parquet or \.jsonl"):
        check_kind("csv", features=True)
    check_kind("jsonl", features=True)
