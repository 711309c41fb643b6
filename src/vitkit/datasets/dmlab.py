"""DMLab: frames of DeepMind Lab with one of 6 classes, {close, far, very far} x {positive, negative reward}, in TFRecord files.

A record has ``image`` (JPEG), ``filename`` and ``label``. The files are dmlab-{train,validation,test}.tfrecord*, bare or in a tar
file.

Source: tensorflow_datasets, image_classification/dmlab.py (storage.googleapis.com/dmlab-vtab/dmlab.tar.gz).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from vitkit.data.archives import TarMember
from vitkit.data.samples import Sample, Source
from vitkit.datasets.files.facts import Facts, checked, one_of
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import list_files
from vitkit.datasets.files.tfrecord import Record, RecordImage, find_records, peek, read_example
from vitkit.datasets.rows import Published, missing

__all__ = ["ROWS", "dmlab_label"]

TITLE = "DMLab"
LAYOUT = "dmlab.tar.gz, or its files dmlab-{train,validation,test}.tfrecord*"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
CLASSES = tuple(map(str, range(6)))  # the publisher gives no order of the six names


def dmlab_label(facts: Facts) -> int:
    """The stored label."""
    return one_of(facts, "label")


def _read(folder: Path) -> Source:
    packed = next((folder / name for name in ("dmlab.tar", "dmlab.tar.gz") if (folder / name).is_file()), None)
    members = list_files(packed or folder)
    splits = {}
    for split, word in SPLITS.items():
        places = [place for name, place in members.items() if Path(name).name.startswith(f"dmlab-{word}.tfrecord")]
        if not places:
            raise missing(TITLE, folder, f"dmlab-{word}.tfrecord*", LAYOUT)
        records: list[Record] = []
        for place in places:
            if isinstance(place, TarMember):
                records += find_records(Path(place.path), place.offset, place.size)
            else:
                records += find_records(Path(str(place)))
        order = in_tfds_order(range(len(records)), peek(records, "filename"), word)
        splits[split] = LazySamples(len(records), partial(_sample, records, split), order)
    return Source("dmlab", CLASSES, splits)


def _sample(records: list[Record], split: str, index: int) -> Sample:
    name = f"{split}/{index:06d}"
    return Sample(name, RecordImage(records[index]), checked(name, read_example(records[index]), dmlab_label, 6))


ROWS = (
    Published(
        "dmlab", TITLE, 6, {"train": 65_550, "val": 22_628, "test": 22_735}, "not stated by the publisher",
        "https://github.com/google-research/task_adaptation", LAYOUT, _read,
    ),
)  # fmt: skip
