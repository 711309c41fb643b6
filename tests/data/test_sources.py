"""What is understood from a folder's names: classes, splits, and what was left out."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from pathlib import Path

import pytest

from conftest import COLOURS, write_images
from tiny_tables import png, touch_images, write_csv, write_parquet, write_tar
from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.data.sources import Sample, Source, find_images, match_classes, read_source


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_flat_tree_is_one_part_with_the_classes_in_order(flat: Path) -> None:
    source = read_source(flat)
    assert source.classes == ("blue", "green", "red")
    assert list(source.splits) == ["all"]
    assert source.splits["all"][8] == Sample("green/000.png", flat / "green" / "000.png", 1)
    assert Counter(sample.label for sample in source.splits["all"]) == {0: 8, 1: 8, 2: 8}
    assert source.notes == ()
    assert source.name == "flat"
    assert source.describe() == "24 images of 3 classes (all 24)"


def test_images_in_folders_below_a_class_belong_to_it_and_suffixes_have_any_case(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "2020" / "summer" / "X.JPEG", tmp_path / "b" / "y.TIF")
    assert [s.name for s in read_source(tmp_path).splits["all"]] == ["a/2020/summer/X.JPEG", "b/y.TIF"]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_the_validation_folder_goes_by_several_names(photos: Path, name: str) -> None:
    (photos / "test").rename(photos / name)
    source = read_source(photos)
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 24, "val": 12}


def test_train_val_and_test_are_read_with_labels_by_name(photos: Path) -> None:
    shutil.copytree(photos / "test", photos / "val")
    shutil.rmtree(photos / "val" / "blue")
    source = read_source(photos)
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 24, "val": 8, "test": 12}
    assert {(s.name.split("/")[1], s.label) for s in source.splits["val"]} == {("green", 1), ("red", 2)}
    assert source.notes == ("class 'blue' has no image in the val split",)


def test_a_class_that_training_does_not_have_is_named(photos: Path) -> None:
    (photos / "test").rename(photos / "val")
    (photos / "val" / "green").rename(photos / "val" / "greeen")
    with pytest.raises(
        UserError, match=r"val split has a class 'greeen' that train does not have.*Did you mean 'green'"
    ):
        read_source(photos)


def test_a_split_without_images_and_a_second_split_of_one_kind_are_refused(photos: Path) -> None:
    (photos / "val").mkdir()
    with pytest.raises(UserError, match=r"val split .* holds no class folders"):
        read_source(photos)
    write_images(photos / "valid" / "red", COLOURS["red"], 1, 0)
    with pytest.raises(UserError, match=r"several folders for the val split: val, valid. Keep one"):
        read_source(photos)


def test_hidden_and_other_files_are_neither_class_nor_image_and_are_counted_once(flat: Path) -> None:
    touch(
        flat / ".DS_Store",
        flat / ".ipynb_checkpoints" / "000.png",
        flat / "notes.txt",
        flat / "red" / ".ipynb_checkpoints" / "000-checkpoint.png",
        flat / "red" / "._000.png",
        flat / "red" / "Thumbs.db",
        flat / "red" / "label.txt",
    )
    source = read_source(flat)
    assert source.classes == ("blue", "green", "red")
    assert len(source.splits["all"]) == 24
    assert len(source.notes) == 1
    counted = set(source.notes[0].removeprefix("left out: ").split(", "))
    assert counted == {"2 hidden files", "2 hidden folders", "3 files that are not images"}


def test_what_is_left_out_of_splits_is_counted_once_too(photos: Path) -> None:
    touch(
        photos / ".DS_Store",
        photos / "loose.jpg",
        photos / "train" / ".DS_Store",
        photos / "train" / "loose.jpg",
        photos / "train" / ".ipynb_checkpoints" / "a.png",
        photos / "test" / "red" / "notes.txt",
        photos / "extra" / "red" / "a.png",
    )
    source = read_source(photos)
    counted = set(source.notes[0].removeprefix("left out: ").split(", "))
    assert counted == {
        "2 hidden files",
        "1 hidden folders",
        "1 files that are not images",
        "2 images in no class folder",
    }
    assert source.notes[1:] == ("folder 'extra' beside train/ is not a split and was not read",)


def test_loose_images_and_folders_without_images_are_told(flat: Path) -> None:
    touch(flat / "loose.png", flat / "documents" / "a.pdf")
    source = read_source(flat)
    assert source.classes == ("blue", "green", "red")
    assert source.notes == (
        "left out: 1 files that are not images, 1 images in no class folder",
        "folder 'documents' holds no images and is not a class",
    )


def test_a_missing_path_names_the_nearest(flat: Path) -> None:
    with pytest.raises(UserError, match=r"no such data: .*flatt\. Did you mean 'flat'"):
        read_source(flat.with_name("flatt"))
    with pytest.raises(UserError, match="no such data"):
        read_source(flat / "nowhere" / "deeper")


def test_folders_without_class_folders_are_refused_with_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no class folders with images. Expected one folder per class"):
        read_source(tmp_path)
    touch(tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(UserError, match="It has 2 images that are in no class folder"):
        read_source(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    touch(tmp_path / "photos.zip")
    with pytest.raises(UserError, match=r"photos.zip is a file; expected a folder of class folders"):
        read_source(tmp_path / "photos.zip")


def test_images_are_found_in_sorted_order(tmp_path: Path) -> None:
    names = ["b/2.png", "b/10.png", "a/z/1.jpg", "c.gif"]
    touch(*(tmp_path / name for name in names), tmp_path / "readme.md")
    left_out: Counter[str] = Counter()
    assert [p.relative_to(tmp_path).as_posix() for p in find_images(tmp_path, left_out)] == sorted(names)
    assert +left_out == {"files that are not images": 1}


def test_labels_are_renumbered_by_name() -> None:
    splits = {"all": [Sample("a", b"", 0), Sample("b", b"", 1)]}
    matched = match_classes(Source("x", ("cat", "dog"), splits, ("a note",)), ["dog", "eel", "cat"])
    assert matched.classes == ("dog", "eel", "cat")
    assert [sample.label for sample in matched.splits["all"]] == [2, 0]
    assert matched.notes == ("a note", "no images of 1 of the model's classes: 'eel'")
    with pytest.raises(
        UserError, match=r"model does not know: 'dog'\. The model knows: 'cat', 'dogs'.*Did you mean 'dogs'"
    ):
        match_classes(Source("x", ("cat", "dog"), splits), ["cat", "dogs"])


@pytest.mark.skipif(
    importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn: pip install 'vitkit[digits]'"
)
def test_digits_are_1797_images_with_a_fixed_stratified_fifth_to_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = read_source("digits")
    assert source == read_source("digits")
    assert source.classes == tuple("0123456789")
    train, test = source.splits["train"], source.splits["test"]
    assert len(train) + len(test) == 1797
    of_class, tested = (Counter(s.label for s in part) for part in ([*train, *test], test))
    assert all(tested[label] == of_class[label] // 5 for label in range(10))
    assert not {s.source for s in train} & {s.source for s in test}
    images = [open_image(sample.source) for sample in test[:20]]
    assert {image.size for image in images} == {(8, 8)}
    assert max(image.getextrema()[0][1] for image in images) == 255


def test_a_folder_called_digits_wins_over_the_word(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat.rename(flat.with_name("digits"))
    monkeypatch.chdir(flat.parent)
    assert read_source("digits").classes == ("blue", "green", "red")


def test_splits_without_train_can_be_scored_but_are_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("val", "test"):
        write_images(tmp_path / "data" / split / "red", (200, 0, 0), 2, 0)
        write_images(tmp_path / "data" / split / "blue", (0, 0, 200), 2, 0)
    source = read_source(tmp_path / "data")
    assert source.classes == ("blue", "red")
    assert set(source.splits) == {"val", "test"}


def test_a_link_loop_is_read_once(flat: Path) -> None:
    (flat / "red" / "up").symlink_to(flat)
    source = read_source(flat)
    assert len(source.splits["all"]) == 24
    assert "links to folders that are read already" in " ".join(source.notes)


def test_a_folder_of_training_is_train(tmp_path: Path) -> None:
    for split in ("training", "testing"):
        write_images(tmp_path / "data" / split / "red", (200, 0, 0), 2, 0)
        write_images(tmp_path / "data" / split / "blue", (0, 0, 200), 2, 0)
    assert set(read_source(tmp_path / "data").splits) == {"train", "test"}


def test_a_table_beside_its_folder_of_images_is_read(tmp_path: Path) -> None:
    touch_images(tmp_path, "images/a.png", "images/b.png", "loose.png")
    write_csv(tmp_path / "metadata.csv", "file_name,label", "images/a.png,x", "loose.png,y", images=False)
    source = read_source(tmp_path)
    assert source.name == tmp_path.name
    assert [sample.name for sample in source.splits["all"]] == ["images/a.png", "loose.png"]
    for split in ("train", "test"):  # images of splits, and one table for both
        touch_images(tmp_path, f"{split}/c.png")
    assert [sample.name for sample in read_source(tmp_path).splits["all"]] == ["images/a.png", "loose.png"]


def test_class_folders_win_over_tables_beside_them_and_that_is_told(flat: Path, photos: Path) -> None:
    told = "was not read: class folders were taken; name the file itself to read it"
    write_csv(flat / "labels.csv", "path,label", "red/000.png,x", images=False)
    source = read_source(flat)
    assert source.classes == ("blue", "green", "red")
    assert source.notes[-1] == f"labels.csv {told}"
    assert read_source(flat / "labels.csv").classes == ("x",)
    write_csv(flat / "more.csv", "anything")
    assert read_source(flat).notes[-1] == f"labels.csv, more.csv {told}"
    write_csv(photos / "train.csv", "path,label", "train/red/000.png,x", images=False)
    assert read_source(photos).notes[-1] == f"train.csv {told}"


def test_tables_of_splits_in_a_folder(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", "path,label", "i/a.png,x", "i/b.png,y")
    write_csv(tmp_path / "valid.csv", "path,label", "i/c.png,y")
    write_csv(tmp_path / "test.csv", "path,label", "i/d.png,x", "i/e.png,y")
    write_csv(tmp_path / "train_notes.csv", "anything")
    source = read_source(tmp_path)
    assert {split: [s.label for s in part] for split, part in source.splits.items()} == {
        "train": [0, 1],
        "val": [1],
        "test": [0, 1],
    }
    assert source.notes[-1] == (
        "train_notes.csv was not read: test.csv, train.csv, valid.csv were taken; name the file itself to read it"
    )
    write_csv(tmp_path / "val.csv", "path,label", "i/c.png,y")
    with pytest.raises(UserError, match=r"several tables for the val split: val\.csv, valid\.csv. Keep one"):
        read_source(tmp_path)
    (tmp_path / "val.csv").unlink()
    write_csv(tmp_path / "valid.csv", "path,label", "i/c.png,z")
    with pytest.raises(UserError, match=r"val split has a class 'z' that train does not have \(train: 'x', 'y'\)"):
        read_source(tmp_path)
    write_csv(tmp_path / "valid.csv", "path,label,split", "i/c.png,x,test")
    with pytest.raises(UserError, match=r"line 2 belongs to test by its split column, and to val by the file's name"):
        read_source(tmp_path)
    write_csv(tmp_path / "valid.csv", "path,labels", "i/c.png,x|y")
    with pytest.raises(UserError, match=r"valid\.csv has several classes per image, .*test\.csv one"):
        read_source(tmp_path)


def test_a_table_in_each_split_folder(tmp_path: Path) -> None:
    write_csv(tmp_path / "train" / "metadata.csv", "file_name,label", "a.png,x", "b.png,y")
    write_csv(tmp_path / "test" / "metadata.csv", "file_name,label", "c.png,y")
    source = read_source(tmp_path)
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 2, "test": 1}
    assert source.splits["test"][0].source == tmp_path / "test" / "c.png"


def test_tables_that_could_all_be_meant_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", "path,label", "x.png,x")
    write_csv(tmp_path / "b.csv", "path,label", "x.png,x")
    with pytest.raises(UserError, match=r"holds several tables: a\.csv, b\.csv. Name the one to read"):
        read_source(tmp_path)
    write_csv(tmp_path / "train.csv", "path,label", "x.png,x")
    write_tar(tmp_path / "test_results.tar", {"x/a.png": png()})  # no split
    assert list(read_source(tmp_path).splits) == ["train"]
    write_tar(tmp_path / "train.tar", {"x/a.png": png()})
    with pytest.raises(UserError, match=r"holds splits of several kinds: train\.csv, train\.tar. Keep one kind"):
        read_source(tmp_path)


def test_one_parquet_or_tar_file_in_a_folder_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_parquet(tmp_path / "a" / "0000.parquet", {"image": [png(1), png(2)], "label": ["x", "y"]})
    write_tar(tmp_path / "b" / "shard.tar", {"x/1.png": png(1), "y/2.png": png(2)})
    for folder in ("a", "b"):
        source = read_source(tmp_path / folder)
        assert source.name == folder
        assert source.classes == ("x", "y")
        assert list(source.splits) == ["all"]


def test_multi_label_classes_are_matched_by_name_too() -> None:
    samples = [Sample("a", b"", -1, (0, 1)), Sample("b", b"", -1, ()), Sample("c", b"", -1, (1,))]
    source = Source("tags", ("b", "c"), {"test": samples}, multilabel=True)
    matched = match_classes(source, ["c", "a", "b"])
    assert matched.multilabel
    assert [sample.labels for sample in matched.splits["test"]] == [(0, 2), (), (0,)]
    assert {sample.label for sample in matched.splits["test"]} == {-1}
