"""`vit evaluate` by protocol: rows, features shared, the file for the board, bad input."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitkit
from conftest import COLOURS, write_images
from shapes import shapes
from small_models import made
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.samples import Sample, Source
from vitkit.engines.book import ENGINES
from vitkit.evals import features
from vitkit.evals.fewshot import Support, draw_support, measure_fewshot
from vitkit.report import Row


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made(tmp_path / "model", ("red", "green", "blue"))


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    return made(tmp_path / "headless", None, 0)


def evaluate(model: Path, data: object, protocol: str, **options: Any) -> dict[str, Row]:
    quiet = Console(io.StringIO(), io.StringIO())
    rows = vitkit.evaluate(model, str(data), protocol=protocol, console=options.pop("console", quiet), **options)
    return {row.metric: row for row in rows}


METRICS = {
    "classify": ["top1", "top5", "balanced_accuracy", "macro_f1", "macro_auroc", "nll", "ece"],
    "knn": ["top1", "top5", "balanced_accuracy", "macro_f1", "top1_majority"],
    "linear": ["top1", "top5", "balanced_accuracy", "macro_f1", "macro_auroc", "nll", "ece"],
    "fewshot": [f"{shots}shot{seed}" for shots in (1, 5) for seed in ("", "-seed-0", "-seed-1", "-seed-2")],
}


@pytest.mark.parametrize("protocol", METRICS)
def test_each_protocol_gives_rows_with_intervals(protocol: str, model: Path, photos: Path) -> None:
    console = Console(io.StringIO(), io.StringIO())
    rows = evaluate(model, photos, protocol, console=console)
    assert list(rows) == METRICS[protocol]
    for row in rows.values():
        assert (row.task, row.dataset, row.n) == (protocol, "photos/test", 12)
        assert row.low is not None
        assert row.high is not None
        assert row.low <= row.value <= row.high
    if protocol in ("knn", "linear"):
        assert rows["top1"].value > 0.9  # three colours
    said = console.out.getvalue()  # type: ignore[attr-defined]
    assert "36 images of 3 classes (train 24, test 12)" in said
    if protocol == "fewshot":
        assert rows["5shot"].value > 0.8
        assert rows["5shot"].value == pytest.approx(np.mean([rows[f"5shot-seed-{s}"].value for s in range(3)]))
        assert "left out: 10, 25 shots; class 'blue' has 8 training images" in said


@pytest.mark.parametrize("protocol", ["knn", "linear", "fewshot"])
def test_a_model_without_a_head_is_measured_by_its_features(protocol: str, headless: Path, photos: Path) -> None:
    assert evaluate(headless, photos, protocol)


def test_a_model_without_a_head_has_no_classes(headless: Path, photos: Path) -> None:
    with pytest.raises(UserError, match="this model has no head"):
        evaluate(headless, photos, "classify")


def test_protocols_share_features(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(model, photos, "linear")
    monkeypatch.setattr("vitkit.evals.features.stream", lambda *a, **k: 1 / 0)
    evaluate(model, photos, "knn")
    evaluate(model, photos, "classify")
    with pytest.raises(ZeroDivisionError):
        evaluate(model, photos, "classify", preprocess="squash")


def test_fewshot_opens_what_it_draws(model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(model, photos, "fewshot")
    seen: list[int] = []
    real = features.stream
    monkeypatch.setattr(features, "stream", lambda *a, **k: seen.append(len(a[2])) or real(*a, **k))
    evaluate(model, photos, "fewshot", shots=(1,))
    assert len(seen) == 1  # of the test images nothing
    assert seen[0] <= 9  # three classes, three draws, one image each


def test_fewshot_draws_anew_without_images_that_cannot_be_used(model: Path, photos: Path) -> None:
    before = evaluate(model, photos, "fewshot", shots=(7,))
    for name in ("a.png", "b.png"):
        (photos / "train" / "red" / name).write_bytes(b"no image")
    console = Console(io.StringIO(), io.StringIO())
    after = evaluate(model, photos, "fewshot", shots=(7,), console=console)
    assert "drawn anew without" in console.out.getvalue()  # type: ignore[attr-defined]
    assert after.keys() == before.keys()
    assert after["7shot"].n == 12
    for path in sorted((photos / "train" / "red").glob("0*.png"))[:2]:
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="class 'red' has 6 usable training images, fewer than the least of --shots 7"):
        evaluate(model, photos, "fewshot", shots=(7,))


def test_settings_do_something(model: Path, photos: Path) -> None:
    some = evaluate(model, photos, "fewshot", shots=(2, 7))
    assert list(some)[::4] == ["2shot", "7shot"]
    assert list(evaluate(model, photos, "fewshot", shots=(2,), seed=5))[1:] == [f"2shot-seed-{s}" for s in (5, 6, 7)]
    with pytest.raises(
        UserError, match=r"class 'blue' has 8 usable training images, fewer than the least of --shots 9"
    ):
        evaluate(model, photos, "fewshot", shots=(9, 50))
    with pytest.raises(UserError, match="--shots must be whole numbers of at least 1, got 0"):
        evaluate(model, photos, "fewshot", shots=(0,))
    with pytest.raises(UserError, match="--neighbours 25: expected 1 to 24"):
        evaluate(model, photos, "knn", neighbours=25)
    with pytest.raises(UserError, match="--preprocess 'other'; known"):
        evaluate(model, photos, "classify", preprocess="other")
    with pytest.raises(UserError, match=r"no protocol 'fewshots'. Did you mean 'fewshot'\? Known: classify, knn"):
        evaluate(model, photos, "fewshots")


def test_the_file_for_the_board(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["evaluate", str(model), str(photos), "--protocol", "knn", "--neighbours", "5", "--json"]
    monkeypatch.setattr(sys, "argv", ["vit", *arguments])
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["rows"] == printed
    assert (found["kind"], found["version"], found["protocol"]) == ("vitkit-results", 1, "knn")
    engine = found["settings"].pop("engine")
    assert (engine["name"] in ENGINES, engine["precision"]) == (True, "fp32")
    assert found["settings"] == {"preprocess": "own", "neighbours": 5, "temperature": 0.07}
    data = found["data"]
    assert (data["name"], data["split"], data["images"]) == ("photos", "test", 12)
    assert len(data["fingerprint"]) == len(found["model"]["fingerprint"]) == 64
    assert found["model"]["name"] == str(model)
    assert found["command"] == " ".join(["vit", *arguments])
    assert {"vitkit", "torch", "pillow"} <= set(found["versions"])
    assert found["code"]
    shutil.copy(photos / "test" / "red" / "000.png", photos / "test" / "red" / "zzz.png")
    assert main([*arguments, "--out", str(tmp_path / "other")]) == 0
    other = json.loads((tmp_path / "other" / "results.json").read_text())
    assert other["data"]["fingerprint"] != data["fingerprint"]
    assert other["model"] == found["model"]


def test_the_command_prints_what_it_understood_and_rows(
    model: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(model), str(photos), "--protocol", "fewshot", "--shots", "1,5"]) == 0
    said = capsys.readouterr().out
    assert "images: big_vision's few-shot: the whole image bilinearly to 18 x 18" in said
    assert "test: features of 12 images computed in" in said
    assert "  5shot-seed-2 " in said
    assert said.startswith(f"model: {model}: 0.0")
    assert "fewshot on photos/test, 12 images, with 95 % intervals\n" in said
    assert said.splitlines()[-4].endswith("  top-1, learnt from 5 images a class, mean of the draws")
    assert main(["evaluate", str(model), str(photos), "--shots", "5;1"]) == 2
    assert "write 5,10,25" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["knn", "linear", "fewshot"])
def test_splits_that_are_missing(protocol: str, model: Path, flat: Path, photos: Path) -> None:
    with pytest.raises(UserError, match=r"has no train split to learn from; it has all\. Expected train/ and test/"):
        evaluate(model, flat, protocol)
    with pytest.raises(UserError, match="what is learnt from train cannot be scored on it"):
        evaluate(model, photos, protocol, split="train")
    with pytest.raises(UserError, match=r"has no split 'tests'; it has train, test\. Did you mean 'test'"):
        evaluate(model, photos, protocol, split="tests")
    shutil.rmtree(photos / "test")
    with pytest.raises(
        UserError, match=r"has none of the splits test, val; it has train\. Put images to score into test/"
    ):
        evaluate(model, photos, protocol)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Source]:
    """Sources by name."""
    known: dict[str, Source] = {}
    monkeypatch.setattr("vitkit.protocols.opening.read_data", lambda data, **_: known[data])
    return known


def some(photos: Path, label: int = 0) -> list[Sample]:
    return [Sample(path.name, path, label) for path in sorted((photos / "test" / "red").iterdir())]


@pytest.mark.parametrize("protocol", METRICS)
def test_an_empty_split_is_refused(protocol: str, model: Path, photos: Path, given: dict[str, Source]) -> None:
    given["data"] = Source("data", ("red", "blue"), {"train": some(photos), "test": []})
    with pytest.raises(UserError, match="the split 'test' is empty; there is nothing to score"):
        evaluate(model, "data", protocol)
    if protocol != "classify":
        given["data"] = Source("data", ("red", "blue"), {"train": [], "test": some(photos)})
        with pytest.raises(UserError, match="the train split is empty"):
            evaluate(model, "data", protocol)


@pytest.mark.parametrize("protocol", METRICS)
@pytest.mark.parametrize("label", [2, -1])
def test_a_label_outside_the_range_is_refused(
    protocol: str, label: int, model: Path, photos: Path, given: dict[str, Source]
) -> None:
    given["data"] = Source("data", ("red", "blue"), {"train": some(photos), "test": some(photos, label)})
    with pytest.raises(UserError, match=rf"000.png of the test split has the label {label}; expected 0 to 1"):
        evaluate(model, "data", protocol)


def test_a_wrong_number_of_classes_is_refused(photos: Path, tmp_path: Path) -> None:
    nameless = made(tmp_path / "nameless", None, 4)
    with pytest.raises(UserError, match="the model has 4 classes without names, the data 3"):
        evaluate(nameless, photos, "classify")
    console = Console(io.StringIO(), io.StringIO())
    evaluate(made(tmp_path / "three", None, 3), photos, "classify", console=console)
    assert "have no names" in console.err.getvalue()  # type: ignore[attr-defined]


def test_class_names_that_match_partly_are_refused(model: Path, photos: Path) -> None:
    for split in ("train", "test"):
        (photos / split / "blue").rename(photos / split / "bleu")
    with pytest.raises(UserError, match=r"does not know: 'bleu'.*The model knows: .*Did you mean 'blue'"):
        evaluate(model, photos, "classify")


def test_a_cut_file_of_features_scores_as_before(model: Path, photos: Path) -> None:
    from vitkit.data.cache import cache_folder

    before = evaluate(model, photos, "classify")
    for path in (cache_folder() / "features").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    console = Console(io.StringIO(), io.StringIO())
    assert evaluate(model, photos, "classify", console=console) == before
    [line] = console.err.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "computed anew" in line


def test_multilabel_data_has_a_probe_and_nothing_else(headless: Path, given: dict[str, Source]) -> None:
    given["shapes"] = shapes(train=24, test=16)
    rows = evaluate(headless, "shapes", "linear")
    assert rows["map"].low is not None
    assert 0 < rows["map"].value <= 1
    for protocol in ("knn", "fewshot"):
        with pytest.raises(UserError, match=r"shapes is multi-label data; .* Use --protocol linear"):
            evaluate(headless, "shapes", protocol)


def test_images_that_cannot_be_used_are_counted_out(model: Path, photos: Path) -> None:
    (photos / "test" / "red" / "bad.png").write_bytes(b"no image")
    for protocol in METRICS:
        console = Console(io.StringIO(), io.StringIO())
        rows = evaluate(model, photos, protocol, console=console)
        assert {row.n for row in rows.values()} == {12}
        assert "skipped test/red/bad.png" in console.err.getvalue()  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"bad.png: .*--strict"):
            evaluate(model, photos, protocol, strict=True)


def test_fewshot_draws_from_usable_images_in_the_order_of_the_data(model: Path, tmp_path: Path) -> None:
    """Draws are of classes in the data's order: the measured hits are those of the regression on the shared features."""
    root = tmp_path / "data"
    for seed, (name, colour) in enumerate(COLOURS.items()):
        write_images(root / "train" / name, colour, 6, seed)
        write_images(root / "test" / name, (120, 110, 115), 5, seed + 9)
    rows = evaluate(model, root, "fewshot", shots=(3,), preprocess="own")
    bundle = vitkit.load(model)
    from PIL import Image

    def of(split: str) -> tuple[torch.Tensor, np.ndarray]:
        paths = [path for name in sorted(COLOURS) for path in sorted((root / split / name).iterdir())]
        labels = [sorted(COLOURS).index(path.parent.name) for path in paths]
        images = np.stack([bundle.preprocess(Image.open(path)).numpy() for path in paths])
        return torch.from_numpy(bundle.run(images).features), np.array(labels)  # type: ignore[misc]

    x, labels = of("train")
    supports = [Support(3, seed, draw_support(labels, 3, (3,), seed)[3]) for seed in (0, 1, 2)]
    draws = measure_fewshot(x, labels, *of("test"), 3, supports)
    assert [rows[f"3shot-seed-{draw.seed}"].value for draw in draws] == [draw.hits.mean() for draw in draws]
