"""What a user names stands for the same images in the same order every time, and nothing is left out in silence."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from served import serving
from tiny_tables import png, touch_images, write_csv, write_parquet, write_tar
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.data.folders import find_images
from vitkit.predicting.finding import Container, Found, expand_paths, find


def names(*given: str | Path, apart: tuple[Path, ...] = ()) -> list[str]:
    return [each.name for each in find(given, Counter(), apart=apart) if isinstance(each, Found)]


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    for name in ("VITKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def test_a_folder_is_walked_in_the_order_of_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch_images(
        tmp_path / "in",
        "b.png",
        "a/b.png",
        "a-b.png",
        "a/.hidden.png",
        ".git/x.png",
        "a/ä.png",
        "Z.JPG",
        "a.b/0.png",
        "0.npy",
    )
    (tmp_path / "in/notes.md").write_text("x")
    (tmp_path / "in/pipe.png").mkdir()
    (tmp_path / "in/broken.png").symlink_to("nowhere")
    (tmp_path / "in/again").symlink_to(".")
    ours, theirs = Counter[str](), Counter[str]()
    found = [name for name, _ in expand_paths([tmp_path / "in"], ours)]
    assert found == [str(path) for path in find_images(tmp_path / "in", theirs)]
    assert ours == theirs
    monkeypatch.chdir(tmp_path / "in")
    assert names(".") == [name.removeprefix(f"{tmp_path}/in/") for name in found]
    assert names("a/") == ["a/b.png", "a/ä.png"]
    assert names("**/*.png") == sorted(names("**/*.png"))
    assert names("b.png", "a", "b.png") == ["b.png", "a/b.png", "a/ä.png", "b.png"]


def test_tables_and_archives_beside_images_are_counted_and_alone_are_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    root = tmp_path / "shards"
    cells = [{"bytes": png(1), "path": "x.png"}, {"bytes": png(2), "path": "y.png"}, {"bytes": png(3), "path": "z.png"}]
    packed = write_parquet(root / "data/train-00000-of-00002.parquet", {"image": cells, "label": [0, 1, 0]})
    twice = write_parquet(
        root / "data/train-00001-of-00002.parquet", {"image": [{**cell, "path": "0.png"} for cell in cells]}
    )
    archive = write_tar(root / "web/a.tar", {"1.png": png(4), "1.cls": b"0"})
    zipped = write_zip(root / "web/b.zip", {"in/2.png": png(5), "readme.txt": b"x", "__MACOSX/._2.png": b"x"})
    (root / "README.md").write_text("x")
    wanted = [
        *(f"{packed}/{name}.png" for name in "xyz"), *(f"{twice}:{row}" for row in range(3)),
        f"{archive}/1.png", f"{zipped}/in/2.png",
    ]  # fmt: skip
    assert names(root) == wanted
    assert names(str(root / "data/train-0000{0..1}-of-00002.parquet")) == wanted[:6]
    assert names(str(root / "*/*.[tz]*")) == wanted[6:]
    assert [read_bytes(each.source) for each in find([root], Counter()) if isinstance(each, Found)] == [
        png(shade) for shade in (1, 2, 3, 1, 2, 3, 4, 5)
    ]
    assert sum(isinstance(each, Container) for each in find([root], Counter())) == 4
    assert names(root, apart=(root / "data", archive)) == wanted[7:]
    told: list[str] = []
    twice.unlink()
    list(find([root], Counter(), told.append))
    assert "is missing: 1 of 2 files are there" in told[0]
    touch_images(root, "web/photo.png")
    ignored = Counter[str]()
    assert [name for name, _ in expand_paths([root], ignored)] == [str(root / "web/photo.png")]
    assert ignored["tables and archives (name them to have their images too)"] == 3


def test_a_table_beside_tar_files_is_their_description(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": png(4)})
    write_csv(tmp_path / "b.csv", "path", "1.png", images=False)
    ignored = Counter[str]()
    assert [name for name, _ in expand_paths([tmp_path], ignored)] == [f"{tmp_path}/a.tar/1.png"]
    assert ignored == {"CSV files (name them to have their images too)": 1}


def test_a_list_of_paths_is_read_line_by_line(tmp_path: Path) -> None:
    touch_images(tmp_path, "b.png", "a b.png")
    text = tmp_path / "list.txt"
    text.write_text(f"b.png\n\na b.png\r\n{tmp_path}/gone.png\n")
    assert names(text) == [str(tmp_path / name) for name in ("b.png", "a b.png", "gone.png")]
    for content, problem in (
        ("\n", "names no images"),
        ("a\0b", "line 1 holds a zero byte"),
        ("s3://b/a", "is an address"),
    ):
        text.write_text(content)
        with pytest.raises(UserError, match=problem):
            names(text)


def test_what_cannot_be_understood_is_said(tmp_path: Path) -> None:
    touch_images(tmp_path, "photo.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.zip").write_bytes(b"PK nothing")
    for given, problem in (
        (tmp_path / "foto.png", "no such file.*Did you mean 'photo.png'"),
        (tmp_path / "*.tiff", "no file matches"),
        (tmp_path / "empty", "holds no images"),
        (tmp_path / "x.zip", "is not a whole zip file"),
        (write_zip(tmp_path / "none.zip", {"a.txt": b"x"}), "holds no images"),
        (write_csv(tmp_path / "a.csv", "path", images=False), "column names and no rows"),
        (write_csv(tmp_path / "b.csv", "path,x", ",1", images=False), "line 2 has no image path"),
        (write_csv(tmp_path / "c.csv", "path,x", "a.png", images=False), "line 2 has 1 fields, expected 2"),
        ("memory://nothing/here", "there is no memory://nothing/here"),
    ):
        with pytest.raises(UserError, match=problem):
            names(given)
    (tmp_path / "d.csv").write_bytes(b"path\na.png\n\xff.png\n")
    with pytest.raises(UserError, match=r"d\.csv, line 3 is not UTF-8"):
        names(tmp_path / "d.csv")
    with pytest.raises(UserError, match="no images named"):
        names()


def test_remote_images_are_called_by_their_address(memory: Any, tmp_path: Path) -> None:
    for name, shade in (("photos/b.png", 1), ("photos/a/c.png", 2), ("photos/.x/d.png", 3), ("in/one.png", 4)):
        memory.pipe_file(f"/{name}", png(shade))
    tar = write_tar(tmp_path / "x.tar", {"1.png": png(5)}).read_bytes()
    for number in range(3):
        memory.pipe_file(f"/tars/t-{number}.tar", tar)
    assert names("memory://photos") == ["memory://photos/a/c.png", "memory://photos/b.png"]
    assert names("memory://photos/") == names("memory://photos")
    assert names("memory://in/one.png", "memory://photos/b.png") == ["memory://in/one.png", "memory://photos/b.png"]
    wanted = [f"memory://tars/t-{number}.tar/1.png" for number in range(3)]
    assert names("memory://tars") == wanted
    assert names("memory://tars/t-{0..2}.tar") == wanted
    assert names("memory://tars/t-[12]*") == wanted[1:]
    assert [read_bytes(source) for _, source in expand_paths(["memory://photos"], Counter())] == [png(2), png(1)]
    touch_images(tmp_path, "local.png")
    assert names(f"file://{tmp_path}/local.png") == [f"file://{tmp_path}/local.png"]
    with pytest.raises(UserError, match="the last part alone can be a pattern"):
        names("memory://a/*/b.png")
    with pytest.raises(UserError, match="no file matches"):
        names("memory://tars/*.jpg")


def test_a_web_servers_files_have_the_edition_that_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VITKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as web:
        web.files = {"/p/a b.png": png(1), "/p/c.png": png(2)}
        first = [each for each in find([f"{web.url}/p"], Counter()) if isinstance(each, Found)]
        assert [each.name for each in first] == [f"{web.url}/p/a b.png", f"{web.url}/p/c.png"]
        assert all(isinstance(each.stamp, str) and len(each.stamp) > 20 for each in first)
        web.files["/p/c.png"] = png(3)
        again = [each for each in find([f"{web.url}/p"], Counter()) if isinstance(each, Found)]
        assert [a.stamp == b.stamp for a, b in zip(first, again, strict=True)] == [True, False]


@pytest.mark.skipif(os.name != "posix", reason="file names that are no text")
def test_names_that_are_no_text_are_found(tmp_path: Path) -> None:
    place = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.png")
    with open(place, "wb") as file:
        file.write(png())
    assert names(tmp_path) == [os.fsdecode(place)]
