"""`vit predict` under torchrun: the bytes of one process, by any number of ranks, and ranks that differ are told so."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitkit
from killing import run_child
from ranks import torchrun
from small_models import made
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.predicting.parts import Parts
from vitkit.predicting.ranks import await_parts, share_outcome


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("models") / "model", ("a", "b", "c"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "in"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(280):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / f"{number:03d}.png")
    (root / "005.png").write_bytes(b"no picture")
    return root


def words(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "vitkit", "predict", str(model), str(data), "-o", str(out), "--engine", "eager", *more]


def test_ranks_write_the_bytes_of_one_process_and_go_on_with_its_parts(model: Path, data: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    vitkit.predict(model, data, out=whole, engine="eager", features=True, console=Console(io.StringIO(), io.StringIO()))
    done = torchrun(2, *words(model, data, out, "--features"))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == whole.read_bytes()
    assert Path(f"{out}.skipped.csv").read_bytes() == Path(f"{whole}.skipped.csv").read_bytes()
    assert done.stdout.count("279 predicted, 1 skipped") == 1
    assert not Path(f"{out}.parts").exists()
    again = tmp_path / "again.jsonl"
    given = {"model": model, "paths": data, "out": again, "engine": "eager", "features": True}
    assert run_child("predict", tmp_path / "said.txt", "half part-00003.jsonl", **given)[0] == -9
    done = torchrun(3, *words(model, data, again, "--features"))
    assert done.returncode == 0, done.stderr
    assert "going on: 3 of 5 parts are done" in done.stdout
    assert again.read_bytes() == whole.read_bytes()


def test_ranks_that_differ_or_have_no_file_are_told_so(model: Path, data: Path, tmp_path: Path) -> None:
    script = tmp_path / "differ.py"
    script.write_text(
        "import os, sys\nfrom vitkit.cli.main import main\n"
        f"rank = os.environ['RANK']\nsys.exit(main(['predict', {str(model)!r}, {str(data)!r} + '/0*.png' * int(rank),"
        f" '-o', {str(tmp_path / 'out.csv')!r}]))\n"
    )
    done = torchrun(2, str(script))
    assert done.returncode != 0
    assert "the ranks do not have the same images: rank 0 has 280 " in done.stderr
    assert not (tmp_path / "out.csv").exists()


class _Two:
    """The second of two ranks."""

    rank, size, main = 1, 2, False

    def first_alone(self, label: str) -> object:
        import contextlib

        return contextlib.nullcontext()

    def wait(self, label: str) -> None:
        """The first one is there."""

    def share(self, value: object, label: str) -> object:
        return ["no space", None]


def test_a_rank_that_writes_nothing_is_named(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "out.csv", "csv")
    parts.open({"images": 300, "size": 100})
    parts.folder.mkdir()
    parts.write(1, b"", [])
    message = r"rank 0 has written no part for 1 s, and 2 are missing, the first: .*part-00000\.csv"
    with pytest.raises(UserError, match=message):
        await_parts(_Two(), parts, 0.01, patience=0.6)  # type: ignore[arg-type]
    parts.write(0, b"", [])
    parts.write(2, b"", [])
    await_parts(_Two(), parts, 0.0, patience=0.0)  # type: ignore[arg-type]


def test_the_first_ranks_error_is_everybodys() -> None:
    with pytest.raises(UserError, match="no space"):
        share_outcome(_Two(), lambda: pytest.fail("not the first rank"), "x")  # type: ignore[arg-type]
