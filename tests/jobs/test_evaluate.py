"""`vit evaluate` and the board from end to end, by the command line: measure, add, list, write the site; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitkit
from shifted import KINDS, WNIDS, class_folders, noise, put
from small_models import made
from standins import cifar_members, unpack
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.data.classnames import class_names

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's results or data."""
    monkeypatch.setenv("VITKIT_BOARD", str(tmp_path / "board"))
    monkeypatch.delenv("VITKIT_DATA", raising=False)
    return tmp_path / "board"


@pytest.fixture
def thousand(tmp_path: Path) -> Path:
    """A model of ImageNet's classes by name."""
    return made(tmp_path / "thousand", class_names("imagenet1k"))


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """The binary version in small, with every class in its training images."""
    members, _, _ = cifar_members(10)
    for number in range(5):
        name = f"cifar-10-batches-bin/data_batch_{number + 1}.bin"
        records = np.frombuffer(members[name], np.uint8).reshape(3, 3073).copy()
        records[:, 0] = [2 * number, 2 * number + 1, number]
        members[name] = records.tobytes()
    return unpack(tmp_path / "cifar10", members.items())


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def to_the_board(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    """Add a run, and check that table, JSON and site tell it beside what is published."""
    stored = json.loads((out / "results.json").read_text())
    assert len(stored["model"]["fingerprint"]) == len(stored["data"]["fingerprint"]) == 64
    added = printed(capsys, "results", "add", out, *options)
    assert "added" in added
    found: list[dict[str, Any]] = json.loads(printed(capsys, "results", "--source", "ours", "--json"))
    assert found
    text = printed(capsys, "results", "--source", "ours")
    printed(capsys, "results", "site", tmp_path / "site")
    for entry in found:
        assert entry["fingerprint"] == stored["model"]["fingerprint"]
        assert entry["code"] == stored["code"]
        assert entry["command"] == stored["command"]
        assert f"{entry['value']:.2f}" in text
        page = (tmp_path / "site" / "datasets" / f"{entry['dataset']}.html").read_text(encoding="utf-8")
        assert entry["data"] in page
        if entry["beside"]:
            assert entry["beside"]["model"] in text
            assert entry["beside"]["model"] in page
    return found


def test_robustness(thousand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    class_folders(data / "imagenet_v2", {number: str(number) for number in range(0, 1000, 90)})
    for severity in range(1, 6):
        class_folders(data / "imagenet_c" / KINDS[9] / str(severity), {number: WNIDS[number] for number in range(3)})
    said = printed(
        capsys,
        "evaluate",
        thousand,
        "robustness",
        "--protocol",
        "robustness",
        "--data-root",
        data,
        "--partial",
        "--out",
        out,
    )
    assert "imagenet_v2 test: top-1 " in said
    assert "images: the model's own: " in said
    [row] = [line for line in said.splitlines() if line.startswith("  imagenet_v2/test ") and " top1 " in line]
    assert row.split("]")[1].split()[:2] == ["12", "images"]
    assert row.endswith("  the first answer is right (1)")
    assert "\n  (1) a part of ImageNet-V2 (matched frequency) only, not comparable with published figures\n" in said
    account = json.loads((out / "results.json").read_text())["data"]
    assert (account["name"], account["images"]) == ("robustness", 12 + 15)
    assert [(each["name"], each["split"], each["images"]) for each in account["sets"]] == [
        ("imagenet_v2", "test", 12), ("imagenet_c", None, 15),
    ]  # fmt: skip
    found = to_the_board(out, tmp_path, capsys, "--part")
    assert {(entry["dataset"], entry["metric"]) for entry in found} == {
        ("imagenet-v2", "top1"),
        ("imagenet-v2", "top5"),
    }
    assert {entry["data"] for entry in found} == {account["sets"][0]["fingerprint"]}
    assert all(entry["part"] and entry["n"] == 12 for entry in found)
    [top1] = [entry for entry in found if entry["metric"] == "top1"]
    assert top1["beside"]["source"].startswith("https://")
    # The same set scored alone is the same measurement.
    again = tmp_path / "again"
    printed(
        capsys, "evaluate", thousand, f"imagenet_v2={data / 'imagenet_v2'}", "--protocol", "robustness", "--partial",
        "--out", again,
    )  # fmt: skip
    assert main(["results", "add", str(again), "--part"]) == 1
    assert "on the board already" in capsys.readouterr().err


def test_classify(cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = made(tmp_path / "model", TEN)
    data, out = f"cifar10={cifar10}", tmp_path / "out"
    assert main(["evaluate", str(model), data, "--out", str(out)]) == 1
    assert "--partial" in capsys.readouterr().err
    assert not out.exists()
    printed(capsys, "evaluate", model, data, "--partial", "--out", out)
    assert main(["results", "add", str(out)]) == 1
    assert "n: 3 images, but the published test split of CIFAR-10 has 10,000; --part" in capsys.readouterr().err
    labels = {row["label"] for row in json.loads((out / "results.json").read_text())["rows"]}
    assert labels == {"a part of CIFAR-10 only, not comparable with published figures"}
    found = to_the_board(out, tmp_path, capsys, "--part")
    assert {entry["task"] for entry in found} == {"image-classification"}
    [top1] = [entry for entry in found if entry["metric"] == "top1"]
    assert (top1["n"], top1["dataset"], top1["beside"]["value"]) == (3, "cifar10", 99.5)
    assert top1["beside"]["difference"] is None  # of a part


def test_fewshot(cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = made(tmp_path / "model", None, 0), tmp_path / "out"
    printed(
        capsys, "evaluate", model, "cifar10", "--data-root", cifar10.parent, "--protocol", "fewshot", "--shots", "1",
        "--partial", "--out", out,
    )  # fmt: skip
    [entry] = to_the_board(out, tmp_path, capsys, "--part", "--model-name", "tiny")
    assert (entry["task"], entry["metric"], entry["model"], entry["n"]) == ("few-shot", "top1_1shot", "tiny", 3)
    assert entry["low"] <= entry["value"] <= entry["high"]


def test_vtab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, out = made(tmp_path / "model", None, 0), tmp_path / "data", tmp_path / "out"
    unpack(data / "cifar100", cifar_members(100)[0].items())
    given = (
        "evaluate", model, f"vtab:cifar100={data}", "--protocol", "vtab", "--partial", "--workers", "1",
        "--set", "batch_size=2", "--set", "image_size=16", "--set", "optim.warmup_steps=0", "--out", out,
    )  # fmt: skip
    said = printed(capsys, *given, "--set", "steps=2")
    assert "cifar100: " in said
    assert "lr 0.01, 2 steps" in said
    stored = json.loads((out / "results.json").read_text())
    assert stored["settings"] == {
        "grid": ["lr 0.01 x 2"], "chosen": {"cifar100": "lr 0.01 x 2"}, "sweep": False, "seed": 0,
        "changes": {"batch_size": 2, "image_size": 16, "optim.warmup_steps": 0, "steps": 2},
    }  # fmt: skip
    data_of = stored["data"]
    assert (data_of["name"], data_of["split"], data_of["images"]) == ("vtab", "test", 3)
    assert [each["name"] for each in data_of["sets"]] == ["vtab/cifar100"]
    [row] = stored["rows"]
    assert row["label"].startswith("other settings than the protocol: batch_size=2, image_size=16")
    printed(capsys, *given, "--set", "steps=2")  # from the stored result
    assert json.loads((out / "results.json").read_text())["data"] == data_of
    [entry] = to_the_board(out, tmp_path, capsys, "--part")
    assert (entry["task"], entry["dataset"], entry["metric"], entry["n"]) == ("vtab-1k", "vtab-cifar100", "top1", 3)
    assert entry["data"] == data_of["sets"][0]["fingerprint"]
    assert main([str(each) for each in (*given, "--set", "step=2")]) == 1
    assert "no setting 'step'. Did you mean 'steps'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--protocol", "knn", "--shots", "5"), "--shots says nothing to the protocol knn; it belongs to fewshot."),
        (("--sweep",), "--sweep says nothing to the protocol classify; it belongs to vtab."),
        (("--set", "steps=5"), "--set says nothing to the protocol classify; it belongs to vtab."),
        (("--protocol", "fewshot", "--neighbours", "5"), "--neighbours says nothing to the protocol fewshot; it belongs to knn."),
        (("--protocol", "vtab", "--split", "test"), "--split says nothing to the protocol vtab; it belongs to classify, knn, "),
        (("--protocol", "vtab", "--preprocess", "squash"), "--preprocess says nothing to the protocol vtab"),
        (("--seed", "3"), "--seed says nothing to the protocol classify; it belongs to linear, fewshot, vtab."),
        (("--protocol", "robust"), "no protocol 'robust'. Did you mean 'robustness'? Known: classify, knn"),
        (("--protocol", "robustness"), "the protocol robustness does not know the data "),
        (("--protocol", "vtab"), "protocol vtab is of vtab or vtab:TASK, got "),
        (("--split", "tests"), "has no split 'tests'; it has train, test. Did you mean 'test'"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_message(
    arguments: tuple[str, ...], told: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made(tmp_path / "model", ("red", "green", "blue"))
    assert main(["evaluate", str(model), str(photos), "--out", str(tmp_path / "out"), *arguments]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "data", "code", "told"),
    [
        ("", "no-such-folder", 1, "no-such-folder"),
        ("no-such-model", "PHOTOS", 1, "no-such-model"),
        ("", "cifar11=PHOTOS", 1, "no published data set 'cifar11'. Did you mean 'cifar1"),
        ("", "cifar10", 1, "where is cifar10? Write cifar10=FOLDER"),
        ("", "robustness", 1, "robustness names the data of a protocol of its own: add --protocol robustness."),
        ("", "robustness --protocol robustness", 1, "where are the robustness sets? Write robustness=FOLDER"),
        ("", "vtab=sets --protocol knn", 1, "add --protocol vtab."),
        ("", "cifar10=PHOTOS", 1, "expected"),
        ("", "PHOTOS --set steps", 2, "'steps' is not of the form name=value"),
    ],
)
def test_missing_data_and_wrong_names_are_one_message(
    model: str, data: str, code: int, told: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = made(tmp_path / "model", ("red", "green", "blue"))
    words = data.replace("PHOTOS", str(photos)).split()
    assert main(["evaluate", model or str(own), *words, "--out", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
    assert "a bug in vitkit" not in error
    assert not (tmp_path / "out").exists()


def test_the_functions_take_what_the_command_takes(tmp_path: Path, photos: Path) -> None:
    model = made(tmp_path / "model", ("red", "green", "blue"))
    with pytest.raises(UserError, match="--set says nothing to the protocol knn"):
        vitkit.evaluate(model, photos, protocol="knn", settings={"steps": 3})
    unpack(tmp_path / "cifar100", cifar_members(100)[0].items())
    settings = {"steps": 1, "batch_size": 2, "image_size": 16, "optim.warmup_steps": 0}
    [row] = vitkit.evaluate(
        model, f"vtab:cifar100={tmp_path}", protocol="vtab", partial=True, settings=settings, workers=0
    )
    assert (row.dataset, row.n) == ("vtab/cifar100", 3)


def test_wordnet_ids_are_classes_of_a_model_with_names(
    thousand: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ImageNet's own folders, and a part of its classes in any folder, for a model of names such as DeiT's."""
    labels = [WNIDS[index] for index in (0, 7, 7, 404, 999)]
    for number, wnid in enumerate(labels, 1):
        name = f"ILSVRC2012_val_{number:08}.JPEG"
        put(tmp_path / "imagenet" / "val" / wnid / name, noise(number))
        put(tmp_path / "some" / wnid / name, noise(number))
    whole = printed(capsys, "evaluate", thousand, f"imagenet={tmp_path / 'imagenet'}", "--partial", "--json")
    part = printed(capsys, "evaluate", thousand, tmp_path / "some", "--json")
    figures = [{row["metric"]: (row["value"], row["n"]) for row in json.loads(text)} for text in (whole, part)]
    assert figures[0]["top1"] == figures[1]["top1"]
    assert figures[0]["nll"][0] == pytest.approx(figures[1]["nll"][0])
    assert json.loads(whole)[0]["dataset"] == "imagenet/val"
    bundle = vitkit.load(thousand)
    found = vitkit.predict(thousand, [str(path) for path in sorted((tmp_path / "some").rglob("*.JPEG"))])
    names = class_names("imagenet1k")
    right = [answer.answer == names[WNIDS.index(Path(path).parent.name)] for path, answer in found.predictions]
    assert bundle.classes == names
    assert figures[0]["top1"] == (sum(right) / 5, 5)
    put(tmp_path / "some" / "n00000001" / "a.png", noise(9))
    assert main(["evaluate", str(thousand), str(tmp_path / "some")]) == 1
    assert "'n00000001'" in capsys.readouterr().err


def test_a_model_of_other_classes_and_one_without_a_head_are_told_what_to_do(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = made(tmp_path / "many", TEN)
    assert main(["evaluate", str(many), str(photos)]) == 1
    assert "--protocol linear, knn or fewshot measures its features" in capsys.readouterr().err
    bare = made(tmp_path / "bare", None, 0)
    assert main(["evaluate", str(bare), str(photos)]) == 1
    assert "--protocol linear, knn and fewshot need no head." in capsys.readouterr().err
