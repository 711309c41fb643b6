"""Folders that `tensorflow_datasets` prepared: NAME[/CONFIG]/VERSION with NAME-SPLIT.tfrecord-00000-of-00010 and dataset_info.json.

tfds shuffles the examples when it prepares them, always alike for a version of a data set, and a slice such as ``train[:800]``
counts them shard by shard. So the order of the records here is the one that published protocols count in.

Source: tensorflow_datasets, core/{shuffle,naming,example_serializer}.py and core/tfrecords_reader.py.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from vitkit.config import UserError
from vitkit.data.samples import SPLIT_NAMES, Sample, Source
from vitkit.datasets.files.facts import Facts, LabelOf, checked, one_of
from vitkit.datasets.files.lazy import LazySamples
from vitkit.datasets.files.tfrecord import Record, RecordImage, find_records, read_example

__all__ = ["find_prepared", "read_prepared", "stored_label"]

SHARD = re.compile(r"(?P<name>.+)-(?P<split>[A-Za-z0-9_]+)\.tfrecord-(?P<number>\d{5})-of-(?P<total>\d{5})")
INFO = "dataset_info.json"
DEPTH = 3  # folders: NAME/CONFIG/VERSION


def stored_label(facts: Facts) -> int:
    """The feature ``label``."""
    return one_of(facts, "label")


def find_prepared(folder: Path, name: str, config: str = "") -> Path | None:
    """The prepared folder of a data set, ``folder`` itself or inside it; None where there is none.

    Raises:
        UserError: several, or only other configurations.
    """
    found = []
    for depth in range(DEPTH + 1):
        for info in sorted(folder.glob("/".join(["*"] * depth + [INFO]))):
            if any(info.parent.glob(f"{name}-*.tfrecord-*-of-*")):
                found.append(info.parent)
    if config:
        named = [path for path in found if path.parent.name == config or path == folder]
        if found and not named:
            raise UserError(f"{folder} holds {found[0]}, prepared by tfds; expected the configuration {config}.")
        found = named
    if len(found) > 1:
        raise UserError(f"{folder} holds several folders prepared by tfds: {', '.join(map(str, found))}. Keep one.")
    return found[0] if found else None


def read_prepared(
    folder: Path, *, name: str, classes: int, label: LabelOf = stored_label, image: str = "image", binary: bool = False
) -> Source:
    """The splits train, val and test of a prepared folder, in tfds' order; labels are numbers.

    Args:
        folder: the one that holds the shards.
        name: of the data set, as tfds calls it.
        classes: of the task.
        label: makes it of a record's features.
        image: the feature with the encoded image.
        binary: images are of 0 and 1.

    Raises:
        UserError: a shard is missing, cut off or damaged.
    """
    shards: dict[str, dict[int, Path]] = {}
    totals: dict[str, int] = {}
    for path in sorted(folder.iterdir()):
        match = SHARD.fullmatch(path.name)
        split = SPLIT_NAMES.get(match["split"]) if match and match["name"] == name else None
        if match is None or split is None:
            continue
        if totals.setdefault(split, int(match["total"])) != int(match["total"]):
            raise UserError(f"{folder} holds shards of the {split} split of {totals[split]} and of {match['total']}.")
        shards.setdefault(split, {})[int(match["number"])] = path
    splits = {}
    for split, held in shards.items():
        if absent := [number for number in range(totals[split]) if number not in held]:
            raise UserError(
                f"{folder} lacks {len(absent)} of the {totals[split]} shards of the {split} split, the first: "
                f"{name}-*.tfrecord-{absent[0]:05d}-of-{totals[split]:05d}. Copy or prepare it again."
            )
        records = [record for number in sorted(held) for record in find_records(held[number])]
        splits[split] = LazySamples(len(records), partial(_sample, records, split, label, classes, image, binary))
    if not splits:
        raise UserError(f"{folder} holds no {name}-train.tfrecord-00000-of-... of tfds.")
    return Source(name, tuple(map(str, range(classes))), splits, ("in the order that tensorflow_datasets prepared",))


def _sample(
    records: list[Record], split: str, label: LabelOf, classes: int, image: str, binary: bool, index: int
) -> Sample:
    record, name = records[index], f"{split}/{index:06d}"
    where = f"{record.path}, record {record.number}"
    return Sample(name, RecordImage(record, image, binary), checked(where, read_example(record), label, classes))
