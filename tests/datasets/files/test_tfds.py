"""Folders that tfds prepared, as VTAB opens them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from containers import example, picture, write_records
from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.datasets.book import find_dataset
from vitkit.datasets.files.tfds import find_prepared, read_prepared
from vitkit.datasets.vtab import find_task, open_task, task_folder


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
    assert "9 + 1 images of that part to learn from" in count.notes  # and not "the published 1,000"


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
