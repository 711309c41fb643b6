"""Speed and memory: the line that the largest batch is computed from, the search for it, and a small measurement."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from vitkit.jobs.paper import paper
from vitkit.models.vit import ViTConfig
from vitkit.papers import probe, throughput
from vitkit.papers.probe import largest, measured, stopped_rising
from vitkit.papers.throughput import Cell, activation_bytes, largest_batch, measure, second_batch

TINY = ViTConfig(
    embed_dim=32, depth=1, num_heads=2, mlp_dim=64, patch_size=(16, 16), image_size=(64, 64), num_classes=5
)


def test_the_largest_batch_is_on_the_line_through_two_peaks() -> None:
    assert largest_batch((1, 110.0), (5, 150.0), 1000.0) == (90, 100.0, 10.0)
    assert largest_batch((1, 110.0), (5, 150.0), 104.0) == (0, 100.0, 10.0)
    assert largest_batch((1, 110.0), (5, 110.0), 1000.0) is None


@pytest.mark.parametrize("room", [0, 1, 2, 3, 5, 63, 64, 65, 1000, 4096])
def test_the_search_finds_what_fits_within_a_32nd(room: int) -> None:
    asked: list[int] = []

    def fits(batch: int) -> bool:
        asked.append(batch)
        return batch <= room

    found = largest(fits, 1024)
    assert found <= room
    assert found >= min(room, 1024) * (1 - 1 / 32)
    assert max(asked) <= 1024
    assert len(asked) < 20


def test_the_second_batch_is_large_enough_to_tell_and_small_enough_to_run() -> None:
    for name, size in (("B/32", 64), ("Ti/16", 224), ("L/16", 512), ("H/14", 512)):
        config = dataclasses.replace(ViTConfig.named(name), image_size=(size, size))
        batch = second_batch(config)
        assert 2 <= batch <= 256
        assert (batch - 1) * activation_bytes(config) < 3 * throughput.APART


def test_speed_is_followed_while_it_rises() -> None:
    assert not stopped_rising([1.0, 2.0])
    assert not stopped_rising([1.0, 2.0, 4.0])
    assert stopped_rising([4.0, 4.0, 4.1])
    assert not stopped_rising([4.0, 4.0, 5.0])


def task(**changes: object) -> dict[str, object]:
    return {
        "config": dataclasses.asdict(TINY), "batches": [2, 4, 8], "seconds": 0.0, "until": time.time() + 60, "device": "cpu",
        "precision": "fp32", "base": 0, "limit": 0, **changes,
    }  # fmt: skip


def test_a_probe_times_each_batch_and_stops_where_memory_or_time_ends() -> None:
    lines = list(measured(task()))
    assert [line["batch"] for line in lines] == [2, 4, 8]
    assert all(line["seconds"] > 0 and line["memory"] > 2**20 for line in lines)
    assert [line["batch"] for line in measured(task(until=0.0))] == [2]
    here = lines[0]["memory"]
    less = here - 2**26  # by more than the kernel's count of pages is off, which is kept apart for each processor
    assert [line["batch"] for line in measured(task(base=less, limit=here))] == [2]
    relative = dataclasses.asdict(dataclasses.replace(TINY, position="relative"))
    assert len(list(measured(task(config=relative, batches=[1], precision="bf16")))) == 1


def test_a_small_model_is_measured_in_processes_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "APART", 32 * 2**20)  # a smaller second batch, to be quick
    config = dataclasses.replace(TINY, embed_dim=192, num_heads=3, mlp_dim=768, image_size=(128, 128))
    cell = measure(config, device="cpu", precision="fp32", memory=2.0 * 2**30, seconds=0.5)
    assert cell.note == ""
    assert cell.images_per_second is not None
    assert cell.images_per_second > 0
    assert cell.computed
    batches = [point["batch"] for point in cell.sweep]
    assert batches[0] == 1
    assert second_batch(config) in batches
    assert cell.image_bytes is not None
    assert 0.2 < cell.image_bytes / activation_bytes(config) < 5
    assert cell.largest is not None
    assert cell.fixed_bytes is not None
    assert cell.fixed_bytes + cell.largest * cell.image_bytes <= 2.0 * 2**30


def test_figure_12_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []

    def fake(config: ViTConfig, **given: object) -> Cell:
        asked.append(config.image_size)
        speed = 100.0 if len(asked) == 1 else 1e-6
        return Cell(speed, 4, 1000, True, 1e8, 1e6, [{"batch": 4.0, "images_per_second": speed}], 1, "")

    monkeypatch.setattr("vitkit.papers.figure12.measure", fake)
    result = paper(
        "figure12", model=["B/32", "H/14"], sizes=(64, 128), budget=2.0, out=tmp_path, settings={"memory_gib": 2.0}
    )
    rows = {(row["model"], row["image_size"]): row for row in result.outcome.rows}
    assert list(rows) == [("B/32", 64), ("B/32", 128), ("H/14", 64), ("H/14", 128)]
    assert rows["B/32", 64]["largest_batch"] == 1000
    assert "its weights need 2.4 GiB and 2.0 GiB are there" in rows["H/14", 64]["note"]
    assert all(row["published"] is None for row in rows.values())
    assert any("none of that size was run" in note for note in result.outcome.notes)
    assert (tmp_path / "figure12.png").exists()
    assert asked == [(64, 64), (128, 128)]
    slow = paper("figure12", model="B/32", sizes=(64, 128), budget=1e-9, settings={"memory_gib": 2.0})
    assert {row["note"] for row in slow.outcome.rows} == {"left out: the budget of 0 s was used up"}


def test_a_probe_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput.sys, "executable", "/bin/false")
    cell = measure(TINY, device="cpu", precision="fp32", memory=2.0**30, seconds=1)
    assert cell.images_per_second is None
    assert "ended with 1" in cell.note
    assert probe.STEPS == 5
