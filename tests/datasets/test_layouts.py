"""What every published set says of a folder that holds something else. Stand-ins are written by nothing of the package."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from published import refused
from standins import cifar_members, jpeg, unpack
from vitkit.config import UserError
from vitkit.datasets.book import find_dataset


@pytest.mark.parametrize(
    "name",
    ["imagenet", "cifar10", "cifar100", "pets", "flowers102", "caltech101", "cars196", "dtd", "uc_merced", "mnist"],
)
def test_a_folder_of_something_else_says_what_was_expected(tmp_path: Path, name: str) -> None:
    row = find_dataset(name)
    unpack(tmp_path, [("holiday/beach.jpg", jpeg(1))])
    with pytest.raises(UserError) as caught:
        row.open(tmp_path)
    assert row.title in str(caught.value)
    assert f"expected {row.layout}. The folder holds: holiday." in str(caught.value)
    with pytest.raises(UserError, match=r"no folder .*nothing; expected"):
        row.open(tmp_path / "nothing")


def test_one_class_short_is_refused_even_in_part(tmp_path: Path) -> None:
    members = cifar_members(10)[0]
    members["cifar-10-batches-bin/batches.meta.txt"] += b"submarine\n"
    unpack(tmp_path, members.items())
    assert "has 11 classes, the published one 10" in refused("cifar10", tmp_path)


def test_a_smaller_row_passes_when_its_counts_are_met(tmp_path: Path) -> None:
    unpack(tmp_path, cifar_members(100)[0].items())
    row = dataclasses.replace(find_dataset("cifar100"), counts={"train": 3, "test": 3})
    assert row.open(tmp_path).notes == ()
    (tmp_path / "cifar-100-binary" / "test.bin").unlink()
    with pytest.raises(UserError, match=r"images found of images published: test 0 of 3\."):
        row.open(tmp_path)
