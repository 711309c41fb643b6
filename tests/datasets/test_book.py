"""Names of published sets: what DATA means, where files are looked for, hints, and the checks of a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from standins import jpeg, unpack
from vitkit.config import UserError
from vitkit.data.samples import Sample, Source
from vitkit.datasets.book import data_name, find_dataset, list_datasets, pinned, read_data
from vitkit.datasets.rows import Published

RECORD = bytes([1]) + bytes(3072)


def cifar(folder: Path) -> Path:
    batches = [(f"data_batch_{i}.bin", RECORD * 2) for i in range(1, 6)]
    names = ("batches.meta.txt", b"\n".join(b"class%d" % i for i in range(10)))
    return unpack(folder, [*batches, ("test_batch.bin", RECORD), names])


def test_every_row_is_whole() -> None:
    rows, of_many_splits = list_datasets(), ("imagenet_c", "vizwiz_classification")
    assert len({row.name for row in rows}) == len({row.title for row in rows}) == len(rows)
    for row in rows:
        assert row.counts, row.name
        assert row.name in of_many_splits or set(row.counts) <= {"train", "val", "test"}, row.name
        assert row.classes > 1, row.name
        assert row.licence, row.name
        assert row.layout, row.name
        assert row.source.startswith("http"), row.name
        assert set(row.apart) <= set(row.counts), row.name
        assert find_dataset(row.name) is row


def test_the_folder_is_named_or_lies_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path / "cifar10" / "cifar-10-batches-bin")
    monkeypatch.delenv("VITKIT_DATA", raising=False)
    for source in (
        read_data(f"cifar10={tmp_path / 'cifar10'}", partial=True),
        read_data("cifar10", root=tmp_path, partial=True),
    ):
        assert source.describe() == "11 images of 10 classes (train 10, test 1)"
    with pytest.raises(
        UserError, match=r"where is cifar10\? Write cifar10=FOLDER with .*VITKIT_DATA=DIR with every command"
    ):
        read_data("cifar10")
    monkeypatch.setenv("VITKIT_DATA", str(tmp_path))
    assert read_data("cifar10", partial=True).splits.keys() == {"train", "test"}


def test_an_existing_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack(tmp_path, [("cifar10/cats/1.jpg", jpeg(1)), ("cifar10/dogs/1.jpg", jpeg(2)), ("a=b/cats/1.jpg", jpeg(1))])
    monkeypatch.chdir(tmp_path)
    assert read_data("cifar10").classes == ("cats", "dogs")
    assert data_name("cifar10") == "cifar10"
    assert read_data("a=b").classes == ("cats",)
    assert pinned("a=b") == str(tmp_path / "a=b")


def test_mistyped_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no published data set 'cifar-10'\. Did you mean 'cifar10'\? Known: imagenet, "
    ):
        read_data(f"cifar-10={tmp_path}")
    with pytest.raises(UserError, match="no such data: cifar11"):
        read_data("cifar11")
    with pytest.raises(UserError, match=r"no such data: .*/x=y/z"):
        read_data(str(tmp_path / "x=y" / "z"))


def test_a_folder_of_a_publishers_files_without_the_name_is_told_the_name(tmp_path: Path) -> None:
    folder = cifar(tmp_path / "cifar-10-batches-bin")
    for place in (folder, tmp_path):
        with pytest.raises(UserError, match="It holds files of a published data set; write") as caught:
            read_data(place)
        assert str(caught.value).endswith(f"write cifar10={place} (CIFAR-10).")
    unpack(tmp_path / "flowers", [("jpg/image_00001.jpg", b""), ("setid.mat", b"")])
    (tmp_path / "flowers" / "jpg" / "image_00001.jpg").unlink()
    with pytest.raises(UserError, match=r"write flowers102=.*flowers \(Oxford Flowers-102\)\."):
        read_data(tmp_path / "flowers")


def test_a_run_stores_the_folder_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path / "data" / "cifar10")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITKIT_DATA", "data")
    stored = f"cifar10={tmp_path / 'data' / 'cifar10'}"
    assert pinned("cifar10=data/cifar10") == pinned("cifar10") == pinned("cifar10", "data") == stored
    monkeypatch.chdir("/")
    assert pinned(stored) == stored
    assert data_name(stored) == "cifar10"
    assert read_data(stored, partial=True).splits["test"][0].name == "test/00000"
    assert pinned("digits") == "digits"


def row(*, apart: tuple[str, ...] = (), **splits: int) -> Published:
    samples = {split: [Sample(f"{split}/{i}", b"", 0) for i in range(count)] for split, count in splits.items()}
    return Published(
        "tiny", "Tiny", 2, {"train": 3, "val": 2}, "none", "http://tiny", "tiny.bin",
        lambda _: Source("tiny", ("a", "b"), samples), apart,
    )  # fmt: skip


def test_counts_are_checked_before_anything_is_scored(tmp_path: Path) -> None:
    assert row(train=3, val=2).open(tmp_path).notes == ()
    for splits, said in (({"train": 2, "val": 2}, "train 2 of 3"), ({"train": 4, "val": 1}, "train 4 of 3, val 1 of 2"),
                         ({"train": 3}, "val 0 of 2"), ({"val": 2, "train": 0}, "train 0 of 3")):  # fmt: skip
        with pytest.raises(
            UserError, match=rf"is not the published one: images found of images published: {said}\. Its"
        ):
            row(**splits).open(tmp_path)
        source = row(**splits).open(tmp_path, partial=True)
        assert source.notes == (f"a part of Tiny only, not comparable with published figures: {said}",)
        assert all(source.splits.values())


def test_splits_that_are_files_of_their_own_may_be_absent_but_not_cut(tmp_path: Path) -> None:
    apart = ("train", "val")
    assert row(val=2, apart=apart).open(tmp_path).notes == ()
    assert row(train=3, apart=apart).open(tmp_path).notes == ()
    with pytest.raises(UserError, match=r"published: val 1 of 2\."):
        row(val=1, apart=apart).open(tmp_path)
    with pytest.raises(UserError, match=r"none of its images are there; expected tiny\.bin"):
        row(val=0, train=0, apart=apart).open(tmp_path)
