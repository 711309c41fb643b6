"""Multi-label data through every command: one set of figures, thresholds of the bundle, and clear refusals."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitkit
from conftest import write_images
from shapes import SHAPES, shapes
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data import sources
from vitkit.data.sources import Sample, Source

QUICK = {"batch_size": 32, "evaluations": 2}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """Sources that commands find by name; everything else is read as ever."""
    known: dict[str, Source] = {}
    read = sources.read_source
    monkeypatch.setattr(sources, "read_source", lambda data: known.get(str(data)) or read(data))
    return known


def run(out: Path, data: str = "shapes", **options: Any) -> Any:
    options.setdefault("settings", QUICK)
    options.setdefault("epochs", 4)
    options.setdefault("model", "scratch")
    return vitkit.finetune(data, out=out, workers=0, console=Console(io.StringIO(), io.StringIO()), **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Source]:
    """A run on shapes, its images as files, and the data."""
    folder = tmp_path_factory.mktemp("shapes")
    source = shapes()
    for samples in source.splits.values():
        for sample in samples:
            path = folder / sample.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(sample.source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "read_source", lambda data: source)
        return run(folder / "run"), folder, source


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_report_evaluate_predict_and_load_agree_to_the_last_digit(
    trained: tuple[Any, Path, Source], named: dict[str, Source], tmp_path: Path
) -> None:
    result, folder, named["shapes"] = trained
    facts = json.loads((result.run / "report.json").read_text())
    assert facts["task"] == "multi-label"
    assert (facts["headline"]["split"], facts["headline"]["metric"]) == ("test", "map")
    rows = {row.metric: row for row in vitkit.evaluate(result.bundle, "shapes", console=Console(io.StringIO()))}
    reported = {row["metric"]: row for row in facts["rows"] if row["dataset"] == "shapes/test"}
    assert list(rows) == ["map", "micro_f1", "macro_f1", "exact_match", "macro_auroc", "nll"] == list(reported)
    for metric, row in rows.items():
        expected = reported[metric]
        assert (row.value, row.low, row.high) == (expected["value"], expected["low"], expected["high"]), metric
    assert facts["headline"]["value"] == rows["map"].value
    training = json.loads((result.bundle / "training.json").read_text())
    assert training["metrics"]["test"]["map"] == rows["map"].value

    out = tmp_path / "answers.csv"
    vitkit.predict(result.bundle, folder / "test", out=out, console=Console(io.StringIO()))
    predicted = read_csv(out)
    of_run = [row for row in read_csv(result.run / "predictions.csv") if row["split"] == "test"]
    bundle = vitkit.load(result.bundle)
    assert len(predicted) == len(of_run) == 32
    assert list(predicted[0]) == ["path", "prediction", "probability"]
    for mine, theirs in zip(predicted, of_run, strict=True):
        assert mine["path"].endswith(theirs["path"])
        assert (mine["prediction"], mine["probability"]) == (theirs["prediction"], theirs["probability"])
        with Image.open(mine["path"]) as image:
            alone = bundle.predict(image)[0]
        assert (alone.answer, repr(alone.probability)) == (mine["prediction"], mine["probability"])
    together = bundle.predict([Image.open(row["path"]) for row in predicted])
    assert [repr(p.probability) for p in together] == [row["probability"] for row in predicted]
    exact = [row["label"] == row["prediction"] for row in of_run]
    assert rows["exact_match"].value == sum(exact) / 32
    for name, found in zip(SHAPES, facts["per_class"], strict=True):
        truth = [name in row["label"].split("|") for row in of_run]
        said = [name in row["prediction"].split("|") for row in of_run]
        assert found["n"] == sum(truth)
        assert found["recall"] == sum(a and b for a, b in zip(truth, said, strict=True)) / sum(truth)


def test_three_shapes_are_learned_from_random_weights(named: dict[str, Source], tmp_path: Path) -> None:
    named["shapes"] = shapes(train=160, test=64)
    result = run(tmp_path / "run", epochs=30, settings={"evaluations": 1})
    assert result.headline["value"] > 0.9  # by chance 0.5: each shape is on half of the images
    assert result.headline["low"] > 0.8


def test_the_bundle_names_its_task_and_thresholds_in_a_format_older_readers_refuse(
    trained: tuple[Any, Path, Source],
) -> None:
    config = json.loads((trained[0].bundle / "config.json").read_text())
    assert (config["task"], config["format_version"]) == ("multi-label", 2)
    assert len(config["calibration"]["thresholds"]) == 3
    bundle = Bundle.read(trained[0].bundle)
    assert bundle.thresholds == tuple(config["calibration"]["thresholds"])
    logits = torch.tensor([[0.3, -2.0, 5.0]])
    expected = 1 / (1 + np.exp(-logits.double().numpy() / bundle.temperature))
    np.testing.assert_allclose(bundle.probabilities(logits), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(task="several"), r"the task is 'several'; in bundle format 2: single-label, multi-label"),
        (lambda c: c.pop("task"), "the task is None"),
        (lambda c: c.update(format_version=1), r"the task is 'multi-label'; in bundle format 1: single-label\."),
        (lambda c: c["calibration"].pop("thresholds"), "thresholds belongs to multi-label models"),
        (lambda c: c.update(task="single-label"), "thresholds belongs to multi-label models and to no others"),
        (lambda c: c["calibration"].update(thresholds=[0.5, "x", 1]), "numbers between 0 and 1"),
        (lambda c: c["calibration"].update(thresholds=[0.5]), "1 thresholds for a head of 3 classes"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, trained: tuple[Any, Path, Source], tmp_path: Path
) -> None:
    copy = shutil.copytree(trained[0].bundle, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        Bundle.read(copy)


def test_an_answer_is_all_classes_at_their_threshold_and_its_least_probability(
    trained: tuple[Any, Path, Source],
) -> None:
    bundle = dataclasses.replace(Bundle.read(trained[0].bundle), thresholds=(0.2, 0.5, 0.9))
    both = bundle.top(torch.tensor([0.2, 0.7, 0.8], dtype=torch.float64), 1)
    assert (both.answer, both.labels, both.probability) == ("disc|square", ("disc", "square"), 0.2)
    assert (both.classes, both.probabilities) == (("stripe",), (0.8,))
    none = bundle.top(torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64), 2)
    assert (none.answer, none.labels, none.probability) == ("", (), 0.8)


def test_files_of_predictions(trained: tuple[Any, Path, Source], tmp_path: Path) -> None:
    result, folder, _ = trained
    console = Console(io.StringIO(), io.StringIO())
    found = vitkit.predict(result.bundle, folder / "test", top=3, console=console).predictions
    vitkit.predict(result.bundle, folder / "test", out=tmp_path / "a.csv", top=3, console=console)
    for (_, prediction), row in zip(found, read_csv(tmp_path / "a.csv"), strict=True):
        assert list(row) == ["path", "prediction", "probability"] + [
            f"{name}_{rank}" for rank in (1, 2, 3) for name in ("prediction", "probability")
        ]
        assert tuple(row[f"prediction_{rank}"] for rank in (1, 2, 3)) == prediction.classes
        assert row["prediction"] == "|".join(name for name in SHAPES if name in prediction.labels)
    vitkit.predict(result.bundle, folder / "test", out=tmp_path / "a.jsonl", console=console)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["labels"] for line in lines] == [list(prediction.labels) for _, prediction in found]
    assert [line["prediction"] for line in lines] == [prediction.answer for _, prediction in found]


def test_the_command_prints_the_labels(trained: tuple[Any, Path, Source], capsys: pytest.CaptureFixture[str]) -> None:
    result, folder, _ = trained
    assert main(["predict", str(result.bundle), str(folder / "test" / "007.png"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert found["prediction"] == "|".join(found["labels"])


def test_the_page_shows_what_multi_label_data_needs(trained: tuple[Any, Path, Source]) -> None:
    page = (trained[0].run / "report.html").read_text()
    for text in (
        "Mean average precision (mAP) on the test split",
        "bootstrap interval",
        "<th>threshold</th>",
        "Validation mAP",
    ):
        assert text in page, text
    for text in ("Confusion matrix", "Top-1", "Wilson"):
        assert text not in page, text
    assert trained[0].facts["probe"].keys() >= {"cv_map", "val_map", "mirrored_val_map"}


def test_a_stopped_run_resumes_and_equal_seeds_give_equal_weights(
    trained: tuple[Any, Path, Source], named: dict[str, Source], tmp_path: Path
) -> None:
    named["shapes"] = trained[2]
    shutil.copytree(trained[0].run, tmp_path / "run")
    for name in ("checkpoints", "model"):
        shutil.rmtree(tmp_path / "run" / name)
    (tmp_path / "run" / "report.json").unlink()
    vitkit.finetune(resume=tmp_path / "run", console=Console(io.StringIO(), io.StringIO()))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / "model" / name).read_bytes() == (trained[0].bundle / name).read_bytes()


def test_a_run_selects_by_the_metric_that_was_asked_for(named: dict[str, Source], tmp_path: Path) -> None:
    named["shapes"] = shapes(train=48, test=0)
    result = run(tmp_path / "run", select_by="macro_f1", epochs=1)
    assert "validation macro_f1, selection" in result.facts["release"]["reason"]
    assert result.facts["arguments"]["select_by"] == "macro_f1"
    assert result.headline["label"] == "selection, optimistic"


def test_a_metric_of_the_other_task_is_refused_once_the_data_is_known(
    named: dict[str, Source], photos: Path, tmp_path: Path
) -> None:
    named["shapes"] = shapes(train=24, test=0)
    with pytest.raises(UserError, match="--select-by top1 does not fit this data, which is multi-label"):
        run(tmp_path / "a", select_by="accuracy")
    with pytest.raises(UserError, match="--select-by map does not fit this data, which is single-label"):
        run(tmp_path / "b", str(photos), select_by="map")
    assert not (tmp_path / "a").exists()


def test_names_that_cannot_be_written_in_a_list_are_refused(named: dict[str, Source], tmp_path: Path) -> None:
    named["shapes"] = dataclasses.replace(shapes(train=24, test=0), classes=("disc", "red|green", "stripe"))
    with pytest.raises(UserError, match=r"class 'red\|green' cannot be told apart .* '\|'"):
        run(tmp_path / "run")


def test_validation_data_of_the_other_task_is_refused(named: dict[str, Source], tmp_path: Path) -> None:
    named["shapes"] = shapes(train=24, test=0)
    write_images(tmp_path / "val" / "disc", (200, 50, 40), 3, seed=1)
    with pytest.raises(UserError, match=r"training data is multi-label, --val .* is single-label"):
        run(tmp_path / "run", val=tmp_path / "val")


def test_models_are_scored_on_data_of_their_own_task(
    trained: tuple[Any, Path, Source], named: dict[str, Source], tmp_path: Path
) -> None:
    quiet = Console(io.StringIO(), io.StringIO())
    for name in SHAPES:
        write_images(tmp_path / "folders" / name, (200, 50, 40), 1, seed=1)
    with pytest.raises(UserError, match=r"folders is single-label data .* the model is multi-label"):
        vitkit.evaluate(trained[0].bundle, tmp_path / "folders", console=quiet)
    bundle = Bundle.read(trained[0].bundle)
    bundle.task, bundle.thresholds = "single-label", None
    named["shapes"] = shapes(train=8, test=0)
    with pytest.raises(UserError, match=r"shapes is multi-label data .* the model is single-label"):
        vitkit.evaluate(bundle.save(tmp_path / "model"), "shapes", console=quiet)


def test_evaluate_matches_classes_by_name_in_any_order(
    trained: tuple[Any, Path, Source], named: dict[str, Source]
) -> None:
    result, _, source = trained
    order = (2, 0, 1)  # the data's class i is the model's class order[i]

    def renumber(sample: Sample) -> Sample:
        return sample._replace(labels=tuple(sorted(order.index(label) for label in sample.labels)))

    named["same"] = source
    named["other"] = Source(
        "other",
        tuple(source.classes[i] for i in order),
        {"test": [renumber(s) for s in source.splits["test"]]},
        (),
        True,
    )
    rows = [vitkit.evaluate(result.bundle, name, console=Console(io.StringIO())) for name in ("same", "other")]
    assert [row.value for row in rows[0]] == [row.value for row in rows[1]]


def test_a_class_that_validation_lacks_is_said(named: dict[str, Source], tmp_path: Path) -> None:
    source = shapes(train=24, test=0)
    val = [s for s in shapes(test=24).splits["test"] if 2 not in s.labels]
    named["shapes"] = dataclasses.replace(source, splits={**source.splits, "val": val})
    said = io.StringIO()
    result = vitkit.finetune(
        "shapes",
        model="scratch",
        out=tmp_path / "run",
        workers=0,
        epochs=1,
        settings=QUICK,
        console=Console(io.StringIO(), said),
    )
    assert "class 'stripe' has no image in the validation part" in said.getvalue()
    assert result.facts["per_class"][2]["average_precision"] is None or np.isnan(
        result.facts["per_class"][2]["average_precision"]
    )
    assert any("1 classes without an image" in line for line in result.facts["next_steps"])
