"""`vit serve` where it cannot serve: one message, and its exit code. What it does is in tests/server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from small_models import made
from vitkit.cli.main import main
from vitkit.server.running import address_of, listen


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return made(tmp_path / "m", ("a", "b"))


def fails(arguments: list[object], capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    assert main(["serve", *map(str, arguments)]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_taken_port_is_said_before_models_are_opened(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as bound:
        port = address_of(bound).rpartition(":")[2]
        said = fails([model.parent / "nothing", "--port", port], capsys)
    assert said == (
        f"vit: cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --port; 0 takes a free one.\n"
    )


def test_an_unknown_model_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no model" in fails([model, model.parent / "other", "--port", 0], capsys)


def test_a_missing_package_says_how_to_get_it(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = fails([model, "--port", 0], capsys)
    assert "vit serve cannot run: uvicorn" in said
    assert "vitkit[serve]" in said


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--queue", 0], 1, "--queue must be at least 1, got 0."),
        (["--timeout", "soon"], 2, "'soon' is not a duration"),
        (["--body-limit", "much"], 2, "'much' is not a number of bytes; write 33554432, 32M or 1G."),
        (["--max-wait-ms", "-1"], 1, "--max-wait-ms must be at least 0, got -1."),
        (["--cors", "example.org"], 1, "--cors 'example.org' is no origin; write https://example.org"),
        (["--log-format", "xml"], 1, "--log-format is 'xml'; known: text, json."),
        (["--engine", "steam"], 1, "--engine 'steam'; known:"),
        (["--api-key-file", "nothing"], 1, "--api-key-file nothing cannot be read: No such file"),
        (["--port", 70000], 1, "--port must be from 0 to 65535, got 70000."),
        (["--host", "nowhere.invalid"], 1, "--host nowhere.invalid is no address of this machine"),
    ],
)
def test_options_that_are_refused(
    model: Path, capsys: pytest.CaptureFixture[str], options: list[object], code: int, message: str
) -> None:
    assert message in fails([model, "--port", 0, *options], capsys, code)


def test_two_models_of_one_name_are_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "two models are called 'm'" in fails([model, f"m={model}"], capsys)
    assert fails([], capsys, 2).startswith("Usage:")
