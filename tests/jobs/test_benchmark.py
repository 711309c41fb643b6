"""`vit benchmark`: a table for people, JSON for machines, a recommendation that can be stored, and errors as everywhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import vitkit
from small_models import made
from vitkit.cli.main import main
from vitkit.engines import book
from vitkit.engines.measured import rounds
from vitkit.jobs.benchmark import find_model, is_random


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made(tmp_path / "model", ("blue", "green", "red"))


@pytest.fixture(autouse=True)
def quick_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PEAK", 0.01)


def fails(arguments: list[object], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    assert main(["benchmark", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return captured.err


def test_the_table_the_json_and_the_files_tell_the_same(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "benchmark",
        str(model),
        "--engines",
        "eager",
        "--batch",
        "1,2",
        "--seconds",
        "1",
        "--images",
        str(photos),
    ]
    out = tmp_path / "out"
    assert main([*arguments, "--json", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert facts == json.loads((out / "benchmark.json").read_text())
    assert facts["format"] == "vitkit-benchmark"
    assert facts["versions"]["torch"]
    assert facts["machine"]["cpus"] >= 1
    assert set(facts["peaks"]) == {"fp32", "bf16"}
    assert facts["images"]["real"]
    assert facts["images"]["n"] == 12  # the test split
    assert facts["recommended"]["engine"] == "eager"
    assert facts["recommended"]["precision"] == "fp32"
    assert facts["stored"] is None
    cells = facts["cells"]
    assert [(c["engine"], c["precision"], c["batch"]) for c in cells] == [
        ("eager", "fp32", 1), ("eager", "fp32", 2), ("eager", "bf16", 1), ("eager", "bf16", 2)
    ]  # fmt: skip
    for cell in cells:
        assert cell["compared_images"] == 12
        assert 0 <= cell["same_answers"] <= 1
        assert 0 < cell["share_of_peak"] < 1
        assert cell["ours"] is True
    assert cells[0]["largest_difference"] == 0 < cells[2]["largest_difference"]
    with (out / "benchmark.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["images_per_second"]) for row in rows] == [cell["images_per_second"] for cell in cells]
    table = captured.err
    assert "ours" in table
    assert "recommended: --engine eager --precision fp32" in table
    assert f"{cells[3]['images_per_second']:.1f}" in table
    assert max(map(len, table.splitlines())) < 160
    assert sum(line.startswith("eager ") and " ours " in line for line in table.splitlines()) == 4


def test_what_is_stored_is_what_auto_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--engines", "eager", "--batch", "1", "--seconds", "0.3", "--store"]
    assert main(["benchmark", str(model), *options]) == 0
    assert "stored for --engine auto: " in capsys.readouterr().out
    (path,) = model.glob("engines/*/benchmark-*.json")
    kept = json.loads(path.read_text())
    assert (kept["recommended"]["engine"], kept["recommended"]["precision"]) == ("eager", "fp32")
    assert kept["fastest"]["bf16"]["engine"] == "eager"
    assert book.engine_of(vitkit.load(model)).facts[:2] == ("eager", "fp32")


def test_without_a_model_random_weights_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--override", "image_size=32", "--override", "depth=1", "--engines", "eager", "--precisions", "fp32"]
    assert main(["benchmark", *small, "--batch", "1", "--seconds", "0.3"]) == 0
    said = capsys.readouterr().out
    assert "Ti/16 with random weights, as no model was named" in said
    assert "16 of random pixels: name some with --images" in said
    assert "recommended: --engine eager --precision fp32: there is no other engine here" in said


def test_random_models_have_outputs_that_can_differ() -> None:
    bundle, name = find_model("S/16", {"image_size": 32, "depth": 1})
    assert name == "S/16 with random weights"
    assert bundle.config.embed_dim == 384
    assert bundle.config.image_size == (32, 32)
    assert bundle.model.head is not None
    assert bundle.model.head.weight.std() > 0
    again, _ = find_model("S/16", {"image_size": 32, "depth": 1})
    assert bundle.model.head.weight.equal(again.model.head.weight)  # type: ignore[union-attr]


def test_names_of_random_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(is_random, (None, "scratch", "Ti/16", "H/14", "R50+B/16")))
    assert not any(map(is_random, ("runs/x", "X/16", "S/b", "scratch2", "S")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "S" / "16").mkdir(parents=True)
    assert not is_random("S/16")  # local paths win


def test_wrong_requests_are_one_message(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--engines 'eagr'; known: eager" in fails([model, "--engines", "eagr"], capsys)
    assert "--precisions 'fp16'; known: fp32, bf16, int8" in fails([model, "--precisions", "fp16"], capsys)
    assert "--engines names nothing" in fails([model, "--engines", ","], capsys)
    assert "--batch takes whole numbers from 1 to 4096" in fails([model, "--batch", "0"], capsys)
    assert "not a list of whole numbers" in fails([model, "--batch", "one"], capsys, 2)
    assert "not a duration" in fails([model, "--seconds", "soon"], capsys, 2)
    assert "no model" in fails([tmp_path / "none"], capsys)
    assert "no such data" in fails([model, "--images", tmp_path / "none"], capsys)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.png").write_bytes(b"no picture")
    assert "none of 1 images of" in fails([model, "--images", tmp_path / "bad"], capsys)
    (tmp_path / "file").touch()
    assert "it is a file, and -o names a folder" in fails([model, "-o", tmp_path / "file"], capsys)
    assert "--store keeps a choice beside a model" in fails(["--store"], capsys)
    assert "--store keeps a choice beside a model" in fails(["S/16", "--store"], capsys)
    assert "nothing of this can be measured here: eager int8: it computes in fp32, bf16" in fails(
        [model, "--engines", "eager", "--precisions", "int8"], capsys
    )
    assert "unknown setting 'imagesize'" in fails(["S/16", "--override", "imagesize=3"], capsys)


def test_engines_that_are_not_here_are_listed_with_their_reason(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(book, "ENGINES", ("eager", "openvino"))
    missing, precisions = book.missing, book.precisions
    monkeypatch.setattr(
        book, "missing", lambda name: "pip install 'vitkit[openvino]'" if name == "openvino" else missing(name)
    )
    monkeypatch.setattr(book, "precisions", lambda name: ("fp32",) if name == "openvino" else precisions(name))
    assert main(["benchmark", str(model), "--precisions", "fp32", "--batch", "1", "--seconds", "0.3"]) == 0
    assert "not measured: openvino: pip install 'vitkit[openvino]'" in capsys.readouterr().out
    message = fails([model, "--engines", "openvino"], capsys)
    assert "nothing of this can be measured here: openvino: pip install 'vitkit[openvino]'" in message


def test_a_model_without_a_head_and_images_in_a_plain_folder(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headless = made(tmp_path / "headless", None, 0)
    images = photos / "test" / "red"
    options = ["--engines", "eager", "--batch", "1", "--seconds", "0.3", "--images", str(images), "--json"]
    assert main(["benchmark", str(headless), *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"]["n"] == 4
    assert facts["cells"][0]["agrees"]
