"""Images of whatever is named, labels or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import write_images
from tiny_tables import png, write_csv, write_parquet, write_tar
from vitkit.config import UserError
from vitkit.data.pixels import open_image
from vitkit.datasets.unlabelled import list_images


def names(given: object) -> list[str]:
    return [name for name, _ in list_images(given).images]  # type: ignore[arg-type]


def test_folders_to_the_bottom_without_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "x" / "deep", (1, 2, 3), 2, 0)
    write_images(tmp_path / "x", (1, 2, 3), 1, 0)
    found = list_images(tmp_path / "x")
    assert found.name == "x"
    assert [name for name, _ in found.images] == ["000.png", "deep/000.png", "deep/001.png"]
    assert names(str(tmp_path / "x" / "*.png")) == [str(tmp_path / "x" / "000.png")]
    assert names(tmp_path / "x" / "000.png") == ["000.png"]
    assert len(names([tmp_path / "x", tmp_path / "x" / "000.png"])) == 4


def test_splits_are_one_heap(photos: Path) -> None:
    assert len(names(photos)) == 36


def test_digits_are_their_test_part() -> None:
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    found = list_images("digits")
    assert found.name == "digits"
    assert {name.split("/")[0] for name, _ in found.images} == {"test"}
    assert open_image(found.images[0][1]).size == (8, 8)


def test_tables_and_tar_files(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", "image,label", "a.png,x", "b.png,y")
    assert [Path(name).name for name in names(table)] == ["a.png", "b.png"]
    write_tar(tmp_path / "t.tar", {"a.png": png(0), "a.cls": b"0", "b.png": png(1), "b.cls": b"1"})
    assert len(names(tmp_path / "t.tar")) == 2
    pytest.importorskip("pyarrow", reason="Parquet is read by pyarrow")
    columns = {"image": [{"bytes": png(n), "path": f"{n}.png"} for n in range(3)], "label": [0, 1, 0]}
    write_parquet(tmp_path / "folder" / "test-00000-of-00001.parquet", columns)
    assert len(names(tmp_path / "folder")) == 3  # of a folder of tables the split that is preferred
    assert len(names(tmp_path / "folder" / "test-00000-of-00001.parquet")) == 3


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file matches"):
        list_images(str(tmp_path / "*.png"))
    with pytest.raises(UserError, match="no such data"):
        list_images(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images, and no tables"):
        list_images(tmp_path / "empty")
    with pytest.raises(UserError, match="no images named"):
        list_images([])
