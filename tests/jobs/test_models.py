"""`vit models`: the table, its filter, one row in full, JSON, and what is said where nothing fits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import vitkit
from vitkit.cli.main import main
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.jobs.models import PROVED, describe, list_models, show_model
from vitkit.zoo.fetch import place
from vitkit.zoo.rows import ROWS, find_row


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def printed(text: str) -> list[str]:
    out = io.StringIO()
    list_models(text, console=Console(out))
    return out.getvalue().splitlines()


BOX = "`box` ships with vitkit (vit models show box)"


def test_the_table_has_a_line_for_every_row_and_ends_with_their_number() -> None:
    lines = printed("")
    assert len(lines) == len(ROWS) + 2
    assert lines[0].split() == ["name", "model", "size", "params", "top-1", "licence", "here"]
    assert lines[-1] == f"{len(ROWS)} of {len(ROWS)} models, and every file of AugReg's 52,268 by its name; {BOX}."
    assert max(map(len, lines)) <= 120
    assert printed("augreg")[-1].endswith(f"and every file of AugReg's 52,268 by its name; {BOX}.")
    assert printed("torchvision")[-1] == f"{len(list_models('torchvision'))} of {len(ROWS)} models; {BOX}."


def test_every_name_in_the_table_leads_to_its_row() -> None:
    names = [line.split()[0] for line in printed("")[1:-1]]
    assert [find_row(name).name for name in names] == [row.name for row in ROWS]


def test_a_line_says_what_the_row_says() -> None:
    (line,) = [line for line in printed("deit tiny") if line.startswith("deit_tiny_patch16_224 ")]
    assert line.split() == ["deit_tiny_patch16_224", "Ti/16", "224", "5.7M", "72.2", "Apache-2.0"]


def test_the_filter_is_words_in_any_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert {row.name for row in list_models("b/16 384 google/")} == {
        "google/vit-base-patch16-384", "google/siglip-base-patch16-384", "google/siglip2-base-patch16-384",
    }  # fmt: skip
    assert main(["models", "384", "b/16"]) == 0
    assert capsys.readouterr().out.splitlines() == printed("b/16 384")
    assert vitkit.list_models("b/16 384") == list_models("384 B/16")


def test_a_file_of_augregs_index_is_found_though_it_is_not_listed() -> None:
    name = "B_16-i1k-300ep-lr_0.001-aug_light0-wd_0.03-do_0.1-sd_0.1"
    assert [row.name for row in list_models(name)] == [f"augreg/{name}"]


def test_what_is_on_this_machine_is_marked() -> None:
    assert not printed("dino_vits8")[1].endswith("yes")
    place(find_row("dino_vits8")).parent.mkdir(parents=True)
    place(find_row("dino_vits8")).write_bytes(b"weights")
    assert printed("dino_vits8")[1].endswith("yes")
    assert describe(find_row("dino_vits8"))["cached"] == str(place(find_row("dino_vits8")))


def test_nothing_that_fits_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "no", "such", "thing"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"vit: no model of the {len(ROWS)} known has 'no such thing' in its name, architecture,")
    with pytest.raises(UserError, match="Did you mean 'facebook/dinov2-base'"):
        list_models("facebook/dinov2-bass")
    with pytest.raises(UserError, match=r"no model 'deit_tny' in the zoo; .*Did you mean 'deit_tiny_patch16_224'"):
        show_model("deit_tny")


def test_one_row_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "deit_tiny_patch16_224"]) == 0
    text = capsys.readouterr().out
    for part in (
        "Ti/16, 5,717,416 parameters, 12 blocks of width 192, 3 heads", "224 x 224 pixels", "1000 classes (imagenet1k)",
        "crop of the central 0.875, bicubic, mean (0.485, 0.456, 0.406)", "72.20 % on ImageNet-1k", "Apache-2.0",
        "https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth", "sha256 begins with a1311bcf",
        "timm, 152 tensors of the image model", "names and shapes of timm's own model", "no; by hand it would be",
    ):  # fmt: skip
        assert part in text, part


def test_what_is_run_otherwise_than_stored_and_what_is_no_class_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    show_model("imagenet21k/ViT-B_16", console=Console())
    text = capsys.readouterr().out
    assert "features of 768 numbers (its head is all zeros)" in text
    assert "202 tensors" in text
    assert "squash, bilinear, mean 0.5, std 0.5" in text


def test_json_is_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", "deit_tiny_patch16_224", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == json.loads(json.dumps(show_model("deit_tiny_patch16_224")))
    assert (facts["tensors"], facts["model"]["num_heads"], facts["preprocess"]["fit"]) == (152, 3, "crop")
    assert main(["models", "dinov2_vit", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [row.name for row in list_models("dinov2_vit")]
    assert rows[0]["run"] == {"image_size": [224, 224]}


def test_show_wants_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show"], ["show", "a", "b"]):
        assert main(["models", *words]) == 2
        assert "vit models show NAME" in capsys.readouterr().err


def test_it_is_said_of_every_format_what_it_was_compared_with() -> None:
    assert set(PROVED) == {row.format for row in ROWS}


def test_the_model_that_ships_is_found_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "box", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert main(["models", "show", "box", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == listed
    assert listed["name"] == "box"
