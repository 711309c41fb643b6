"""Parquet tables: labels at once, images when asked for, through a cache that holds its budget."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared import shared_data
from tiny_tables import png, touch_images, write_csv, write_parquet
from vitkit.config import UserError
from vitkit.data import rowgroups
from vitkit.data.audit import scan
from vitkit.data.cache import cache_folder
from vitkit.data.containers import read_bytes
from vitkit.data.pixels import open_image
from vitkit.data.rowgroups import ParquetCell
from vitkit.data.sources import Sample, read_source
from vitkit.data.spill import Spilled

pa = pytest.importorskip("pyarrow")


def cells(count: int, **change: Any) -> list[dict[str, Any]]:
    return [{"bytes": png(number), "path": f"{number}.png", **change} for number in range(count)]


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    yield
    rowgroups._CACHE.reset()


def test_a_hugging_face_folder_is_read_by_its_metadata(tmp_path: Path) -> None:
    names = {"label": ["dog", "cat", "eel"]}
    write_parquet(tmp_path / "train-00000-of-00002.parquet", {"image": cells(3), "label": [0, 1, 2]}, names=names)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", {"image": cells(2), "label": [2, 2]}, names=names)
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", {"image": cells(1), "label": [1]}, names=names)
    source = read_source(tmp_path)
    assert source.name == tmp_path.name
    assert source.classes == ("dog", "cat", "eel")
    assert [sample.label for sample in source.splits["train"]] == [0, 1, 2, 2, 2]
    assert [sample.label for sample in source.splits["val"]] == [1]
    # 0.png is in every file: the path names no image
    assert [sample.name for sample in source.splits["train"]][2:4] == [
        "train-00000-of-00002.parquet:2",
        "train-00001-of-00002.parquet:0",
    ]
    assert read_bytes(source.splits["train"][2].source) == png(2)
    assert source.notes == ("2 of 3 classes have no image in the val split: 'dog', 'eel'",)


def test_the_data_folder_of_a_repository_and_split_folders_are_looked_into(tmp_path: Path) -> None:
    for path in ("a/data/train-0.parquet", "b/train/0000.parquet"):
        write_parquet(tmp_path / path, {"image": cells(2), "label": [0, 1]})
        (tmp_path / path).parent.parent.joinpath("classes.txt").write_text("x\ny\n")
        source = read_source(tmp_path / path[0])
        assert list(source.splits) == ["train"]
        assert source.classes == ("x", "y")


def test_class_lists_of_another_order_are_matched_by_name(tmp_path: Path) -> None:
    columns = {"image": cells(2), "label": [0, 1]}
    write_parquet(tmp_path / "train-0.parquet", columns, names={"label": ["cat", "dog"]})
    write_parquet(tmp_path / "test-0.parquet", columns, names={"label": ["dog", "cat"]})
    source = read_source(tmp_path)
    assert [sample.label for sample in source.splits["test"]] == [1, 0]
    write_parquet(tmp_path / "test-0.parquet", columns, names={"label": ["dog", "cats"]})
    with pytest.raises(
        UserError, match=r"test split has a class 'cats' that train does not have.*row 1\. Did you mean"
    ):
        read_source(tmp_path)


def test_classes_come_from_the_metadata_else_classes_txt_else_the_values(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"img": cells(3), "label": [10, 2, 2]})
    assert read_source(path).classes == ("2", "10")
    path = write_parquet(tmp_path / "t.parquet", {"image": [png(i) for i in range(3)], "category": ["b", "a", "b"]})
    assert read_source(path).classes == ("a", "b")
    assert [sample.name for sample in read_source(path).splits["all"]] == ["t.parquet:0", "t.parquet:1", "t.parquet:2"]
    (tmp_path / "classes.txt").write_text("b\na\n")
    assert read_source(path).classes == ("b", "a")
    columns = {"image": cells(2), "label": [0, 1]}
    path = write_parquet(tmp_path / "t.parquet", columns, names={"label": ["crane", "crane"]})
    assert read_source(path).classes == ("b", "a")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match="class name 'crane' twice, for classes 0 and 1"):
        read_source(path)


def test_labels_may_be_integers_words_or_dictionaries_in_a_column_called_labels(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"image": cells(2), "labels": [1, 0]}, names={"labels": ["x", "y"]})
    source = read_source(path)
    assert not source.multilabel
    assert [sample.label for sample in source.splits["all"]] == [1, 0]
    words = pa.array(["b", "a"]).dictionary_encode()
    assert read_source(write_parquet(tmp_path / "t.parquet", {"image": cells(2), "label": words})).classes == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "names", "classes"),
    [
        ([[1, 0], [], [2]], {"labels": ["x", "y", "z"]}, ("x", "y", "z")),
        ([[1, 0], [], [2]], None, ("0", "1", "2")),
        ([["y", "x"], [], ["z"]], None, ("x", "y", "z")),
        (["y|x", "", "z"], None, ("x", "y", "z")),
    ],
)
def test_lists_of_labels_are_several(tmp_path: Path, labels: Any, names: Any, classes: tuple[str, ...]) -> None:
    source = read_source(write_parquet(tmp_path / "t.parquet", {"image": cells(3), "labels": labels}, names=names))
    assert source.multilabel
    assert source.classes == classes
    assert [(s.label, s.labels) for s in source.splits["all"]] == [(-1, (0, 1)), (-1, ()), (-1, (2,))]


def test_a_column_of_paths_is_read_as_in_csv(tmp_path: Path) -> None:
    touch_images(tmp_path, "in/a.png", "in/b.png")
    columns = {"file_name": ["in/b.png", "in/a.png"], "label": ["x", "x"], "split": ["train", "valid"]}
    source = read_source(write_parquet(tmp_path / "t.parquet", columns))
    assert source.splits == {
        "train": [Sample("in/b.png", tmp_path / "in/b.png", 0)],
        "val": [Sample("in/a.png", tmp_path / "in/a.png", 0)],
    }


def test_a_row_without_bytes_is_its_path_or_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    touch_images(tmp_path, "beside.png")
    rows = [
        {"bytes": None, "path": "beside.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": "empty.png"},
        {"bytes": None, "path": "a\0b"},
    ]
    source = read_source(write_parquet(tmp_path / "t.parquet", {"image": rows, "label": list("abcdef")}))
    samples = source.splits["all"]
    assert open_image(samples[0].source).size == (4, 4)
    found = scan(samples, console=Quiet())
    assert [sample.name for sample in found.usable] == ["t.parquet:0"]
    reasons = dict(found.skipped)
    assert list(reasons) == ["t.parquet:1", "t.parquet:2", "t.parquet:3", "t.parquet:4", "t.parquet:5"]
    assert "No such file" in reasons["t.parquet:1"]
    assert "holds no image (null)" in reasons["t.parquet:2"]
    assert "holds no image (null)" in reasons["t.parquet:3"]
    assert "empty" in reasons["t.parquet:4"]
    assert "is no path" in reasons["t.parquet:5"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"], "label": [1]}, r"no column of images: found 'picture', 'label', expected `image` or `img`"),
        ({"image": [1], "label": [1]}, r"the column 'image' is of type int64, expected"),
        ({"image": [b"x"], "fine": [1]}, r"no column of labels: found 'image', 'fine', expected one of label, class"),
        ({"image": [b"x"], "label": [0.5]}, r"the column 'label' is of type double, expected integers or strings"),
        ({"image": [b"x"] * 2, "label": [1, None]}, r"row 1 has no label \(null\)"),
        ({"image": [b"x"] * 2, "labels": [[1], [1, None]]}, r"row 1 has no label \(null\)"),
        ({"image": [b"x"] * 2, "label": [1, -1]}, r"row 1 has the label -1, which often stands for a hidden label"),
        ({"image": [b"x"] * 2, "label": ["a", ""]}, r"row 1 has an empty label"),
        ({"image": [b"x"] * 2, "label": ["a", "7"]}, r"row 0 has the word 'a' for a label, and .*row 1 the number 7"),
        ({"image": [b"x"] * 2, "label": [0, 1], "split": ["train", "dev"]}, r"row 1 has the split 'dev'; expected one"),
        ({"path": ["a.png", "./a.png"], "label": [0, 1]}, r"names \./a\.png twice: rows 0 and 1"),
        ({"path": ["a.png", "b.png"], "label": [0, 1]}, r"1 of the 2 images .* the first in row 1: b\.png"),
        ({"path": ["a.png", None], "label": [0, 1]}, r"row 1 has no image path"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, r"has no rows"),
    ],
)  # fmt: skip
def test_mistakes_have_one_message_with_the_row(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    touch_images(tmp_path, "a.png")
    path = write_parquet(tmp_path / "t.parquet", columns)
    with pytest.raises(UserError, match=message) as raised:
        read_source(path)
    assert str(path) in str(raised.value)


def test_labels_outside_the_class_list_are_refused(tmp_path: Path) -> None:
    columns = {"image": cells(2), "label": [0, 2]}
    path = write_parquet(tmp_path / "t.parquet", columns, names={"label": ["x", "y"]})
    with pytest.raises(UserError, match=r"row 1 has the label 2; the metadata .* holds 2 classes, 0 to 1"):
        read_source(path)


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"image": cells(20), "label": [0, 1] * 10})
    whole = path.read_bytes()
    for content in (b"", b"no parquet at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t\.parquet is not a whole Parquet file: .*download it again"):
            read_source(path)


def test_a_file_that_is_damaged_later_makes_images_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"image": cells(4), "label": [0, 1] * 2})
    samples = read_source(path).splits["all"]
    assert read_bytes(samples[0].source) == png(0)
    rowgroups._CACHE.reset()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(OSError, match="damaged or changed"):
        read_bytes(samples[0].source)
    write_parquet(path, {"image": cells(2), "label": [0, 1]})
    with pytest.raises(OSError, match="fewer rows"):
        read_bytes(samples[3].source)


def test_damaged_pages_are_told_by_column_or_by_image(tmp_path: Path) -> None:
    columns = {"image": cells(4), "label": ["a long label " * 9, "another long label " * 9] * 2}
    path = write_parquet(tmp_path / "t.parquet", columns)
    samples = read_source(path).splits["all"]
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"a long label", b"\xff" * 12))
    with pytest.raises(UserError, match="damaged in the column 'label'"):
        read_source(path)
    path.write_bytes(b"PAR1" + b"\xff" * 100 + whole[104:])
    found = scan(samples, console=Quiet())
    assert found.skipped
    assert all("None" not in reason for _, reason in found.skipped)


def test_a_missing_pyarrow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"image": cells(2), "label": [0, 1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'vitkit\[parquet\]'"):
        read_source(path)


def test_the_cache_holds_its_budget_and_one_larger_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(0)
    images = [noise.randbytes(1000) for _ in range(40)]
    path = write_parquet(tmp_path / "t.parquet", {"image": images, "label": [0, 1] * 20}, row_group_size=4)
    samples = list(read_source(path).splits["all"])
    monkeypatch.setattr(rowgroups, "CACHE_BYTES", 9000)  # two row groups of about 4,000 bytes
    for order in (range(40), noise.sample(range(40), 40)):
        for number in order:
            assert read_bytes(samples[number].source) == images[number]
            assert rowgroups._CACHE.held <= 9000
            assert rowgroups._CACHE.held == sum(size for _, size in rowgroups._CACHE.groups.values())
            assert len(rowgroups._CACHE.groups) <= 2
    monkeypatch.setattr(rowgroups, "CACHE_BYTES", 100)
    for number in (0, 39, 1):
        assert read_bytes(samples[number].source) == images[number]
        assert len(rowgroups._CACHE.groups) == 1


def test_reading_the_labels_reads_no_image(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"image": cells(4), "label": [0, 1] * 2})
    read_source(path)
    assert not rowgroups._CACHE.groups


def test_a_row_group_is_decoded_once_for_all_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"image": cells(8), "label": [0, 1] * 4}, row_group_size=4)
    samples = read_source(path).splits["all"]
    loads: Counter[Any] = Counter()
    load = rowgroups._CACHE._load
    monkeypatch.setattr(rowgroups._CACHE, "_load", lambda key: (loads.update([key]), load(key))[1])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda sample: read_bytes(sample.source), [*samples, *samples]))
    assert found == [png(number) for number in range(8)] * 2
    assert list(loads.values()) == [1, 1]


def test_large_row_groups_that_do_not_all_fit_are_copied_to_the_cache_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = random.Random(0)
    images = [None if n == 7 else noise.randbytes(noise.randrange(500, 1500)) for n in range(40)]
    path = write_parquet(
        tmp_path / "t.parquet",
        {"image": [{"bytes": image, "path": None} for image in images], "label": [0, 1] * 20},
        row_group_size=8,
        types={"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])},
    )
    monkeypatch.setattr(rowgroups, "CACHE_BYTES", 12_000)  # one row group of about 8,000 bytes
    monkeypatch.setattr(rowgroups, "LARGE", 2_000)
    rowgroups._CACHE.reset()
    samples = read_source(path).splits["all"]
    loads: Counter[Any] = Counter()
    batches = rowgroups._CACHE._batches
    monkeypatch.setattr(rowgroups._CACHE, "_batches", lambda key: (loads.update([key]), batches(key))[1])

    def check(order: Any) -> None:
        for number in order:
            if images[number] is None:
                with pytest.raises(OSError, match="holds no image"):
                    read_bytes(samples[number].source)
            else:
                assert read_bytes(samples[number].source) == images[number]
            assert rowgroups._CACHE.held <= 12_000

    check(noise.sample(range(40), 40))
    check(noise.sample(range(40), 40))
    assert sum(count for key, count in loads.items() if key[2] == "image.bytes") == 5  # each row group once
    copies = sorted((cache_folder() / "rowgroups").rglob("*"))
    assert [copy.suffix for copy in copies if copy.is_file()] == [".bin"] * 4
    rowgroups._CACHE.spilled = Spilled()  # as another process
    loads.clear()
    check(range(40))
    assert not loads
    copy = next(copy for copy in copies if copy.is_file())
    copy.write_bytes(copy.read_bytes()[:-9])  # cut: made anew
    rowgroups._CACHE.spilled = Spilled()
    check(range(40))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "elsewhere"))
    rowgroups._CACHE.spilled = Spilled()
    check(range(40))  # without room for copies it takes longer
    rowgroups._CACHE.reset()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_places_travel_to_worker_processes(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    path = write_parquet(tmp_path / "t.parquet", {"image": cells(4), "label": [0, 1] * 2})
    sources = [sample.source for sample in read_source(path).splits["all"]]
    assert pickle.loads(pickle.dumps(sources)) == sources
    assert isinstance(sources[0], ParquetCell)
    assert read_bytes(sources[1]) == png(1)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(read_bytes, sources) == [png(number) for number in range(4)]


def test_csv_and_parquet_say_the_same(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", "path,label", "b.png,x", "a.png,y", "c.png,x")
    columns = {"path": ["b.png", "a.png", "c.png"], "label": ["x", "y", "x"]}
    assert read_source(write_parquet(tmp_path / "t.parquet", columns)) == read_source(table)


@pytest.mark.parametrize(
    ("pack", "counts", "classes"),
    [
        ("cifar10_jpeg", {"train": 50_000, "test": 10_000}, 10),
        ("tiny_imagenet_32", {"train": 100_000, "val": 10_000}, 200),
        ("pneumoniamnist", {"train": 4_708, "val": 524, "test": 624}, 2),
        ("imagenet_sample", {"test": 167}, 1000),
    ],
)
def test_real_sets_are_read_with_the_order_of_their_class_lists(
    pack: str, counts: dict[str, int], classes: int
) -> None:
    root = shared_data(pack)
    source = read_source(root)
    assert {split: len(samples) for split, samples in source.splits.items()} == counts
    assert list(source.classes) == (root / "classes.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert len(source.classes) == classes
    samples = next(iter(source.splits.values()))
    chosen = random.Random(0).sample(range(len(samples)), 50)
    for number in chosen:
        assert open_image(samples[number].source).size >= (28, 28)
    if pack == "cifar10_jpeg":  # the path inside the file holds the class: test/truck/0770.jpg
        for sample in [*source.splits["train"], *source.splits["test"]]:
            assert sample.name.split("/")[1] == source.classes[sample.label]


class Quiet:
    """A console that says nothing."""

    def track(self, items: Any, total: int, label: str) -> Any:
        return items


def test_a_column_that_is_there_twice_is_one_clear_message(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays(
        [pa.array([png(1)]), pa.array(["x"]), pa.array(["y"])], names=["image", "label", "label"]
    )
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet has the column 'label' twice"):
        read_source(tmp_path / "t.parquet")
