"""`vit datasets`, and published sets by name where a command trains on DATA or opens it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

import vitkit
from finetune_runs import run
from standins import unpack
from vitkit.cli.main import main
from vitkit.console import Console
from vitkit.datasets import book
from vitkit.finetuning.data import TaskData
from vitkit.jobs.datasets import describe_dataset
from vitkit.pretraining.data import read_recipe_data


def quiet() -> Console:
    return Console(io.StringIO(), io.StringIO())


def cifar(folder: Path) -> Path:
    """100 training and 20 test images of ten colours, in the binary version."""
    random = np.random.default_rng(0)

    def batch(count: int) -> bytes:
        content = b""
        for i in range(count):
            planes = np.clip(
                np.array([i % 10 * 25, 255 - i % 10 * 25, 90])[:, None] + random.normal(0, 9, (3, 1024)), 0, 255
            )
            content += bytes([i % 10]) + planes.astype(np.uint8).tobytes()
        return content

    names = [(f"data_batch_{i}.bin", batch(20)) for i in range(1, 6)]
    classes = "\n".join(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", ""])
    members = [*names, ("test_batch.bin", batch(20)), ("batches.meta.txt", classes.encode())]
    return unpack(folder, [(f"cifar-10-batches-bin/{name}", content) for name, content in members])


def test_the_table_has_a_line_for_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = book.list_datasets()
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["NAME", "TITLE", "CLASSES", "TRAIN", "VAL", "TEST"]
    headings = ("Classification", "VTAB-1k, besides caltech101, cifar100, dtd, flowers102, pets", "Robustness")
    starts = [lines.index(heading) for heading in headings]
    assert starts == sorted(starts)
    assert [line.split()[0] for line in lines[1:-1] if line and line not in headings] == [row.name for row in rows]
    (line,) = [line for line in lines if line.startswith("flowers102 ")]
    assert " ".join(line.split()) == "flowers102 Oxford Flowers-102 102 1,020 1,020 6,149"
    (line,) = [line for line in lines if line.startswith("imagenet_c ")]
    assert " ".join(line.split()) == "imagenet_c ImageNet-C 1,000 - - 3,750,000"
    last = "data sets. vit datasets NAME says the licence and what the folder must hold; DATA is NAME=FOLDER."
    assert lines[-1] == f"{len(rows)} {last}"
    assert vitkit.list_datasets() == rows


def test_one_row_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "imagenet"]) == 0
    text = capsys.readouterr().out
    for said in ("imagenet: ImageNet", "train 1,281,167, val 50,000", "https://image-net.org", "ILSVRC2012_devkit_t12.tar.gz",
                 "imagenet=FOLDER, or imagenet with the files in DIR/imagenet and --data-root DIR", "train and val"):  # fmt: skip
        assert said in text
    assert main(["datasets", "imagenet_c"]) == 0
    assert "50,000 in each of 75 splits, gaussian_noise/1 to jpeg_compression/5\n" in capsys.readouterr().out
    assert main(["datasets", "flower"]) == 1
    assert "no published data set 'flower'. Did you mean 'flowers102'?" in capsys.readouterr().err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == [describe_dataset(row) for row in book.list_datasets()]
    assert main(["datasets", "pets", "--json"]) == 0
    pets = json.loads(capsys.readouterr().out)
    assert (pets["images"], pets["classes"], pets["licence"]) == ({"train": 3680, "test": 3669}, 37, "CC BY-SA 4.0")


class StoppedError(Exception):
    """Where the tests stop a run: its data was read."""


def test_a_run_on_a_published_set_goes_on_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    seen: list[TaskData] = []

    def stop(_backbone: object, _record: object, data: TaskData, *_rest: object) -> None:
        seen.append(data)
        raise StoppedError

    monkeypatch.setattr("vitkit.jobs.finetune.run_probe", stop)
    with pytest.raises(StoppedError):
        run("cifar10=data", tmp_path / "run")  # type: ignore[arg-type]
    stored = json.loads((tmp_path / "run" / "arguments.json").read_text())
    assert stored["data"] == f"cifar10={tmp_path / 'data'}"
    monkeypatch.chdir("/")
    with pytest.raises(StoppedError):
        vitkit.finetune(resume=tmp_path / "run", console=quiet())
    first, again = seen
    assert first.source.classes[:2] == ("airplane", "automobile")
    assert (len(first.splits.train), len(first.splits.val), len(first.splits.test)) == (90, 10, 20)
    assert [s.name for s in again.splits.train] == [s.name for s in first.splits.train]
    note = "a part of CIFAR-10 only, not comparable with published figures: train 100 of 50,000, test 20 of 10,000"
    assert first.source.notes == again.source.notes == (note,)


@pytest.mark.slow
def test_a_published_set_is_fine_tuned_on_by_name(tmp_path: Path) -> None:
    result = run(f"cifar10={cifar(tmp_path / 'data')}", tmp_path / "run", epochs=1)  # type: ignore[arg-type]
    assert (vitkit.load(result.bundle).classes or ())[:2] == ("airplane", "automobile")
    assert "a part of CIFAR-10 only, not comparable with published figures" in json.dumps(result.facts)


def test_a_published_set_is_audited_and_given_to_a_recipe_by_name(tmp_path: Path) -> None:
    folder = cifar(tmp_path / "data")
    audited = vitkit.audit(f"cifar10={folder}", out=tmp_path / "audit", console=quiet())
    assert audited.facts["data"]["name"] == "cifar10"
    data = read_recipe_data(f"cifar10={folder}", quiet())
    assert (len(data.train), data.split, len(data.scored)) == (100, "test", 20)
