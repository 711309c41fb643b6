"""`vit audit` from folder to page: everything planted is told, ranked, and nothing of the data is changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

import vitkit
from planted import scene
from vitkit.cli.main import main
from vitkit.config import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, train and test; a leak of each kind, a conflict, a broken file, a turned image, a double."""
    root, seed = tmp_path / "photos", 0
    for split, counts in (("train", (24, 8)), ("test", (4, 4))):
        for name, count in zip(("ant", "bee"), counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                scene(seed, (40, 50)).save(root / split / name / f"{number:02d}.png")
    (root / "test/ant/leak.png").write_bytes((root / "train/ant/03.png").read_bytes())
    Image.open(root / "train/ant/04.png").resize((80, 64)).save(root / "test/ant/near.png")
    (root / "train/ant/twin.png").write_bytes((root / "train/ant/06.png").read_bytes())
    (root / "train/bee/other.png").write_bytes((root / "train/ant/05.png").read_bytes())
    (root / "train/bee/broken.jpg").write_bytes(b"\xff\xd8\xff")
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(999, (30, 90)).save(root / "train/bee/turned.jpg", exif=exif)
    return root


def test_the_command_tells_everything_that_was_planted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    assert main(["audit", str(photos), "--image-size", "32x40"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 10 test images are also in train (byte by byte)" in printed
    assert f"report    {Path('runs/audit-photos/audit.html')}" in printed
    facts = json.loads(Path("runs/audit-photos/audit.json").read_text())
    assert (facts["format"], facts["format_version"]) == ("vitkit-audit", 1)
    kinds = [f["kind"] for f in facts["findings"]]
    assert set(kinds) >= {
        "leak_exact",
        "leak_near",
        "conflicting_labels",
        "unreadable",
        "duplicates_exact",
        "exif_rotated",
    }
    assert [("high", "medium", "low").index(f["severity"]) for f in facts["findings"]] == sorted(
        ("high", "medium", "low").index(f["severity"]) for f in facts["findings"]
    )
    assert {(k["kind"], k["second"]["name"]) for k in facts["leaks"]} == {
        ("exact", "test/ant/leak.png"), ("near", "test/ant/near.png"),
    }  # fmt: skip
    assert facts["unreadable"][0]["name"] == "train/bee/broken.jpg"
    assert sorted(map(sorted, facts["duplicates"]["exact"]))[0] == ["test/ant/leak.png", "train/ant/03.png"]
    assert facts["fit"]["fit"] == "squash"
    assert before == {path: path.read_bytes() for path in photos.rglob("*.*")}

    assert main(["audit", str(photos), "--json"]) == 0  # numbered, and from the cache
    again = json.loads(capsys.readouterr().out)
    assert again["counts"]["known_from_cache"] == again["counts"]["usable"]
    assert Path("runs/audit-photos-2/audit.html").exists()
    assert again["duplicates"] == facts["duplicates"]


def test_the_page_is_self_contained(photos: Path, tmp_path: Path) -> None:
    name = photos / "train" / "bee" / "<script>alert(1)<script>.png"
    scene(1, (40, 50)).save(photos / "train" / "bee" / "x.png")
    (photos / "train" / "bee" / "x.png").rename(name)
    result = vitkit.audit(photos, out=tmp_path / "out")
    page = result.page.read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count("data:image/jpeg") > 4
    assert "prefers-color-scheme: dark" in page
    assert len(page) < 1_000_000


def test_mistakes_are_told_before_any_file_is_opened(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="known: auto, crop, squash, pad"):
        vitkit.audit(photos, out=tmp_path / "a", fit="stretch")
    with pytest.raises(UserError, match="already exists"):
        vitkit.audit(photos, out=photos)
    with pytest.raises(UserError, match="files cannot be used"):
        vitkit.audit(photos, out=tmp_path / "b", strict=True)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_flipped_labels_are_listed(tmp_path: Path) -> None:
    for name, colour in (("blue", (40, 60, 200)), ("red", (200, 50, 40))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(40):
            true = colour if number else tuple(reversed(colour))  # image 0 is of the other class
            tint = Image.new("RGB", (40, 40), true)
            Image.blend(tint, scene(number, (40, 40)), 0.3).save(tmp_path / "data" / name / f"{number}.png")
    facts = vitkit.audit(tmp_path / "data", out=tmp_path / "out").facts
    assert {entry["name"] for entry in facts["label_errors"][:2]} == {"blue/0.png", "red/0.png"}
    assert "thumbnails" in facts["label_check"]["method"]


def test_a_split_without_any_usable_image_is_a_finding(photos: Path, tmp_path: Path) -> None:
    for path in (photos / "test").rglob("*.png"):
        path.write_bytes(b"no image")
    facts = vitkit.audit(photos, out=tmp_path / "audit", image_size=(32, 40)).facts
    assert len([entry for entry in facts["unreadable"] if entry["split"] == "test"]) == 10
    for path in (photos / "train").rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="There is nothing to audit"):
        vitkit.audit(photos, out=tmp_path / "again")
