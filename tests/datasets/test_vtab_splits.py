"""The 19 tasks, how their 800, 200 and test images are cut, and folders that tfds prepared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vitkit.config import UserError
from vitkit.data.samples import Sample, Source
from vitkit.datasets import vtab
from vitkit.datasets.book import find_dataset
from vitkit.datasets.rows import Published
from vitkit.datasets.vtab import TASKS, derive, find_task, open_task


def numbered(split: str, count: int) -> list[Sample]:
    return [Sample(f"{split}{n}", b"", n % 7) for n in range(count)]


def source(**counts: int) -> Source:
    return Source("fake", tuple("abcdefg"), {split: numbered(split, count) for split, count in counts.items()})


def names(samples: object) -> list[str]:
    return [sample.name for sample in samples]  # type: ignore[attr-defined]


def span(split: str, start: int, stop: int) -> list[str]:
    return [f"{split}{n}" for n in range(start, stop)]


def test_there_are_19_tasks_in_the_order_of_table_9() -> None:
    assert Counter(task.group for task in TASKS) == {"natural": 7, "specialized": 4, "structured": 8}
    assert " ".join(task.title for task in TASKS) == (
        "Caltech101 CIFAR-100 DTD Flowers102 Pets Sun397 SVHN Camelyon EuroSAT Resisc45 Retinopathy Clevr-Count Clevr-Dist "
        "DMLab dSpr-Loc dSpr-Ori KITTI-Dist sNORB-Azim sNORB-Elev"
    )
    classes = {task.name: find_dataset(task.row).classes for task in TASKS}
    assert classes == {
        "caltech101": 102, "cifar100": 100, "dtd": 47, "flowers102": 102, "pets": 37,
        "sun397": 397, "svhn": 10, "patch_camelyon": 2, "eurosat": 10, "resisc45": 45, "retinopathy": 5, "clevr_count": 8,
        "clevr_distance": 6, "dmlab": 6, "dsprites_location": 16, "dsprites_orientation": 16, "kitti_distance": 4,
        "smallnorb_azimuth": 18, "smallnorb_elevation": 9,
    }  # fmt: skip
    with pytest.raises(UserError, match="no task 'kitti'"):
        find_task("kitti")
    with pytest.raises(UserError, match="Did you mean 'clevr_count'"):
        find_task("clevr_counts")


@pytest.mark.parametrize(
    ("cut", "counts", "val", "test"),
    [
        ("90", {"train": 3_060, "test": 6_084}, ("train", 2_754), ("test", 0, 6_084)),  # Caltech101
        ("90", {"train": 73_257, "test": 50}, ("train", 65_931), ("test", 0, 50)),  # SVHN: floor(65,931.3)
        ("80", {"train": 3_680, "test": 30}, ("train", 2_944), ("test", 0, 30)),  # Pets
        ("60/20", {"train": 27_000}, ("train", 16_200), ("train", 21_600, 27_000)),  # EuroSAT
        ("60/20", {"train": 31_503}, ("train", 18_901), ("train", 25_201, 31_503)),
        ("80/10", {"train": 73_728}, ("train", 58_982), ("train", 66_354, 73_728)),
        ("clevr", {"train": 70_000, "val": 150}, ("train", 63_000), ("val", 0, 150)),
        ("official", {"train": 1_880, "val": 1_880, "test": 99}, ("val", 0), ("test", 0, 99)),
        ("smallnorb", {"train": 24_300, "test": 2_431}, ("test", 0), ("test", 1_215, 2_431)),
    ],
)
def test_the_800_the_200_and_the_test_set(
    cut: str, counts: dict[str, int], val: tuple[str, int], test: tuple[str, int, int]
) -> None:
    train, held_out, scored = derive(source(**counts), cut)
    assert names(train) == span("train", 0, 800)
    assert names(held_out) == span(val[0], val[1], val[1] + 200)
    assert names(scored) == span(*test)


def test_no_part_of_a_small_set_is_in_two_places() -> None:
    for cut, counts in (
        ("90", {"train": 30, "test": 3}),
        ("60/20", {"train": 11}),
        ("smallnorb", {"train": 5, "test": 9}),
    ):
        parts = [names(part) for part in derive(source(**counts), cut)]
        assert len(set().union(*parts)) == sum(map(len, parts)) == sum(counts.values())
    with pytest.raises(UserError, match="fake has no val split; it has train, test"):
        derive(source(train=10, test=10), "official")


def published(counts: dict[str, int]) -> Published:
    return Published("svhn", "SVHN", 7, counts, "", "", "files", lambda folder: source(**counts))


def test_publishers_files_are_cut_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": 2_000, "test": 40}
    monkeypatch.setattr(vtab, "find_dataset", lambda name: published(counts))
    found = open_task(find_task("svhn"), tmp_path)
    assert names(found.train) == span("train", 0, 800)
    assert names(found.val) == span("train", 1_800, 2_000)
    assert names(found.test) == span("test", 0, 40)
    assert (found.caveat, found.notes[-1]) == ("", "the published 1,000 images, in the order of tfds")
    caltech = open_task(find_task("caltech101"), tmp_path)
    assert "in an order that was not published" in caltech.caveat
    assert caltech.notes[-1] == f"not exactly the published task: {caltech.caveat}"
    counts = {"train": 500, "test": 40}
    with pytest.raises(UserError, match="has 450 and 50 images for 800 and 200"):
        open_task(find_task("svhn"), tmp_path)
    assert len(open_task(find_task("svhn"), tmp_path, partial_set=True).train) == 450
