"""The 19 tasks, how their 800, 200 and test images are cut, and folders that tfds prepared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from containers import example, picture, write_records
from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.data.samples import Sample, Source
from vitkit.datasets import vtab
from vitkit.datasets.book import find_dataset
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.tfds import find_prepared, read_prepared
from vitkit.datasets.rows import Published
from vitkit.datasets.vtab import TASKS, derive, find_task, open_task, task_folder

ELSEWHERE = ("caltech101", "cifar100", "dtd", "flowers102", "pets")  # rows of modules that are not VTAB's own


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
    classes = {task.name: find_dataset(task.row).classes for task in TASKS if task.row not in ELSEWHERE}
    assert classes == {
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


def test_lazy_samples_are_a_sequence() -> None:
    made: list[int] = []

    def make(index: int) -> Sample:
        made.append(index)
        return Sample(str(index), b"", 0)

    lazy = LazySamples(5, make)
    assert names(lazy[1:4]) == ["1", "2", "3"]
    assert lazy[-1].name == "4"
    assert made == [1, 2, 3, 4]
    assert names(lazy) == ["0", "1", "2", "3", "4"]
    with pytest.raises(IndexError):
        lazy[5]


def prepare_clevr(folder: Path, counts: tuple[int, ...] = (6, 4)) -> Path:
    """CLEVR as tfds prepares it, its train split in shards."""
    number = 0
    for shard, count in enumerate(counts):
        contents = []
        for _ in range(count):
            objects = 3 + number % 8
            coordinates = [float(v) for n in range(objects) for v in (1, 2, 8.2 + n)]
            contents.append(
                example(
                    image=picture((number, 0, 0)), file_name=b"x.png", objects__size=[1] * objects,
                    objects__pixel_coords=coordinates, question_answer__question=[b"how many?"],
                )
            )  # fmt: skip
            number += 1
        write_records(folder / f"clevr-train.tfrecord-{shard:05d}-of-{len(counts):05d}", contents)
    one = example(image=picture(9), objects__size=[0] * 10, objects__pixel_coords=[9.6] * 30)
    write_records(folder / "clevr-validation.tfrecord-00000-of-00001", [one] * 2)
    write_records(folder / "clevr-test.tfrecord-00000-of-00001", [example(image=picture(9), objects__size=[])])
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_folder_that_tfds_prepared_keeps_its_order(tmp_path: Path) -> None:
    folder = prepare_clevr(tmp_path / "clevr" / "3.1.0")
    assert task_folder(find_task("clevr_count"), tmp_path) == tmp_path / "clevr"
    assert find_prepared(tmp_path / "clevr", "clevr") == folder
    with pytest.raises(UserError, match="train 10 of 70,000, val 2 of 15,000"):
        open_task(find_task("clevr_count"), tmp_path / "clevr")
    count = open_task(find_task("clevr_count"), tmp_path / "clevr", partial_set=True)
    assert count.caveat == ""
    assert [sample.label for sample in count.train] == [0, 1, 2, 3, 4, 5, 6, 7, 0]  # the first 9 of 10
    assert [sample.label for sample in count.val] == [1]
    assert [sample.label for sample in count.test] == [7, 7]  # the official validation split
    assert np.asarray(open_image(count.train[7].source))[0, 0].tolist() == [7, 0, 0]  # of the second shard
    distance = open_task(find_task("clevr_distance"), tmp_path / "clevr", partial_set=True)
    assert [sample.label for sample in distance.train] == [1] * 9
    assert [sample.label for sample in distance.test] == [4, 4]
    assert "the published 1,000 images, in the order of tfds" in count.notes


def test_prepared_folders_in_pieces_say_so(tmp_path: Path) -> None:
    folder = prepare_clevr(tmp_path / "clevr" / "3.1.0")
    task = find_task("clevr_count")
    shard = folder / "clevr-train.tfrecord-00001-of-00002"
    content = shard.read_bytes()
    shard.write_bytes(content[:-7])
    with pytest.raises(UserError, match=r"00001-of-00002 is cut off inside record 3; 3 whole ones"):
        open_task(task, tmp_path / "clevr", partial_set=True)
    shard.write_bytes(content[:30] + b"?" + content[31:])
    with pytest.raises(UserError, match=r"00001-of-00002: record 0 is damaged: its checksum is wrong"):
        open_task(task, tmp_path / "clevr", partial_set=True)
    shard.unlink()
    with pytest.raises(UserError, match=r"lacks 1 of the 2 shards of the train split.*-00001-of-00002"):
        open_task(task, tmp_path / "clevr", partial_set=True)
    prepare_clevr(tmp_path / "clevr" / "3.0.0")
    with pytest.raises(UserError, match=r"several folders prepared by tfds: .*3\.0\.0, .*3\.1\.0\. Keep one"):
        find_prepared(tmp_path / "clevr", "clevr")


def test_prepared_labels_of_every_shape(tmp_path: Path) -> None:
    """Records of the other prepared sets, with tfds' names of features."""
    cases = {
        "svhn": ("svhn_cropped", {"label": 9}, 9),
        "kitti_distance": ("kitti", {"objects__type": [3, 1], "objects__location": [0.0, 0.0, 2.0, 1.0, 1.0, 19.5]}, 1),
        "dsprites_orientation": ("dsprites", {"label_orientation": 39, "label_x_position": 0}, 15),
        "smallnorb_azimuth": ("smallnorb", {"label_azimuth": 17, "label_elevation": 8}, 17),
    }
    for task_name, (name, features, label) in cases.items():
        task = find_task(task_name)
        folder = tmp_path / name
        write_records(folder / f"{name}-train.tfrecord-00000-of-00001", [example(image=picture(1), **features)])
        found = read_prepared(
            folder, name=name, classes=find_dataset(task.row).classes, label=task.label, binary=task.binary
        )
        (sample,) = found.splits["train"]
        assert sample.label == label, task_name
        assert np.asarray(open_image(sample.source)).max() == (255 if name == "dsprites" else 1)


def test_a_configuration_is_heeded(tmp_path: Path) -> None:
    folder = tmp_path / "eurosat" / "all" / "2.0.0"
    write_records(folder / "eurosat-train.tfrecord-00000-of-00001", [example(label=1)])
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="expected the configuration rgb"):
        find_prepared(tmp_path / "eurosat", "eurosat", "rgb")
    assert find_prepared(tmp_path / "eurosat", "eurosat", "all") == folder
    assert find_prepared(folder, "eurosat", "rgb") == folder  # the user names the very folder
    assert find_prepared(tmp_path, "svhn_cropped") is None
