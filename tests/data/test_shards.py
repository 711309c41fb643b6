"""Many numbered files: braces, gzip, the WebDataset convention, what is missing in the numbering, and files that are cut off."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_tables import png, write_parquet, write_tar
from vitkit.config import UserError
from vitkit.data.archives import read_tar_images
from vitkit.data.containers import read_bytes
from vitkit.data.shards import expand_braces
from vitkit.data.sources import Source, read_source


def keyed(*numbers: int, suffix: str = "cls", start: int = 0) -> dict[str, bytes]:
    """WebDataset members: image and label of each number, the label its parity."""
    return {
        f"{start + n:06d}.{kind}": png(n) if kind == "png" else str(n % 2).encode()
        for n in numbers
        for kind in ("png", suffix)
    }


def contents(source: Source, split: str) -> list[tuple[str, str, bytes]]:
    return [(s.name, source.classes[s.label], read_bytes(s.source)) for s in source.splits[split]]


def shards(folder: Path, count: int, name: Callable[[int], str], each: int = 2) -> None:
    for n in range(count):
        write_tar(folder / name(n), keyed(*range(each * n, each * n + each)))


def zipped(path: Path) -> Path:
    """A gzip file in place of a tar file."""
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.tar", ["a.tar"]),
        ("t-{000..002}.tar", ["t-000.tar", "t-001.tar", "t-002.tar"]),
        ("t-{9..11}", ["t-9", "t-10", "t-11"]),
        ("t-{08..10}", ["t-08", "t-09", "t-10"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
    ],
)
def test_braces_are_expanded_as_by_a_shell(name: str, found: list[str]) -> None:
    assert expand_braces(name) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t-{3..1}.tar", "must rise"),
        ("t-{0..999999999}.tar", "at most 100,000 files"),
        ("{0..9999}{0..9999}", "more than 100,000 files"),
        ("t-{x}.tar", "is not understood"),
        ("t-{}.tar", "is not understood"),
    ],
)
def test_braces_that_say_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand_braces(name)


def test_braces_and_the_folder_give_the_same_data(tmp_path: Path) -> None:
    shards(tmp_path / "s", 4, "train-{:06d}.tar".format)
    write_tar(tmp_path / "s" / "val-000000.tar", keyed(0, 1))
    folder = read_source(tmp_path / "s")
    braces = read_source(tmp_path / "s" / "train-{000000..000003}.tar")
    assert (braces.name, braces.classes) == ("s", ("0", "1"))
    assert contents(braces, "train") == contents(folder, "train")
    assert [name for name, _, _ in contents(braces, "train")][:3] == [
        "train-000000.tar/000000.png", "train-000000.tar/000001.png", "train-000001.tar/000002.png",
    ]  # fmt: skip
    part = read_source(tmp_path / "s" / "train-{000001..000002}.tar")
    assert contents(part, "train") == contents(folder, "train")[2:6]


def test_shards_without_a_split_are_one_part_and_a_split_may_stand_later(tmp_path: Path) -> None:
    shards(tmp_path / "a", 3, "{:05d}.tar".format)
    assert len(read_source(tmp_path / "a").splits["all"]) == 6
    assert len(read_source(tmp_path / "a" / "{00000..00001}.tar").splits["all"]) == 4
    shards(tmp_path / "b", 2, "tiny1k-train-{:04d}.tar".format)
    write_tar(tmp_path / "b" / "tiny1k-validation-00.tar", keyed(0, 1))
    assert {split: len(found) for split, found in read_source(tmp_path / "b").splits.items()} == {"train": 4, "val": 2}
    shards(tmp_path / "c" / "train", 2, "{}.tar".format)
    write_tar(tmp_path / "c" / "test" / "0.tar", keyed(0, 1))
    assert {split: len(found) for split, found in read_source(tmp_path / "c").splits.items()} == {"train": 4, "test": 2}


def test_splits_named_alike_or_not(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", keyed(0, 1))
    write_tar(tmp_path / "other-0.tar", keyed(0, 1))
    with pytest.raises(UserError, match=r"train-0\.tar name a split and other-0\.tar none"):
        read_source(tmp_path / "{train,other}-0.tar")
    (tmp_path / "train-0.csv").write_text("path,label\n")
    with pytest.raises(UserError, match=r"expected files that all end in \.parquet, or all in \.tar"):
        read_source(tmp_path / "train-0.{tar,csv}")
    with pytest.raises(UserError, match=r"names a file twice: .*train-0\.tar"):
        read_source(tmp_path / "train-{0,0}.tar")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train-000000.tar", "train-000003.tar"],
            r"train-000001\.tar and 1 more are missing: the others are numbered",
        ),
        (["train-000000.tar", "train-000002.tar", "val-0.tar"], r"train-000001\.tar is missing"),
        (["train-1.tar", "train-10.tar"], r"train-2\.tar and 7 more are missing"),
        (
            ["train-00000-of-00003.tar", "train-00002-of-00003.tar"],
            r"train-00001-of-00003\.tar is missing: 2 of 3 files",
        ),
        (["train-00000-of-00002.tar"], r"train-00001-of-00002\.tar is missing: 1 of 2 files are there"),
        (["train/0.tar", "train/2.tar", "test/0.tar"], r"1\.tar is missing"),
        (["00000.tar", "00002.tar"], r"00001\.tar is missing"),
    ],
)
def test_a_missing_shard_is_named(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write_tar(tmp_path / name, keyed(0, 1))
    with pytest.raises(UserError, match=message):
        read_source(tmp_path)


def test_numberings_that_are_whole_pass(tmp_path: Path) -> None:
    for number, names in enumerate(
        [
            ("train-1.tar", "train-2.tar"),
            ("train-00001-of-00002.tar", "train-00002-of-00002.tar"),
            ("train-2019.tar", "train-2022.tar"),
            ("train-0.tar", "train-1.tar", "val-7.tar"),
        ]
    ):
        for name in names:
            write_tar(tmp_path / str(number) / name, keyed(0, 1))
        assert len(read_source(tmp_path / str(number)).splits["train"]) == 4


def test_a_shard_that_braces_name_and_is_missing_is_named(tmp_path: Path) -> None:
    shards(tmp_path, 2, "train-{:03d}.tar".format)
    with pytest.raises(
        UserError, match=r"names 4 files, and 2 of them are missing, the first: .*train-002\.tar\. Copy"
    ):
        read_source(tmp_path / "train-{000..003}.tar")
    with pytest.raises(UserError, match=r"1 of them is missing.*train-002\.tar"):
        read_source(tmp_path / "train-{000..002}.tar")


def test_a_parquet_shard_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = {"image": [png(1), png(2)], "label": ["x", "y"]}
    for n in (0, 1, 2):
        path = write_parquet(tmp_path / f"train-{n:05d}-of-00003.parquet", rows)
    assert len(read_source(tmp_path / "train-0000{0..2}-of-00003.parquet").splits["train"]) == 6
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"train-00002-of-00003\.parquet is not a whole .* cut off: .*none of its samples can"
    ):
        read_source(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00002-of-00003\.parquet is missing: 2 of 3 files are there"):
        read_source(tmp_path)


def test_gzip_shards_are_read_as_plain_ones_and_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path / "s", 2, "train-{:03d}.tar".format)
    plain = contents(read_source(tmp_path / "s"), "train")
    for path in list((tmp_path / "s").iterdir()):
        zipped(path)
    packed = read_source(tmp_path / "s")
    assert [(name.replace(".tar.gz/", ".tar/"), *rest) for name, *rest in contents(packed, "train")] == plain
    assert contents(read_source(tmp_path / "s" / "train-{000..001}.tar.gz"), "train") == contents(packed, "train")
    monkeypatch.setattr(gzip, "GzipFile", None)  # not opened again
    assert contents(read_source(tmp_path / "s"), "train") == contents(packed, "train")
    alone = read_source(tmp_path / "s" / "train-000.tar.gz")
    assert alone.name == "train-000"
    assert read_tar_images(tmp_path / "s" / "train-000.tar.gz")[0][0] == f"{tmp_path}/s/train-000.tar.gz/000000.png"


def test_a_gzip_shard_that_changed_is_unpacked_again(tmp_path: Path) -> None:
    path = zipped(write_tar(tmp_path / "t.tar", keyed(0, 1)))
    assert len(read_source(path).splits["all"]) == 2
    path = zipped(write_tar(tmp_path / "t.tar", keyed(0, 1, 2)))
    assert len(read_source(path).splits["all"]) == 3


def test_a_shard_that_is_cut_off_says_how_many_samples_it_holds(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", keyed(*range(5)))
    whole = path.read_bytes()
    pair = 4 * 512  # a header and a block for each of two files
    for length, message in [
        (2 * pair + 540, r"is cut off inside its member '000002\.png': it ends at .* holds 2 whole samples\."),
        (pair + 600, r"unexpected end of data. Before that it holds 1 whole sample\."),
        (
            2 * pair + 1024,
            r"no label for 000002\.png.*no end mark: it was cut off\. Before that it holds 2 whole samples",
        ),
    ]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=message):
            read_source(path)
    packed = tmp_path / "u.tar.gz"
    content = gzip.compress(whole, compresslevel=0)  # so that a cut has a known place
    packed.write_bytes(content[: 3 * pair + 300])
    with pytest.raises(
        UserError, match=r"u\.tar\.gz is cut off: its gzip stream has no end .* holds [23] whole samples"
    ):
        read_source(packed)
    packed.write_bytes(content[:1000] + b"\xff" * 20 + content[1020:])
    with pytest.raises(UserError, match=r"u\.tar\.gz is damaged: CRC"):
        read_source(packed)
    packed.write_bytes(content)
    assert len(read_source(packed).splits["all"]) == 5


def test_two_label_files_that_disagree_are_refused(tmp_path: Path) -> None:
    members = {
        "a.png": png(1),
        "a.cls": b"1",
        "a.json": b'{"label": 1}',
        "b.png": png(2),
        "b.cls": b"0",
        "b.json": b"{}",
    }
    path = write_tar(tmp_path / "t.tar", members)
    assert [s.label for s in read_source(path).splits["all"]] == [1, 0]
    write_tar(path, {**members, "a.json": b'{"label": 2}'})
    with pytest.raises(UserError, match=r"t\.tar, a\.cls says 1 and a\.json 2: which is the label\?"):
        read_source(path)
    write_tar(path, {**members, "a.json": b'{"label": "n01440764"}'})  # its name in other words
    assert [s.label for s in read_source(path).splits["all"]] == [1, 0]
