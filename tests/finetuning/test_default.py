"""Which weights a run starts from when none are named, and that it says so."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import vitkit
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.finetuning import default
from vitkit.finetuning.default import default_model

QUICK = {"batch_size": 8, "evaluations": 1}


def run(data: Path, out: Path, **options: Any) -> tuple[Any, str]:
    said = io.StringIO()
    result = vitkit.finetune(data, out=out, epochs=1, workers=0, settings=QUICK, console=Console(said, said), **options)
    return result, said.getvalue()


def stored(run: Path) -> Any:
    return json.loads((run / "arguments.json").read_text())["model"]


@pytest.fixture(autouse=True)
def no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITKIT_DOWNLOAD", raising=False)
    monkeypatch.delenv("VITKIT_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been fetched; nothing is."""
    asked: list[str] = []

    def refuse(row: Any) -> Path:
        asked.append(row.name)
        raise UserError("the publisher does not answer.")

    monkeypatch.setattr(default, "fetch", refuse)
    return asked


def test_without_a_word_it_is_the_box_and_nothing_is_fetched(photos: Path, tmp_path: Path, fetched: list[str]) -> None:
    result, said = run(photos, tmp_path / "run")
    assert "default   box, as no --model is named: it ships with vitkit" in said
    assert "--download" in said
    assert not fetched
    assert stored(result.run) == "box"
    assert "non-commercial" in vitkit.load(result.bundle).licence
    assert "model='box'" in (result.run / "command.txt").read_text()


def test_scratch_is_random_weights(photos: Path, tmp_path: Path, fetched: list[str]) -> None:
    result, said = run(photos, tmp_path / "run", model="scratch")
    assert "default" not in said
    assert "random weights" in said
    assert stored(result.run) is None
    assert "model='scratch'" in (result.run / "command.txt").read_text()


def test_a_download_that_is_allowed_and_fails_ends_in_the_box(fetched: list[str]) -> None:
    chosen = default_model(True)
    assert fetched == [default.RECOMMENDED]
    assert chosen.model == "box"
    assert "not to be had: the publisher does not answer" in chosen.why


def test_the_environment_may_allow_it(fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITKIT_DOWNLOAD", "1")
    assert default_model(None).model == "box"
    assert fetched == [default.RECOMMENDED]
    assert default_model(False).model == "box"
    assert len(fetched) == 1


def test_offline_wins_over_a_download(fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITKIT_OFFLINE", "1")
    chosen = default_model(True)
    assert chosen.model == "box"
    assert "nothing is fetched offline" in chosen.why
    assert not fetched


def test_the_recommended_checkpoint_is_taken_where_it_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "fetch", lambda row: Path("weights"))
    assert default_model(True).model == default.RECOMMENDED
    monkeypatch.setattr(default, "cached", lambda row: Path("weights"))
    chosen = default_model(None)
    assert chosen.model == default.RECOMMENDED
    assert "on this machine already" in chosen.why


def test_a_repeated_plan_takes_the_model_of_its_run(photos: Path, tmp_path: Path, fetched: list[str]) -> None:
    first, _ = run(photos, tmp_path / "first", model="scratch")
    again = io.StringIO()
    result = vitkit.finetune(photos, out=tmp_path / "again", plan=first.run, workers=0, console=Console(again, again))
    assert stored(result.run) is None
    assert "whose plan is repeated" in again.getvalue()


def test_a_stopped_run_keeps_the_model_it_began_with(
    photos: Path, tmp_path: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = run(photos, tmp_path / "run")
    (result.run / "report.json").unlink()
    monkeypatch.setattr(default, "cached", lambda row: Path("weights"))
    said = io.StringIO()
    vitkit.finetune(resume=result.run, console=Console(said, said))
    assert stored(result.run) == "box"
    assert "default" not in said.getvalue()
