"""The command line: every wrong input is one message and an exit code, never a trace; output is what scripts expect."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vitkit
from conftest import write_images
from vitkit.bundle import Bundle
from vitkit.cli.main import main
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import VisionTransformer, ViTConfig


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    config = ViTConfig(
        embed_dim=8, depth=1, num_heads=1, mlp_dim=8, patch_size=(8, 8), image_size=(16, 16), num_classes=3
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    made = Bundle(model, Preprocess((16, 16)), ("blue", "green", "red"), source="a test", licence="none")
    return made.save(tmp_path / "bundle")


def fails(arguments: list[object], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """Run a command that must fail; its one message."""
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    lines = [line for line in captured.err.splitlines() if not line.startswith("warning:")]
    if code == 1:
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("vit: ")
    return captured.err


def test_help_is_a_page_and_every_command_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    for command in ("finetune", "predict", "evaluate", "demo", "doctor"):
        assert f"vit {command}" in page
        assert main([command, "--help"]) == 0
        assert "Usage: vit " in capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 120
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"vit {vitkit.__version__}"


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean 'finetune'" in fails(["finetun"], capsys, 2)
    assert "DATA" in fails(["finetune"], capsys, 2)
    assert "No such option" in fails(["finetune", "x", "--modle", "y"], capsys, 2)
    assert "is not a duration" in fails(["finetune", "x", "--budget", "soon"], capsys, 2)
    assert "is not a size" in fails(["finetune", "x", "--image-size", "big"], capsys, 2)
    assert "name=value" in fails(["finetune", "x", "--set", "lr"], capsys, 2)


def test_wrong_data_is_one_message(
    tmp_path: Path, flat: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "run"]
    assert "no such data" in fails(["finetune", tmp_path / "nothing", *out], capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no class folders with images" in fails(["finetune", tmp_path / "empty", *out], capsys)
    write_images(tmp_path / "one" / "red", (200, 0, 0), 4, 0)
    assert "the data has one class, 'red'" in fails(["finetune", tmp_path / "one", *out], capsys)
    write_images(flat / "violet", (200, 0, 200), 1, 0)
    assert "class 'violet' has only 1 usable image" in fails(["finetune", flat, *out], capsys)
    write_images(photos / "val" / "gren", (0, 200, 0), 2, 0)
    message = fails(["finetune", photos, *out], capsys)
    assert "the val split has a class 'gren' that train does not have" in message
    assert "Did you mean 'green'" in message
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_not_overwritten(tmp_path: Path, flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert "already exists" in fails(["finetune", flat, "--out", tmp_path / "run"], capsys)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert "is not a fine-tuning run" in fails(["finetune", "--resume", tmp_path / "run"], capsys)


def test_wrong_models_are_one_message(
    tmp_path: Path, bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((photos / "test" / "red").iterdir())
    assert "no model" in fails(["predict", tmp_path / "none", image], capsys)
    assert "is neither a vitkit bundle" in fails(["predict", photos, image], capsys)
    weights = bundle / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in fails(["predict", bundle, image], capsys)
    weights.write_bytes(whole)
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    message = fails(["evaluate", bundle, photos], capsys)
    assert "bundle format 99" in message
    assert "pip install -U vitkit" in message
    (bundle / "config.json").write_text(json.dumps({**config, "model": {**config["model"], "embed_dim": 16}}))
    assert "has shape" in fails(["predict", bundle, image], capsys)
    (bundle / "config.json").write_text("{")
    assert "cannot be read as JSON" in fails(["predict", bundle, image], capsys)
    save_file({"something": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    assert "no known layout" in fails(["predict", tmp_path / "foreign.safetensors", image], capsys)


def test_predict_writes_csv_and_json_lines_in_input_order(
    bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "test" / "green" / "broken.jpg").write_bytes(b"no picture")
    folders = [str(photos / "test" / name) for name in ("red", "green")]
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(bundle), *folders, "-o", "a.csv", "--top", "2"]) == 0
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert rows[0] == ["path", "prediction", "probability", "prediction_2", "probability_2"]
    assert [Path(row[0]).parent.name for row in rows[1:]] == ["red"] * 4 + ["green"] * 4
    captured = capsys.readouterr()
    assert "broken.jpg" in captured.err
    assert "8 predicted, 1 skipped" in captured.out
    skipped = list(csv.reader((tmp_path / "a.csv.skipped.csv").read_text().splitlines()))
    assert skipped[0] == ["path", "reason"]
    assert skipped[1][0].endswith("broken.jpg")
    assert main(["predict", str(bundle), str(photos / "test" / "red" / "*.png"), "-o", "b.jsonl"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [(line["path"], line["prediction"], repr(line["probability"])) for line in lines] == [
        (row[0], row[1], row[2]) for row in rows[1:5]
    ]
    capsys.readouterr()
    assert main(["predict", str(bundle), folders[0]]) == 0
    assert [line.split(",")[:3] for line in capsys.readouterr().out.splitlines()[1:]] == [row[:3] for row in rows[1:5]]
    assert "(--strict)" in fails(["predict", bundle, *folders, "--strict"], capsys)


def test_json_output_is_json_alone_on_stdout(bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(bundle), str(photos), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["metric"] for row in rows} >= {"top1", "nll"}
    assert main(["predict", str(bundle), str(photos / "test" / "red"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 4
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["torch"].startswith(torch.__version__.split("+")[0])


def test_wrong_paths_and_outputs_of_predict(
    bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photos / "test" / "red" / "000.png"
    assert "no such file" in fails(["predict", bundle, photos / "test" / "red" / "0000.png"], capsys)
    assert "no file matches" in fails(["predict", bundle, photos / "*.tiff"], capsys)
    assert "written as .csv or .jsonl" in fails(["predict", bundle, image, "-o", tmp_path / "a.xlsx"], capsys)
    assert "--top must be at least 1" in fails(["predict", bundle, image, "--top", "0"], capsys)
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(["predict", bundle, image, "-o", tmp_path / "file" / "a.csv"], capsys)
    (photos / "bad").mkdir()
    (photos / "bad" / "bad.png").write_bytes(b"no picture")
    assert main(["predict", str(bundle), str(photos / "bad"), "-o", str(tmp_path / "none.csv")]) == 1
    assert "none of the 1 files can be used" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message(
    bundle: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photos / "test" / "red" / "000.png"
    assert "cannot write /dev/full: No space left on device" in fails(
        ["predict", bundle, image, "-o", "/dev/full"], capsys
    )


def test_a_file_size_limit_is_one_message_and_keeps_what_was_there(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    out.write_text("older answers\n")
    command = [sys.executable, "-m", "vitkit", "predict", str(bundle), *[str(photos)] * 20, "-o", str(out)]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # noqa: E731
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text() == "older answers\n"
    run = [
        sys.executable,
        "-m",
        "vitkit",
        "finetune",
        str(photos),
        "--model",
        "scratch",
        "--out",
        str(tmp_path / "run"),
        "--epochs",
        "1",
    ]
    done = subprocess.run(run, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_one_message(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(["finetune", flat, "--out", tmp_path / "file" / "run"], capsys)


def test_a_reader_that_goes_away_is_no_error(bundle: Path, photos: Path) -> None:
    command = f"{sys.executable} -m vitkit predict {bundle} {photos} | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("path,prediction,probability")
    assert "Traceback" not in done.stderr


def test_a_bug_is_exit_code_70_with_its_trace_in_a_file(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("vitkit.datasets.book.sources.read_source", lambda data: 1 / 0)
    assert main(["evaluate", str(bundle), str(photos)]) == 70
    message = capsys.readouterr().err
    assert "a bug in vitkit: ZeroDivisionError" in message
    assert "Traceback" not in message
    trace = Path(message.split("The trace is in ")[1].strip())
    assert "ZeroDivisionError" in trace.read_text()


def test_an_interrupt_is_exit_code_130(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(data: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitkit.datasets.book.sources.read_source", interrupt)
    assert main(["evaluate", str(bundle), str(photos)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_nothing_live_is_printed_where_there_is_no_terminal(
    bundle: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(bundle), str(photos)]) == 0
    captured = capsys.readouterr()
    assert "\r" not in captured.out + captured.err
    assert captured.err == ""


def test_data_with_other_classes_than_the_model_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "other" / "rot", (200, 0, 0), 2, 0)
    write_images(tmp_path / "other" / "red", (200, 0, 0), 2, 0)
    assert "does not know: 'rot'" in fails(["evaluate", bundle, tmp_path / "other"], capsys)


@pytest.mark.parametrize(
    ("text", "pixels"), [("200000000", 200_000_000), ("200M", 200_000_000), ("0.5gp", 500_000_000), ("24", 24)]
)
def test_numbers_of_pixels_are_written_in_several_ways(
    text: str, pixels: int, bundle: Path, flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["evaluate", str(bundle), str(flat), "--max-pixels", text])
    captured = capsys.readouterr()
    if pixels == 24:  # the images have 256
        assert code == 1
        assert "16x16 is above 2.4e-05 megapixels" in captured.err
    else:
        assert code == 0
        assert "24 scored, 0 skipped" in captured.out


def test_a_number_of_pixels_that_is_none_is_wrong_usage(
    bundle: Path, flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("many", "0", "-5", "1T"):
        assert "200MP" in fails(["evaluate", bundle, flat, f"--max-pixels={text}"], capsys, 2)
    assert "1<=x<=64" in fails(["finetune", flat, "--channels", "65"], capsys, 2)


def test_the_limit_is_stored_with_the_run(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert (
        main(
            [
                "finetune",
                str(flat),
                "--model",
                "scratch",
                "--out",
                str(run),
                "--epochs",
                "1",
                "--workers",
                "0",
                "--max-pixels",
                "2M",
            ]
        )
        == 0
    )
    assert json.loads((run / "arguments.json").read_text())["max_pixels"] == 2_000_000
    capsys.readouterr()
