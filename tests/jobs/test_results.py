"""`vit results`: tables and JSON of the board, adding a run, and refusals that write nothing."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vitkit
from finetune_runs import run
from test_architecture import HEAVY, loaded_by
from vitkit.board.entries import ours
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.jobs.results import add_result, describe_entry, results


@pytest.fixture(autouse=True)
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's results."""
    monkeypatch.setenv("VITKIT_BOARD", str(tmp_path / "board"))
    return tmp_path / "board"


def write_results(folder: Path, **changes: Any) -> Path:
    """What `vit evaluate --out` writes."""
    rows = [
        {"task": "classify", "dataset": "cifar10/test", "metric": metric, "value": value, "low": low, "high": high, "n": 10_000,
         "model": "weights.safetensors", "source": "measured", "label": ""}
        for metric, value, low, high in (("top1", 0.9802, 0.9773, 0.9828), ("nll", 0.08, None, None))
    ]  # fmt: skip
    for key in changes.keys() & {"metric", "value", "n"}:
        rows[0][key] = changes.pop(key)
    facts = {
        "kind": "vitkit-results", "version": 1, "command": "vit evaluate weights.safetensors cifar10=data --out out",
        "code": "0.1.0 (0123456789ab)", "versions": {"vitkit": "0.1.0"},
        "data": {"name": "CIFAR-10", "split": "test", "images": 10_000, "fingerprint": "aa11"}, "protocol": "classify",
        "settings": {}, "model": {"name": "ViT-B_16", "fingerprint": "bb22"}, "rows": rows, **changes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(["results", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_the_overview_has_a_line_per_table(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    [line] = [line for line in text.splitlines() if line.startswith("  CIFAR-10  ")]
    assert "99.50" in line
    assert "ViT-H/14 (ViT paper, Table 2)" in line
    assert "576 published values, 8 of the community's listing, 0 of ours" in text


def test_words_choose_tables_and_the_community_stands_apart(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "cifar-10", "h/14").splitlines()
    assert lines[0] == "CIFAR-10 · Image Classification · top-1 accuracy in %, higher is better"
    assert lines[1] == "  published"
    assert lines[2].split()[:4] == ["99.50", "±", "0.06", "ViT-H/14"]
    assert "ViT paper, Table 2  2020-10" in " ".join(lines[2].split("   "))
    start = next(i for i, line in enumerate(lines) if line.startswith("  community, checked by nobody: "))
    assert "CC BY-SA 4.0" in lines[start]
    assert lines[start + 1].split()[:2] == ["99.5", "ViT-H/14"]
    text = printed(capsys, "--source", "community", "--dataset", "vizwiz")
    assert "450" in text
    assert "implausible: printed as a percentage, and 450 is none" in text


def test_options_filter_and_sort(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "--json", "--dataset", "flowers", "--model", "vit l/16", "--source", "paper"))
    assert {e["dataset"] for e in found} == {"flowers102"}
    assert all("L/16" in e["model"] or "L_16" in e["model"] for e in found)
    assert len(json.loads(printed(capsys, "--json", "--task", "vtab"))) == 4 + 60 + 9 + 27
    dates = [e["date"] for e in json.loads(printed(capsys, "--json", "--sort", "date"))]
    assert dates == sorted(dates, reverse=True)
    assert len(vitkit.results()) == 584


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nosuchthing",), 1, "no result on the board answers to nosuchthing"),
        (("imagenet-sketch",), 1, "no result on the board answers to imagenet-sketch. vit results without a word"),
        (("--dataset", "cifar11"), 1, "dataset: the board does not know 'cifar11'. Did you mean 'cifar1"),
        (("--task", "clasify"), 1, "Did you mean 'classify'"),
        (("ours",), 1, "Did you mean --source ours?"),
        (("--source", "papers"), 1, "source: 'papers'; expected paper, community, ours. Did you mean 'paper'?"),
        (("--sort", "value"), 1, "sort: 'value'; expected metric, date."),
        (("--source", "ours"), 1, "there is no result of ours in "),
        (("add",), 2, "name one RUN"),
        (("site", "a", "b"), 2, "name one OUT"),
        (("--part",), 2, "belong to vit results add RUN"),
        (("add", "x", "--source", "ours"), 2, "--source says nothing to vit results add"),
        (("add", "no-such-run"), 1, "no-such-run does not exist; expected a run folder"),
    ],
)
def test_wrong_use_is_one_message(
    arguments: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, *arguments, code=code)
    assert message in text
    assert "Traceback" not in text


def test_json_holds_what_the_site_and_scripts_need(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "--json"))
    assert len(found) == 584
    [odd, _] = [e for e in found if not e["plausible"]]
    assert (odd["value"], odd["unit"], odd["metric_title"]) == (450, "%", "Accuracy - Clean Images")
    assert (odd["dataset_title"], odd["task_title"], odd["model"]) == (
        "VizWiz-Classification", "Domain Adaptation", "ViT-8/B-224",
    )  # fmt: skip
    assert "PWC Archive" in odd["attribution"]
    [best] = [e for e in found if e["table"] == "Table 2" and e["dataset"] == "imagenet" and e["model"] == "ViT-H/14"]
    assert (best["value"], best["spread"], best["source"]) == (88.55, 0.04, "https://arxiv.org/abs/2010.11929v2")


