"""Exact counting: equal rows to the last digit for any number of workers and ranks, of sets that do not divide."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ranks import torchrun
from shared import ROOT
from shifted import class_folders
from small_models import made
from vitkit.data.classnames import class_names


@pytest.fixture
def data(photos: Path) -> Path:
    """23 training and 11 test images, one of them broken: neither divides by two."""
    (photos / "test" / "red" / "003.png").unlink()
    (photos / "train" / "blue" / "000.png").unlink()
    (photos / "test" / "green" / "001.png").write_bytes(b"no image")
    return photos


def rows_of(
    model: Path, data: Path | str, protocol: str, cache: Path, *more: str, ranks: int = 1
) -> tuple[list[object], subprocess.CompletedProcess[str]]:
    given = ["-m", "vitkit", "evaluate", str(model), str(data), "--protocol", protocol, "--json", *more]
    before = os.environ["VITKIT_CACHE"]
    os.environ["VITKIT_CACHE"] = str(cache)
    try:
        if ranks > 1:
            done = torchrun(ranks, *given)
        else:
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "2"}
            done = subprocess.run(
                [sys.executable, *given], env=environment, capture_output=True, text=True, timeout=120
            )
    finally:
        os.environ["VITKIT_CACHE"] = before
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done


@pytest.mark.parametrize("protocol", ["classify", "knn", "linear", "fewshot"])
def test_two_ranks_count_every_example_once(protocol: str, data: Path, tmp_path: Path) -> None:
    model = made(tmp_path / "model", ("red", "green", "blue"))
    alone, _ = rows_of(model, data, protocol, tmp_path / "one")
    shared, done = rows_of(model, data, protocol, tmp_path / "two", "--out", str(tmp_path / "run"), ranks=2)
    assert shared == alone  # every digit
    assert {row["n"] for row in alone} == {10}  # type: ignore[index]
    assert done.stderr.count("skipped test/green/001.png") == 1  # one rank speaks
    assert json.loads((tmp_path / "run" / "results.json").read_text())["rows"] == alone
    kept = [sorted((tmp_path / name / "features").iterdir()) for name in ("one", "two")]
    for a, b in zip(*kept, strict=True):
        assert a.name == b.name
        mine, theirs = load_file(a), load_file(b)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    again, done = rows_of(model, data, protocol, tmp_path / "one", ranks=2)  # from what one process kept
    assert again == alone
    assert "were computed before" in done.stderr


def test_robustness_on_two_ranks_and_from_what_classify_kept(tmp_path: Path) -> None:
    model = made(tmp_path / "model", class_names("imagenet1k"))
    folder = class_folders(tmp_path / "v2", {number: str(number) for number in range(3, 1000, 45)})
    (folder / "48" / "00048.png").write_bytes(b"no image")
    data, more = f"imagenet_v2={folder}", ("--partial", "--out")
    alone, _ = rows_of(model, data, "robustness", tmp_path / "one", *more, str(tmp_path / "alone"))
    shared, done = rows_of(model, data, "robustness", tmp_path / "two", *more, str(tmp_path / "shared"), ranks=2)
    assert shared == alone
    assert {row["n"] for row in alone} == {22}  # type: ignore[index]
    assert done.stderr.count("skipped 48/00048.png") == 1
    stored = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "shared")]
    assert stored[0]["data"] == stored[1]["data"]
    assert (stored[0]["data"]["name"], stored[0]["data"]["images"]) == ("imagenet_v2", 22)
    own, done = rows_of(model, data, "classify", tmp_path / "one", "--partial")
    assert "features of 23 images were computed before" in done.stderr
    assert [row["value"] for row in own[:2]] == [row["value"] for row in alone]  # type: ignore[index]
    assert len(list((tmp_path / "one" / "features").iterdir())) == 1


def test_fine_tuning_protocols_take_no_ranks(tmp_path: Path) -> None:
    model = made(tmp_path / "model", None, 0)
    done = torchrun(2, "-m", "vitkit", "evaluate", str(model), f"vtab={tmp_path}", "--protocol", "vtab")
    assert done.returncode != 0
    assert "vtab fine-tunes in one process; start it without torchrun" in done.stderr
    assert "a bug in vitkit" not in done.stderr


def test_a_set_smaller_than_the_ranks(photos: Path, tmp_path: Path) -> None:
    model = made(tmp_path / "model", ("red", "green", "blue"))
    single = tmp_path / "single" / "test" / "red"
    single.mkdir(parents=True)
    shutil.copy(photos / "test" / "red" / "000.png", single)
    alone, _ = rows_of(model, single.parent.parent / "test", "classify", tmp_path / "one")
    shared, _ = rows_of(model, single.parent.parent / "test", "classify", tmp_path / "two", ranks=2)
    assert shared == alone


def test_workers_change_nothing(data: Path, tmp_path: Path) -> None:
    model = made(tmp_path / "model", ("red", "green", "blue"))
    found = [rows_of(model, data, "classify", tmp_path / n, "--workers", n)[0] for n in ("1", "2", "7")]
    assert found[0] == found[1] == found[2]
