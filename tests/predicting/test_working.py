"""Rows are computed in order with little in memory, and progress is told where there is no terminal."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from small_models import made
from tiny_tables import png, write_parquet
from vitkit.bundle import Bundle
from vitkit.console import Console
from vitkit.data import rowgroups
from vitkit.data.cache import cache_folder
from vitkit.engines.opened import open_for_answers
from vitkit.predicting import working
from vitkit.predicting.finding import find
from vitkit.predicting.listing import Listing
from vitkit.predicting.request import Request
from vitkit.predicting.working import make_work
from vitkit.predicting.writers import Row


def request(model: Bundle | Path, given: list[Path]) -> Request:
    return Request(model, given, None, "csv", 1, True, False, False, 2, 10**8, "eager", "auto", {})


def test_row_groups_are_passed_by_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(rowgroups, "LARGE", 100)
    monkeypatch.setattr(rowgroups, "CACHE_BYTES", 2000)
    monkeypatch.setattr(rowgroups, "IN_ORDER_BYTES", 2000)
    model = made(tmp_path / "model", ("a", "b"))
    files = [
        write_parquet(
            tmp_path / f"{file}.parquet", {"image": [png(16 * file + row) for row in range(32)]}, row_group_size=8
        )
        for file in range(4)
    ]
    asked = request(model, files)
    work = make_work(asked, open_for_answers(model, "eager"), Console(io.StringIO(), io.StringIO()))
    assert work.columns.features == 32
    with Listing.of(find(files, Counter())) as listing:
        rows = [row for row in work.rows(listing, [(0, 60), (60, 128)], "x") if isinstance(row, Row)]
        alone = next(iter(work.rows(listing, [(77, 78)], "x")))
    assert [row.path for row in rows] == [f"{file}:{row}" for file in files for row in range(32)]
    assert isinstance(alone, Row)
    assert alone.prediction == rows[77].prediction
    assert alone.features is not None
    assert np.array_equal(alone.features, rows[77].features)  # type: ignore[arg-type]
    assert not (cache_folder() / "rowgroups").exists()
    assert rowgroups._CACHE.held < 3000
    assert not rowgroups._CACHE.in_order


def test_progress_is_a_line_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "EVERY", 0.0)
    model = made(tmp_path / "model", ("a", "b"))
    said = io.StringIO()
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.png").write_bytes(png(number))
    asked = request(model, [tmp_path / "in"])
    work = make_work(asked, open_for_answers(model, "eager"), Console(said, said))
    with Listing.of(find([tmp_path / "in"], Counter())) as listing:
        list(work.rows(listing, [(0, 3)], "x"))
    assert "2 of 3 images, " in said.getvalue()
    assert " images/s, 0 s left" in said.getvalue()
