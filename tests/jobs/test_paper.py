"""`vit paper`: the list with what is at hand, items by name, JSON, files, and the exit codes of what cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import vitkit
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.jobs.paper import describe_item, list_items, overview_lines, paper, result_lines
from vitkit.papers.book import find_item


@pytest.fixture(autouse=True)
def no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITKIT_BOARD", str(tmp_path / "board"))
    monkeypatch.delenv("VITKIT_DATA", raising=False)


def test_the_list_says_of_everything_whether_it_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper"]) == 0
    page = capsys.readouterr().out
    for name in ("table1", "table9", "figure1", "figure14"):
        assert f"\n{name} " in f"\n{page}"
    assert main(["paper", "--json"]) == 0
    found = {item["item"]: item for item in json.loads(capsys.readouterr().out)}
    assert len(found) == 23
    assert found["table6"]["here"] == found["table1"]["here"] == found["figure12"]["here"] == "yes"
    assert found["figure7"]["here"] == "with what you name"
    assert found["figure7"]["missing"] == ["--model M", "--images IMAGES"]
    assert found["table2"]["here"] == "no"
    assert "weights imagenet21k/ViT-L_16" in found["table2"]["missing"]
    assert "data imagenet, cifar10, cifar100, pets, flowers102" in found["table2"]["missing"]
    assert found["figure7"]["command"] == "vit paper figure7 --model M --images IMAGES -o DIR"


def test_what_is_named_and_what_is_here_is_no_longer_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {item["item"]: item for item in list_items(["a.npz"], ["photos"], "digits")}
    assert found["figure7"]["here"] == found["table8"]["here"] == "yes"
    assert found["figure7"]["command"] == "vit paper figure7 --model a.npz --images photos -o DIR"
    (tmp_path / "cifar10").mkdir()
    monkeypatch.setenv("VITKIT_DATA", str(tmp_path))
    missing = describe_item(find_item("table5"), {})["missing"]
    assert "data imagenet, cifar100, pets, flowers102" in missing
    assert max(map(len, overview_lines(list(found.values()), 100))) < 180


def test_table_6_as_json_is_what_scripts_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "table6", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["item"] == "table6"
    first = facts["rows"][0]
    assert (first["model"], first["epochs"]) == ("ViT-B/32", 7)
    assert first["exaflops"] == pytest.approx(56.3, rel=1e-3)
    assert (first["published"]["exaflops"], first["published"]["imagenet"]) == (55, 80.73)


def test_a_figure_is_written_with_its_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "fig5", "-o", str(tmp_path / "out")]) == 0
    assert "wrote" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "figure5.json").read_text())
    assert facts["files"] == ["figure5.svg", "figure5.png"]
    assert facts["command"].startswith("vit")
    assert (tmp_path / "out" / "figure5.svg").read_text().startswith("<?xml")
    before = (tmp_path / "out" / "figure5.png").read_bytes()
    assert vitkit.paper("figure5", out=tmp_path / "again").files[1].read_bytes() == before


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", "figure3"]) == 0
    assert "-o DIR writes figure3.svg, .png and .json" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no folder")
    for arguments, message in (
        (["paper", "tabel1"], "Did you mean 'table1'?"),
        (["paper", "figure6"], "give --model M and --images IMAGES"),
        (["paper", "table1", "--images", "x"], "--images says nothing to table1"),
        (["paper", "figure6", "--model", "none.npz", "--images", "nowhere"], "nowhere"),
        (["paper", "table1", "-o", str(tmp_path / "notes.txt")], "it is a file, and -o names a folder"),
        (["paper", "figure12", "--set", "secnds=3"], "Did you mean 'seconds'?"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err


def test_narrow_terminals_get_blocks_in_place_of_columns() -> None:
    result = paper("table6", console=Console())
    assert max(map(len, result_lines(result, 80))) <= 80
    assert any(line.startswith("  exaFLOPs: 56.3") for line in result_lines(result, 80))
    assert any(line.startswith("ViT-B/32 ") and "56.3" in line for line in result_lines(result, None))


def test_what_stops_the_writing_is_said_before_the_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr("vitkit.jobs.paper.run_item", None)  # nothing is measured
        for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
            with pytest.raises(UserError, match=r"cannot write to .*\. Choose another -o"):
                paper("figure12", out=out)
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UserError, match="matplotlib, which is not installed"):
            paper("figure12", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
    for wrong in ({"memory_gib": -1.0}, {"memory_gib": float("nan")}, {"seconds": 0.0}):
        with pytest.raises(UserError, match="expected at least 0 GiB"):
            paper("figure12", settings=wrong)