def test_a_result_of_ours_stands_beside_the_published_one(
    tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "add", str(write_results(tmp_path / "out")))
    assert "98.02  [97.73, 98.28]  ViT-B_16  10,000 images" in text
    assert "-1.00 against 99.02 of ViT-B_16 (official README, " in text  # the best published one of that model
    [path] = board.iterdir()
    assert f"added     2 results of ViT-B_16: {path}" in text
    stored = json.loads(path.read_text())
    assert (stored["kind"], stored["version"], len(stored["entries"])) == ("vitkit-board-result", 1, 2)

    text = printed(capsys, "cifar10", "vit-b/16")
    lines = text.splitlines()
    assert lines.index("  ours") > lines.index("  published")
    [line] = [line for line in printed(capsys).splitlines() if line.startswith("  CIFAR-10            top-1")]
    assert line.rstrip().endswith("98.02  -1.00")
    [top1, nll] = json.loads(printed(capsys, "--json", "--source", "ours"))
    assert (top1["value"], top1["beside"]["value"], top1["beside"]["difference"]) == (98.02, 99.02, -1)
    assert (nll["value"], nll["unit"], nll["beside"]) == (0.08, "nats", None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": 4.5}, "value: 4.5 is 450 %"),
        ({"value": 450}, "450 % is above 100 % too"),
        ({"value": math.nan}, "value: nan is not a finite number"),
        ({"value": -1}, "value: -1 is -100 %"),
        ({"metric": "topp1"}, "metric: the board does not know 'topp1'. Did you mean 'top1'?"),
        ({"n": 9_728}, "n: 9,728 images"),
        ({"command": ""}, "command: missing"),
        ({"code": None}, "code: missing"),
        ({"data": {"name": "CIFAR-10"}}, "data: missing"),
        ({"kind": "other"}, "is of kind 'other', not 'vitkit-results'"),
        ({"version": 2}, "is of version 2; this vitkit reads version 1"),
        ({"rows": "none"}, "has no list of rows"),
        ({"rows": [1]}, "each of its rows must be an object"),
        ({"data": 3}, "data must be an object"),
        ({"value": 10**400}, "value: inf is not a finite number"),
        ({"value": "0.97"}, "value: '0.97' is no number"),
        ({"versions": "0.1.0"}, "versions must be an object"),
        ({"settings": [1]}, "settings must be an object"),
        ({"settings": {"lr": math.nan}}, "settings, versions: they hold a number that is not finite"),
    ],
)
def test_a_refused_result_writes_nothing(
    changes: dict[str, Any], reason: str, tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "add", str(write_results(tmp_path / "out", **changes)), code=1)
    assert reason in text
    assert len(text.splitlines()) == 1
    assert not board.exists()


def test_what_would_break_the_pages_is_refused(tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_results(tmp_path / "out") / "results.json"
    facts, text = json.loads(path.read_text()), path.read_text()
    for label in (["a"], 3, {"a": 1}):
        facts["rows"][0]["label"] = label
        path.write_text(json.dumps(facts))
        assert f"label: {label!r} is no text" in printed(capsys, "add", str(path), code=1)
    path.write_text(text.replace("0.9802", "1" + "0" * 5000))
    assert "cannot be read as JSON" in printed(capsys, "add", str(path), code=1)
    report = tmp_path / "run" / "report.json"
    report.parent.mkdir()
    for signs in (["a"], "abc"):
        report.write_text(json.dumps({"rows": [], "data": {"fingerprints": signs}}))
        assert "fingerprints must be an object" in printed(capsys, "add", str(report.parent), code=1)
    assert not board.exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": 450}, "top-1 accuracy of 450 %, interval 97.73 to 98.28, is not possible; expected 0 to 100 %"),
        ({"value": math.nan}, "value must be a finite number"),
        ({"value": "98"}, "value must be of type float, got '98'"),
        ({"value": 97.0}, "the value within its interval"),
        ({"high": None}, "is not possible"),
        ({"low": "97"}, "is not possible"),
        ({"kind": "published"}, "kind is not what vit results add writes"),
        ({"dataset": "cifar11"}, "dataset: the board does not know 'cifar11'"),
        ({"dataset": "cifar-10"}, "dataset 'cifar-10' is 'cifar10' on the board"),
        ({"task": "blub"}, "task: the board does not know 'blub'"),
        ({"date": "yesterday"}, "date is not what"),
        ({"n": 0}, "n is not what"),
        ({"code": ""}, "code is not what"),
        ({"extra": []}, "extra is not what"),
        ({"extra": {"label": 3}}, "extra.label is not what"),
        ({"extra": {"settings": "none"}}, "extra.settings is not what"),
    ],
)
def test_a_file_that_was_edited_is_not_shown(
    changes: dict[str, Any], reason: str, tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed(capsys, "add", str(write_results(tmp_path / "out")))
    [path] = board.iterdir()
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "entries": [{**stored["entries"][0], **changes}]}))
    for arguments in ((), ("--json",), ("site", str(tmp_path / "site"))):
        text = printed(capsys, *arguments, code=1)
        assert reason in text
        assert str(path) in text
        assert len(text.splitlines()) == 1
    assert not (tmp_path / "site").exists()
    path.write_text(json.dumps({**stored, "entries": 3}))
    assert "entries must be a list of objects" in printed(capsys, code=1)


