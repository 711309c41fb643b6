"""Splits looked at together: leaks, conflicts, and findings in the order of their cost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planted import png, scene
from shared import shared_data
from vitkit.console import Console
from vitkit.data.audit import scan
from vitkit.data.cache import Cache
from vitkit.data.findings import Finding, find, fit_losses, rank
from vitkit.data.pixels import Preprocess, fit_image
from vitkit.data.sources import Sample, Source
from vitkit.data.survey import Survey, survey
from vitkit.data.thumbnails import THUMBNAIL_BYTES, describe


def surveyed(splits: dict[str, list[Sample]], classes: tuple[str, ...] = ("ant", "bee")) -> Survey:
    source = Source("photos", classes, splits)
    return survey(source, {split: scan(samples, console=Console()) for split, samples in splits.items()})


@pytest.fixture(scope="module")
def found() -> Survey:
    """Test images 0 and 1 are train's, byte by byte and resized; train has one image twice, labelled differently."""
    train = [Sample(f"train/{i}", png(scene(i)), i % 2) for i in range(12)]
    train.append(Sample("train/again", png(scene(3)), 0))
    test = [Sample("test/0", png(scene(0)), 0), Sample("test/1", png(scene(1).resize((40, 40))), 1)]
    test.append(Sample("test/2", png(scene(50)), 1))
    return surveyed({"train": train, "test": test})


def test_leaks_between_splits(found: Survey) -> None:
    named = [(k.kind, found.places[k.first].sample.name, found.places[k.second].sample.name) for k in found.leaks]
    assert named == [("exact", "train/0", "test/0"), ("near", "train/1", "test/1")]


def test_duplicates_whose_labels_differ(found: Survey) -> None:
    assert [[found.places[i].sample.name for i in group] for group in found.conflicts] == [["train/3", "train/again"]]


def test_findings_are_ranked_and_say_what_they_cost(found: Survey) -> None:
    findings = find(found)
    assert [f.kind for f in findings] == [
        "leak_exact",
        "leak_near",
        "conflicting_labels",
        "few_images",
        "duplicates_exact",
    ]
    assert "1 of 3 test images are also in train (byte by byte)" in findings[0].message
    assert "up to 33.3 points" in findings[0].message
    assert findings[0].examples[0]["second"] == {"split": "test", "name": "test/0"}


def test_severity_ranks_before_cost() -> None:
    low, high, more = (
        Finding(k, s, c, 1, "") for k, s, c in (("a", "low", 0.9), ("b", "high", 0.1), ("c", "high", 0.2))
    )
    assert rank([low, high, more]) == [more, high, low]


def test_multilabel_images_conflict_by_all_their_labels() -> None:
    content = png(scene(0))
    same = [Sample("a", content, -1, (0, 1)), Sample("b", content, -1, (0, 1)), Sample("c", png(scene(2)), -1, ())]
    assert not surveyed({"all": same}).conflicts
    assert surveyed({"all": [same[0], same[1]._replace(labels=(1,))]}).conflicts == [[0, 1]]


def test_skew_and_unreadable_and_rotated_are_told() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    scene(40).save(turned, "JPEG", exif=exif)
    samples = [Sample(str(i), png(scene(i)), 0) for i in range(36)] + [Sample("b", png(scene(90)), 1)]
    samples += [Sample("t", turned.getvalue(), 0), Sample("x", b"", 1)]
    kinds = {f.kind: f for f in find(surveyed({"all": samples}))}
    assert "37 images of 'ant' and 1 of 'bee'" in kinds["class_skew"].message
    assert kinds["unreadable"].examples == [{"split": "all", "name": "x", "reason": "is empty"}]
    assert kinds["exif_rotated"].examples == [{"split": "all", "name": "t"}]


@pytest.mark.parametrize("fit", ["crop", "squash", "squash_crop", "pad"])
def test_what_fitting_throws_away_is_what_fitting_does(fit: str) -> None:
    record = Preprocess((20, 30), fit=fit, crop_fraction=0.8)
    image = Image.new("RGB", (300, 100))
    image.paste((255, 0, 0), (120, 0, 180, 100))  # the middle fifth
    losses = fit_losses([(100, 300)], record, "")
    seen = (fit_image(image, record)[..., 0] > 128).mean()
    kept = 1 - losses.lost[0]
    if fit == "pad":
        assert kept == 1  # a third of the width of the canvas stays with the image's shape
    else:
        width, area = {"crop": (0.8 * 0.5, 0.8 * 0.8 * 0.5), "squash": (1, 1), "squash_crop": (0.8, 0.8 * 0.8)}[fit]
        assert seen == pytest.approx(0.2 / width, abs=0.05)
        assert kept == pytest.approx(area)


def test_a_second_scan_decodes_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [Sample(str(i), png(scene(i)), 0) for i in range(5)]
    first = scan(samples, console=Console(), cache=Cache("facts", tmp_path))
    monkeypatch.setattr("vitkit.data.audit.open_picture", lambda *_: pytest.fail("decoded again"))
    again = scan(samples, console=Console(), cache=Cache("facts", tmp_path))
    assert (first.known, again.known) == (0, 5)
    assert (again.sizes, again.digests, again.fingerprint) == (first.sizes, first.digests, first.fingerprint)
    assert np.array_equal(again.descriptions, first.descriptions)


def test_the_leaks_of_pneumoniamnist_are_found() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    splits = {}
    for split, name in (("train", "train"), ("val", "validation")):
        table = pq.read_table(shared_data("pneumoniamnist", f"{name}-00000-of-00001.parquet")).to_pylist()
        splits[split] = [Sample(f"{split}/{i}", row["image"]["bytes"], row["label"]) for i, row in enumerate(table)]
    found = surveyed(splits)
    assert len({leak.second for leak in found.leaks if leak.kind == "exact"}) == 8


def test_no_thumbnails_have_no_descriptions_of_the_usual_width() -> None:
    """A set whose size is a whole number of pieces ends with an empty one."""
    some = describe(np.zeros((2, THUMBNAIL_BYTES), np.uint8))
    none = describe(np.zeros((0, THUMBNAIL_BYTES), np.uint8))
    assert none.shape == (0, some.shape[1])
    assert none.dtype == some.dtype
