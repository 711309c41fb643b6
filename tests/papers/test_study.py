"""A queue of small runs: made once, gone on with, kept apart by setting, limited in time."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import load_input
from vitkit.engines.eager import EagerEngine
from vitkit.papers import queue, training
from vitkit.papers.queue import queued, run_queue
from vitkit.papers.study import SETTINGS, Cell, Run, Setting, Study
from vitkit.papers.training import ScoredImages
from vitkit.recipes.book import find_recipe

TINY = {**SETTINGS, "steps": 3, "seeds": 2, "batch_size": 8, "width": 12, "depth": 1}
CELLS = (Cell(position="none"), Cell(), Cell(pool="mean", rate=1e-3))


def made(folder: Path, data: Path | str, cells: tuple[Cell, ...] = CELLS, **changes: Any) -> tuple[Study, str]:
    out, err = io.StringIO(), io.StringIO()
    found = run_queue(folder, str(data), cells, {**TINY, **changes}, Console(out, err))
    return found, out.getvalue() + err.getvalue()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_seeds_come_one_after_the_other_and_each_cell_once() -> None:
    a, b, c = CELLS
    assert queued((a, b, c, b), 2) == [(a, 0), (b, 0), (c, 0), (a, 1), (b, 1), (c, 1)]


def test_a_finished_run_is_never_run_again(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "queue"
    first, told = made(folder, photos)
    assert [(entry["position"], entry["pool"], entry["seed"]) for entry in lines(folder)] == [
        (cell.position, cell.pool, seed) for seed in (0, 1) for cell in CELLS
    ]
    assert "6 runs of 3 steps, 0 of them made before" in told
    assert "run 1 of 6: cls, positions none, lr 0.002, seed 0: top-1" in told
    assert "5 left, about" in told
    monkeypatch.setattr(queue, "train_one", None)  # nothing may run
    again, told = made(folder, photos)
    assert again == first
    assert "6 runs of 3 steps, 6 of them made before" in told
    part, _ = made(folder, photos, cells=CELLS[1:2], seeds=1)  # another study that shares a cell
    assert list(part.runs) == [(CELLS[1], 0)]


def test_what_is_missing_is_made_alike_whatever_ran_before(photos: Path, tmp_path: Path) -> None:
    whole, _ = made(tmp_path / "whole", photos)
    folder = tmp_path / "stopped"
    made(folder, photos, seeds=1)
    kept = lines(folder)[:2]
    (folder / "runs.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    resumed, told = made(folder, photos)
    assert "6 runs of 3 steps, 2 of them made before" in told
    assert "run 3 of 6: mean, positions learned, lr 0.001, seed 0" in told
    for key, run in whole.runs.items():
        assert dataclasses.replace(resumed.runs[key], seconds=run.seconds) == run


def test_a_line_holds_what_a_table_needs(photos: Path, tmp_path: Path) -> None:
    found, _ = made(tmp_path, photos, steps=20, seeds=1, cells=CELLS[1:2])
    (run,) = found.runs.values()
    (entry,) = lines(tmp_path)
    assert Run.of(entry, "here") == run
    assert [step for step, _ in run.curve] == [4, 8, 12, 16, 20]
    assert run.curve[-1] == (20, run.top1)
    assert run.images == 12
    assert 0 < run.seconds < 60
    assert found.curve(CELLS[1]) == list(run.curve)
    facts = found.facts()
    assert facts["longest_run_seconds"] == run.seconds
    assert (facts["threads"], facts["limit_seconds"], facts["seeds"]) == (1, 360.0, 1)
    assert facts["train_images"] == 24
    assert json.loads(json.dumps(facts))["steps"] == 20
    assert (
        "scaled down: width 12, depth 1, patches of 4 on 32 x 32 images of photos, 20 steps of 8 images (6.7 epochs)"
        in found.sentence()
    )


def test_learning_shows(photos: Path, tmp_path: Path) -> None:
    found, _ = made(tmp_path, photos, cells=CELLS[2:], steps=60, seeds=1, width=24)
    (run,) = found.runs.values()
    assert run.top1 == 1.0  # three colours
    assert run.loss < 0.7  # from ln 3


def test_runs_of_another_setting_are_kept_apart(photos: Path, flat: Path, tmp_path: Path) -> None:
    made(tmp_path, photos, cells=CELLS[:1], seeds=1)
    with pytest.raises(
        UserError, match=r"holds runs of another setting: steps 3 there, 4 asked for\. Say the same, or name"
    ):
        made(tmp_path, photos, steps=4)
    with pytest.raises(UserError, match=r"another setting: changes .*'batch_size': 8.* there, .*'batch_size': 6"):
        made(tmp_path, photos, batch_size=6)
    with pytest.raises(UserError, match="another setting: threads 1 there, 2 asked for"):
        made(tmp_path, photos, threads=2)
    (photos / "train" / "red" / "000.png").unlink()
    with pytest.raises(UserError, match=r"another setting: data photos: 24 images .* there, photos: 23 images"):
        made(tmp_path, photos)
    with pytest.raises(UserError, match="has no test or val images to score the runs on"):
        made(tmp_path, flat)


def test_steps_are_measured_once(photos: Path, tmp_path: Path) -> None:
    first, told = made(tmp_path, photos, cells=CELLS[:1], steps=0, seconds=1.0, seeds=1)
    assert "s a step at most" in told
    assert first.setting.steps >= 1
    again, told = made(tmp_path, photos, cells=CELLS[:2], steps=0, seconds=9.0, seeds=1)
    assert "s a step at most" not in told
    assert again.setting == first.setting
    with pytest.raises(UserError, match="no step fits into 0 s; allow more seconds"):
        made(tmp_path / "b", photos, steps=0, seconds=1e-9)
    assert not (tmp_path / "b" / "setting.json").exists()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"depth": -1}, "depth must be at least 1, got -1"),
        ({"steps": -3}, "steps must be at least 1, or 0 to measure how many fit, got -3"),
        ({"steps": 0, "seconds": 361.0}, "seconds must be above 0 and at most 360, which no run may exceed, got 361.0"),
        ({"steps": 0, "seconds": float("nan")}, "seconds must be above 0 and at most 360"),
        ({"width": 13}, "embed_dim 13 does not divide into"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, int], found: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=found):
        made(tmp_path, photos, **changes)
    assert not (tmp_path / "setting.json").exists()  # the folder is still free for another


def test_other_test_images_are_another_setting_but_for_folders_without_their_sign(photos: Path, tmp_path: Path) -> None:
    made(tmp_path, photos, cells=CELLS[:1], seeds=1)
    stored = json.loads((tmp_path / "setting.json").read_text())
    Image.new("RGB", (40, 40), (1, 2, 3)).save(next((photos / "test").rglob("*.png")))
    with pytest.raises(UserError, match=r"another setting: scored [0-9a-f]{12} there, [0-9a-f]{12} asked for"):
        made(tmp_path, photos, cells=CELLS[:1], seeds=1)
    del stored["scored"]
    (tmp_path / "setting.json").write_text(json.dumps(stored))
    made(tmp_path, photos, cells=CELLS[:1], seeds=1)


def test_a_run_that_takes_too_long_is_stopped_and_the_others_are_made(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = queue.train_one

    def slow(setting: Setting, cell: Cell, seed: int, *rest: Any) -> Run:
        short = setting if cell.position != "none" else dataclasses.replace(setting, limit_seconds=0.0)
        return real(short, cell, seed, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(queue, "train_one", slow)
        with pytest.raises(
            UserError, match=r"2 of 6 runs failed; the same call tries them again.*0 s had gone by at step 1 of 3"
        ):
            made(tmp_path, photos)
    assert len(lines(tmp_path)) == 4
    found, told = made(tmp_path, photos)
    assert "4 of them made before" in told
    assert len(found.runs) == 6


def test_the_threads_are_given_back(photos: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    made(tmp_path, photos, cells=CELLS[:1], seeds=1, threads=before + 1)
    assert torch.get_num_threads() == before
    with pytest.raises(UserError):
        made(tmp_path, photos, cells=CELLS[:1], threads=before)
    assert torch.get_num_threads() == before


def test_lines_that_are_no_runs_are_named(photos: Path, tmp_path: Path) -> None:
    made(tmp_path, photos, cells=CELLS[:1], seeds=1)
    path = tmp_path / "runs.jsonl"
    good = path.read_text()
    path.write_text(good + '{"pool": "cls"')
    with pytest.raises(
        UserError, match=r"runs\.jsonl, line 2 is not JSON\. Remove the line; its run will be made again"
    ):
        made(tmp_path, photos)
    path.write_text(good + '{"pool": "cls", "colour": 1}\n')
    with pytest.raises(UserError, match=r"runs\.jsonl, line 2: unknown field 'colour'"):
        made(tmp_path, photos)
    entry = json.loads(good)
    for line, found in (
        ("3", "line 2 is not a run but 3. Remove the line"),
        (json.dumps({**entry, "top1": None}), "line 2: a value of the run is not a number"),
        (json.dumps({**entry, "curve": [1, 2]}), "line 2: a value of the run is not a number"),
    ):
        path.write_text(good + line + "\n")
        with pytest.raises(UserError, match=found):
            made(tmp_path, photos)


def test_two_processes_do_not_share_a_queue(photos: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / "queue.lock"),
        pytest.raises(UserError, match="another process is at work on the queue in"),
    ):
        made(tmp_path, photos)


def test_scores_are_those_of_the_same_images_one_by_one(photos: Path) -> None:
    samples = queue.read_recipe_data(str(photos), Console(io.StringIO(), io.StringIO())).scored
    record = find_recipe("cifar10_small").preprocess
    images = ScoredImages.read(samples, record)
    pixels = torch.stack([to_tensor(load_input(sample.source, record)) for sample in samples])
    model = training.VisionTransformer(dataclasses.replace(find_recipe("cifar10_small").model, num_classes=3, depth=1))
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    engine = EagerEngine(model, group=5)  # 12 images do not divide by it
    answers = np.array([int(engine.forward(one[None]).logits.argmax()) for one in pixels])
    assert images.labels.tolist() == [sample.label for sample in samples]
    told = answers.copy()
    told[::3] = (told[::3] + 1) % 3
    assert ScoredImages(images.pixels, told).top1(engine, record) == 8 / 12
    assert len(images.watched().labels) == 12
    many = ScoredImages(np.zeros((4_001, 1, 1, 3), np.uint8), np.arange(4_001))
    assert many.watched().labels.tolist() == list(range(0, 4_001, 5))


def test_a_killed_queue_goes_on(photos: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: whole lines stay, the rest is made, and all is as if nothing had happened."""
    program = (
        "from vitkit.console import Console\nfrom vitkit.papers.queue import run_queue\n"
        "from vitkit.papers.figure9 import CELLS\n"
        f"run_queue(__import__('pathlib').Path({str(tmp_path / 'q')!r}), {str(photos)!r}, CELLS[:3], {TINY!r}, Console())"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    path, until = tmp_path / "q" / "runs.jsonl", time.monotonic() + 120
    while not path.exists() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = len(lines(tmp_path / "q"))
    assert begun >= 1
    from vitkit.papers.figure9 import CELLS as RATED

    resumed, told = made(tmp_path / "q", photos, cells=RATED[:3])
    assert f"{begun} of them made before" in told
    whole, _ = made(tmp_path / "whole", photos, cells=RATED[:3])
    for key, run in whole.runs.items():
        assert resumed.runs[key].top1 == run.top1
        assert resumed.runs[key].loss == pytest.approx(run.loss, abs=1e-4)
