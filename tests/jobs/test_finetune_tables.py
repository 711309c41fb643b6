"""The main job on tables and tar files: the same images in another container give the same model."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

import vitkit
from tiny_tables import write_csv, write_parquet, write_tar
from vitkit.console import Console
from vitkit.data.sources import read_source


def run(data: Path, out: Path | None, **options: Any) -> Any:
    quiet = Console(io.StringIO(), io.StringIO())
    settings = {"batch_size": 8, "evaluations": 1}
    return vitkit.finetune(
        data, out=out, epochs=1, settings=settings, console=quiet, **{"workers": 0, "model": "scratch", **options}
    )


def as_csv(photos: Path, root: Path) -> Path:
    rows = [
        f"{sample.source};{sample.name.split('/')[1]};{split}"
        for split, samples in read_source(photos).splits.items()
        for sample in samples
    ]
    return write_csv(root / "labels.csv", "path;class;split", *rows, images=False)


def as_parquet(photos: Path, root: Path) -> Path:
    source = read_source(photos)
    for split, samples in source.splits.items():
        columns = {
            "image": [{"bytes": Path(str(s.source)).read_bytes(), "path": s.name.split("/")[-1]} for s in samples],
            "label": [s.label for s in samples],
        }
        write_parquet(root / f"{split}-00000-of-00001.parquet", columns, names={"label": source.classes})
    return root


def as_tar(photos: Path, root: Path) -> Path:
    for split, samples in read_source(photos).splits.items():
        write_tar(root / f"{split}.tar", {s.name: Path(str(s.source)).read_bytes() for s in samples})
    return root


def facts_of(result: Any, data: Path) -> tuple[Any, ...]:
    """Everything about a run that the container of its images must not change."""
    rows = vitkit.evaluate(result.bundle, data, console=Console(io.StringIO(), io.StringIO()))
    predicted = csv.DictReader((result.run / "predictions.csv").read_text().splitlines())
    return (
        (result.bundle / "model.safetensors").read_bytes(),
        vitkit.load(result.bundle).classes,
        [(row.metric, row.value, row.n, row.label) for row in rows],
        [(row["split"], row["label"], row["prediction"], row["probability"]) for row in predicted],
    )


def test_containers_give_the_model_of_the_same_folders(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    expected = facts_of(run(photos, None), photos)
    for pack, workers, name in ((as_csv, 0, "labels"), (as_parquet, 2, "packed-parquet"), (as_tar, 2, "packed-tar")):
        data = pack(photos, tmp_path / f"packed-{pack.__name__.removeprefix('as_')}")
        result = run(data, None, workers=workers)
        assert facts_of(result, data) == expected
        assert result.run.name == name  # of a file without its suffix


def test_a_table_can_be_the_validation_data_of_folders(photos: Path, tmp_path: Path) -> None:
    rows = [f"{photos}/test/{name}/000.png,{name}" for name in ("red", "green", "blue")]
    table = write_csv(tmp_path / "held.csv", "path,label", *rows, images=False)
    result = run(photos / "train", tmp_path / "run", val=table)
    rows_ = csv.DictReader((result.run / "predictions.csv").read_text().splitlines())
    assert [row["label"] for row in rows_ if row["split"] == "val"] == ["red", "green", "blue"]
