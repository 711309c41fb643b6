"""Killed (SIGKILL) at any moment, the same command goes on: every image once, in the bytes of a run that nothing disturbed."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from killing import run_child
from small_models import made
from tiny_tables import png, write_tar

COUNT = 280
FILES, PACKED = 230, 50


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files, of which two are no images, and a tar file."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "in").mkdir()
    for number in range(FILES):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / f"in/{number:03d}.png")
    for number in (5, 150):
        (root / f"in/{number:03d}.png").write_bytes(b"no picture")
    return [root / "in", write_tar(root / "x.tar", {f"{number}.png": png(number) for number in range(PACKED)})]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("models") / "model", ("a", "b", "c"))


def named_points(out: str) -> list[str]:
    return [
        "call vitkit.predicting.finding:_stamp 100", "after listing.jsonl", "half manifest.json", "before manifest.json",
        "half part-00000.skipped", "after part-00000.skipped", f"half part-00001{out}", f"before part-00001{out}",
        f"after part-00001{out}", "before out.*.skipped.csv", "after out.*.skipped.csv", f"half out{out}", f"before out{out}",
        f"after out{out}", "before joined.json", "after joined.json", "call vitkit.predicting.parts:os.path.lexists 2",
    ]  # fmt: skip


def random_points(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        f"call vitkit.predicting.listing:{draw.choice(['_checked', 'Listing.add'])} {draw.randrange(1, FILES)}"
        for _ in range(10)
    ]


def names_in(out: Path) -> list[str]:
    if out.suffix == ".csv":
        with out.open(newline="") as file:
            return [row["path"] for row in csv.DictReader(file)]
    import pyarrow.parquet as pq

    return pq.read_table(out).column("path").to_pylist()


@pytest.mark.parametrize(("kind", "points"), [(".csv", "random"), (".csv", "named"), (".parquet", "named")])
def test_killed_ten_times_every_image_is_there_once(
    kind: str, points: str, data: list[Path], model: Path, tmp_path: Path
) -> None:
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    whole, out, said = tmp_path / f"whole{kind}", tmp_path / f"out{kind}", tmp_path / "said.txt"
    given = {"model": model, "paths": data, "engine": "eager"}
    assert run_child("predict", said, None, out=whole, **given)[0] == 0
    older = b"path,prediction,probability\n"
    out.write_bytes(older)
    killed = []
    for point in random_points(0) if points == "random" else named_points(kind):
        code, text = run_child("predict", said, point, out=out, **given)
        killed.append(code == -9)
        if code != -9:
            assert code == 0, text
        assert out.read_bytes() in (older, whole.read_bytes())
    assert sum(killed) >= 10, killed
    code, text = run_child("predict", said, None, out=out, **given)
    assert (code, text[: text.find("error")][:0]) == (0, ""), text
    assert out.read_bytes() == whole.read_bytes()
    names = names_in(out)
    skipped = [row[0] for row in csv.reader(Path(f"{out}.skipped.csv").read_text().splitlines())][1:]
    assert len(names) == len(set(names)) == COUNT - 2
    assert [Path(name).name for name in skipped] == ["005.png", "150.png"]
    assert Path(f"{out}.skipped.csv").read_bytes() == Path(f"{whole}.skipped.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == [
        out.name, f"{out.name}.skipped.csv",
    ]  # fmt: skip


def test_killed_while_it_cleans_up_nothing_is_computed_again(data: list[Path], model: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out.csv", tmp_path / "said.txt"
    given = {"model": model, "paths": data, "engine": "eager", "out": out}
    assert run_child("predict", said, "after joined.json", **given)[0] == -9
    first = out.stat().st_mtime_ns
    code, text = run_child("predict", said, None, **given)
    assert (code, "wrote" in text, "engine:" in text) == (0, True, False)
    assert out.stat().st_mtime_ns == first
    assert not Path(f"{out}.parts").exists()
    assert run_child("predict", said, "after joined.json", **given)[0] == -9
    code, text = run_child("predict", said, None, top=2, **given)  # another prediction, and that one is whole
    assert (code, "engine:" in text) == (0, True)
