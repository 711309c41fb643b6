"""One folder of images for each class, in a folder or an archive, with the names of the classes known beforehand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vitkit.config import UserError
from vitkit.data.samples import Sample, Source, listed
from vitkit.datasets.files.order import in_tfds_order
from vitkit.datasets.files.shipped import list_files

__all__ = ["read_class_folders"]


def read_class_folders(title: str, root: Path, classes: Sequence[str], suffix: str, layout: str) -> Source:
    """Files ``.../CLASS/NAME.suffix`` as the split ``train``, in tfds' order (keys: CLASS_FILE).

    Raises:
        UserError: no such files, or folders of other names.
    """
    members = {name: place for name, place in list_files(root).items() if name.lower().endswith(suffix)}
    folders = Counter(name.split("/")[-2] if "/" in name else "" for name in members)
    if unknown := sorted(set(folders) - set(classes)):
        raise UserError(
            f"{title}: {root} holds {suffix} files in {listed(unknown)}, no class of it; expected {layout}."
        )
    if not members:
        raise UserError(f"{title}: {root} holds no {suffix} files; expected {layout}.")
    index = {name: number for number, name in enumerate(classes)}
    samples = [Sample(name, place, index[name.split("/")[-2]]) for name, place in members.items()]
    keys = [f"{classes[sample.label]}_{sample.name.rpartition('/')[2]}" for sample in samples]
    samples = in_tfds_order(samples, keys, "train")
    notes = [f"no images of the classes {listed(absent)}"] if (absent := [c for c in classes if not folders[c]]) else []
    return Source(title, tuple(classes), {"train": samples}, tuple(notes))