def test_the_same_result_is_not_added_twice(tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = write_results(tmp_path / "out")
    printed(capsys, "add", str(out / "results.json"))
    assert "is on the board already (98.02 %" in printed(capsys, "add", str(out), code=1)
    assert len(list(board.iterdir())) == 1


def test_a_model_is_named_without_the_folders_of_this_machine(tmp_path: Path) -> None:
    weights, bundle = tmp_path / "deit_tiny.safetensors", tmp_path / "photos" / "model"
    weights.write_bytes(b"")
    bundle.mkdir(parents=True)
    for name, shown in ((weights, "deit_tiny"), (bundle, "photos"), ("google/vit-base", "google/vit-base")):
        out = write_results(tmp_path / "out", model={"name": str(name), "fingerprint": shown})
        assert {entry.model for entry in add_result(out, console=Console(io.StringIO()))} == {shown}


def test_a_folder_without_results_and_a_file_of_others_are_named(
    tmp_path: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds neither results.json nor report.json" in printed(capsys, "add", str(tmp_path / "empty"), code=1)
    board.mkdir()
    (board / "notes.json").write_text("{}")
    assert "notes.json is no result of the board" in printed(capsys, code=1)


def test_a_run_of_finetune_is_added_as_its_report_says(photos: Path, tmp_path: Path, board: Path) -> None:
    result = run(photos, tmp_path / "run")
    with pytest.raises(UserError, match=r"dataset: the board does not know 'photos'.*--dataset NAME"):
        add_result(tmp_path / "run")
    with pytest.raises(UserError, match=r"n: 12 images, but the published test split of MNIST has 10,000; --part"):
        add_result(tmp_path / "run", dataset="mnist")
    assert not board.exists()
    out = io.StringIO()
    entries = add_result(tmp_path / "run", dataset="mnist", part=True, model_name="tiny", console=Console(out))
    [top1] = [entry for entry in entries if entry.metric == "top1"]
    assert top1.value == pytest.approx(100 * result.headline["value"])
    assert (top1.n, top1.part, top1.model, top1.dataset) == (12, True, "tiny", "mnist")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert top1.data == report["data"]["fingerprints"]["test"]
    assert top1.code == report["code"]
    assert top1.command == report["command"]
    assert "12 images of a part" in out.getvalue()
    assert re.search(r"left out  classify photos/val top1 and \d+ more: label: selection, optimistic", out.getvalue())
    assert describe_entry(top1)["beside"] is None
    assert [entry.metric for entry in ours()] == [entry.metric for entry in entries]


def test_a_run_of_pretrain_is_added_too(photos: Path, tmp_path: Path) -> None:
    settings = {
        "steps": 2,
        "batch_size": 8,
        "model.embed_dim": 16,
        "model.depth": 1,
        "model.num_heads": 1,
        "model.mlp_dim": 16,
    }
    vitkit.pretrain("cifar10_small", data=photos, out=tmp_path / "run", settings=settings, workers=0)
    entries = add_result(tmp_path / "run", dataset="cifar10", part=True, console=Console(io.StringIO()))
    [top1] = [entry for entry in entries if entry.metric == "top1"]
    assert (top1.n, top1.model, top1.extra["protocol"]) == (12, "cifar10_small", "pretrain")
    assert top1.data
    assert top1.code == json.loads((tmp_path / "run" / "report.json").read_text())["code"]
    assert len(top1.fingerprint) == 64


def test_the_board_loads_nothing_heavy_and_is_quick(tmp_path: Path) -> None:
    code = "import os\nos.environ['VITKIT_BOARD'] = 'nowhere'\nfrom vitkit.cli.main import main\nassert main(['results']) == 0"
    loaded, seconds = loaded_by(code)
    assert loaded & set(HEAVY) == set()
    assert seconds < 0.5
    done = subprocess.run(
        [sys.executable, "-m", "vitkit", "results", "add", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("words", [(), ("cifar10",), ("imagenet",), ("vizwiz",)])
def test_tables_fit_a_terminal(words: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    results(*words, console=Console(out=screen))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len([line for line in lines if not line.startswith("        ")]) > 5
    paper = io.StringIO()  # a file or a pipe holds any line
    results(*words, console=Console(out=paper))
    assert len(paper.getvalue().splitlines()) <= len(lines)
