"""Remote data: fetched once, whole or not at all, gone on with, fetched again when it changed, and never with a secret shown."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from served import Web, serving
from tiny_tables import png, write_parquet, write_tar
from vitkit.config import UserError
from vitkit.data import remote, stores
from vitkit.data.cache import cache_folder
from vitkit.data.containers import read_bytes
from vitkit.data.sources import Source, read_source

BIG = os.urandom(3_000_000)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("VITKIT_OFFLINE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as web:
        yield web


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """fsspec's files in memory."""
    fsspec = pytest.importorskip("fsspec")
    for name in ("VITKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def put(memory: Any, path: str, content: bytes) -> None:
    memory.pipe_file(f"/{path}", content)


def contents(source: Source) -> dict[str, list[tuple[str, str, bytes]]]:
    return {
        split: [(s.name, source.classes[s.label], read_bytes(s.source)) for s in samples]
        for split, samples in source.splits.items()
    }


def shards(tmp_path: Path, count: int = 3) -> dict[str, bytes]:
    """Names and contents of small shards with class folders inside."""
    paths = [
        write_tar(tmp_path / f"train-{n:03d}.tar", {"cat/a.png": png(n), "dog/b.png": png(n + 9)}) for n in range(count)
    ]
    return {path.name: path.read_bytes() for path in paths}


FOLDER = {
    "train/cat/1.png": png(1), "train/dog/2.png": png(2), "test/dog/3 x.png": png(3), "notes.md": b"x", ".git/a.png": b"x",
}  # fmt: skip


@pytest.mark.parametrize("store", ["memory", "web"])
def test_a_folder_of_classes_is_read_as_a_local_one(
    store: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = request.getfixturevalue(store)
    for name, content in FOLDER.items():
        local = tmp_path / "pets" / name
        if not name.startswith((".", "notes")):
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(content)
        if store == "memory":
            put(served, f"box/pets/{name}", content)
        else:
            served.files[f"/box/pets/{name}"] = content
    url = "memory://box/pets" if store == "memory" else f"{served.url}/box/pets"
    source, expected = read_source(url), read_source(tmp_path / "pets")
    assert (source.name, source.classes) == ("pets", ("cat", "dog"))
    assert contents(source) == contents(expected)
    assert source.notes == expected.notes
    assert f"fetching {url}: 3 of 3 files" in capsys.readouterr().err
    again = read_source(f"{url}/")
    assert contents(again) == contents(expected)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("store", ["memory", "web"])
def test_shards_by_braces_by_folder_and_alone(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    served = request.getfixturevalue(store)
    for name, content in {**shards(tmp_path / "s"), "classes.txt": b"cat\ndog\n"}.items():
        if store == "memory":
            put(served, f"box/s/{name}", content)
        else:
            served.files[f"/box/s/{name}"] = content
    (tmp_path / "s" / "classes.txt").write_bytes(b"cat\ndog\n")
    base = "memory://box/s" if store == "memory" else f"{served.url}/box/s"
    for name in ("train-{000..002}.tar", "train-001.tar", ""):
        assert contents(read_source(f"{base}/{name}")) == contents(read_source(tmp_path / "s" / name)), name
    assert read_source(f"{base}/train-001.tar").name == "train-001"
    with pytest.raises(UserError, match=r"no such data: .*train-003\.tar.*Did you mean 'train-00"):
        read_source(f"{base}/train-{{000..003}}.tar")


def test_a_parquet_file_over_http_keeps_nothing_half(web: Web, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = {"image": [png(1) + BIG, png(2)], "label": ["x", "y"]}
    path = write_parquet(tmp_path / "train.parquet", rows)
    web.files["/d/train.parquet"] = path.read_bytes()
    web.cut = 1_500_000
    url = f"{web.url}/d/train.parquet"
    with pytest.raises(UserError, match=r"ended after 1\.4 MiB of 2\.9 MiB\. Run the command again"):
        read_source(url)
    assert not remote.local_place(url).exists()
    web.cut = None
    web.log.clear()
    assert [content for _, _, content in contents(read_source(url))["all"]] == rows["image"]
    assert [asked for kind, _, asked in web.log if kind == "GET" and asked] == ["bytes=1500000-"]
    web.log.clear()
    read_source(url)
    assert {kind for kind, _, _ in web.log} == {"HEAD"}
    (cut := remote.local_place(url)).write_bytes(cut.read_bytes()[:100])
    read_source(url)
    assert cut.read_bytes() == path.read_bytes()


def test_what_changed_is_fetched_again_and_what_is_gone_is_removed(memory: Any, tmp_path: Path) -> None:
    for name, content in shards(tmp_path).items():
        put(memory, f"box/s/{name}", content)
    first = contents(read_source("memory://box/s"))
    other = write_tar(tmp_path / "new.tar", {"cat/a.png": png(77), "dog/b.png": png(78)}).read_bytes()
    assert len(other) == memory.size("/box/s/train-001.tar")  # told by the time alone
    put(memory, "box/s/train-001.tar", other)
    second = contents(read_source("memory://box/s"))
    assert [s[2] for s in second["train"]][2:4] == [png(77), png(78)]
    assert first["train"][:2] == second["train"][:2]
    memory.rm_file("/box/s/train-002.tar")
    assert len(contents(read_source("memory://box/s"))["train"]) == 4


class Cut(io.BytesIO):
    """Ends, or breaks, early."""

    broken = False

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 2_000_000:
            if self.broken:
                raise ConnectionResetError("reset by https://u:secret@host/x?sig=secret")
            return b""
        return super().read(min(size or 0, 2_000_000 - self.tell()))


@pytest.mark.parametrize("broken", [False, True])
def test_a_file_that_comes_short_is_not_used_and_gone_on_with(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    path = write_tar(tmp_path / "t.tar", {"cat/a.png": png(1) + BIG, "dog/b.png": png(2)})
    put(memory, "box/t.tar", path.read_bytes())
    whole = type(memory)._open
    monkeypatch.setattr(Cut, "broken", broken)
    monkeypatch.setattr(type(memory), "_open", lambda self, p, *a, **k: Cut(path.read_bytes()))
    message = r"ConnectionResetError: reset by https://host/x\)" if broken else r"ended after 1\.9 MiB of 2\.9 MiB"
    with pytest.raises(UserError, match=message) as caught:
        read_source("memory://box/t.tar")
    assert "it goes on from there" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not remote.local_place("memory://box/t.tar").exists()
    starts = []

    class Counting(io.BytesIO):
        def seek(self, place: int, whence: int = 0) -> int:
            starts.append(place)
            return super().seek(place, whence)

    monkeypatch.setattr(type(memory), "_open", lambda self, p, *a, **k: Counting(path.read_bytes()))
    assert len(read_source("memory://box/t.tar").splits["all"]) == 2
    assert starts == [2_000_000]
    assert remote.local_place("memory://box/t.tar").read_bytes() == path.read_bytes()
    put(memory, "box/t.tar", path.read_bytes())
    monkeypatch.setattr(type(memory), "_open", whole)
    assert len(read_source("memory://box/t.tar").splits["all"]) == 2


def test_a_part_of_an_older_edition_is_not_gone_on_with(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_tar(tmp_path / "t.tar", {"cat/a.png": png(1) + BIG, "dog/b.png": png(2)}).read_bytes()
    new = write_tar(tmp_path / "t.tar", {"cat/a.png": png(3) + BIG, "dog/b.png": png(4)}).read_bytes()
    whole = type(memory)._open
    put(memory, "box/t.tar", old)
    monkeypatch.setattr(type(memory), "_open", lambda self, p, *a, **k: Cut(old))
    with pytest.raises(UserError, match="ended after"):
        read_source("memory://box/t.tar")
    monkeypatch.setattr(type(memory), "_open", whole)
    put(memory, "box/t.tar", new)
    assert contents(read_source("memory://box/t.tar"))["all"][1][2] == png(4)
    assert remote.local_place("memory://box/t.tar").read_bytes() == new


def test_offline_what_was_fetched_is_used_and_nothing_else(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in shards(tmp_path).items():
        put(memory, f"box/s/{name}", content)
    before = contents(read_source("memory://box/s"))
    monkeypatch.setenv("VITKIT_OFFLINE", "1")
    monkeypatch.setattr(stores, "_FileSystem", None)
    assert contents(read_source("memory://box/s")) == before
    with pytest.raises(UserError, match=r"memory://box/t is not on this machine, and nothing is fetched offline"):
        read_source("memory://box/t")
    place = remote.local_place("memory://box/s/train-001.tar")
    place.write_bytes(b"x")
    with pytest.raises(UserError, match=r"is not whole on this machine \(train-001\.tar is not as it came\)"):
        read_source("memory://box/s")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://box/pet", r"no such data: there is no memory://box/pet.*Did you mean 'pets'"),
        ("memory://box/pets/train.tar", r"no such data: there is no memory://box/pets/train\.tar\."),
        ("memory://box/pets/train/cat/1.png", r"is a file; expected a folder, or a file that ends in"),
        ("memory://box/pets/labels.csv", r"is a table of paths: name the folder that holds it"),
        ("memory://box/empty", r"holds no images and no tables"),
        ("memory://u:secret@box/pets", r"memory://box/pets: leave user and password out of the address"),
        ("memory://box/../pets", r"expected a path without \.\."),
        ("memoy://box/pets", r"the protocol 'memoy' is not known\. Did you mean 'memory'\?"),
        ("s3://box/pets?sig=secret", r"^s3://box/pets needs a library that is not installed: pip install fsspec s3fs"),
    ],
)
def test_what_cannot_be_had_is_one_message(
    memory: Any, url: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if url.startswith("s3"):
        try:
            import s3fs  # type: ignore[import-not-found]  # noqa: F401

            pytest.skip("s3fs is installed")
        except ImportError:
            pass
    put(memory, "box/pets/train/cat/1.png", png(1))
    put(memory, "box/empty/x.md", b"x")
    with pytest.raises(UserError, match=message) as caught:
        read_source(url)
    assert "secret" not in str(caught.value) + capsys.readouterr().err


def test_a_missing_fsspec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"gs://box/pets needs fsspec: pip install fsspec gcsfs\."):
        read_source("gs://box/pets")


def test_a_store_that_refuses_or_fails_is_one_message(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, message in [
        (PermissionError("Forbidden"), r"memory://box/t\.tar may not be read \(Forbidden\)\. Give credentials"),
        (
            RuntimeError("Unable to locate credentials"),
            r"cannot be read \(RuntimeError: Unable to locate credentials\)",
        ),
    ]:

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(type(memory), "info", fail)
        with pytest.raises(UserError, match=message):
            read_source("memory://box/t.tar")


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, r"127\.0\.0\.1 does not give http://127\.0\.0\.1:\d+/d/t\.tar to everybody \(403\)"),
        (503, r"answers 503 Service Unavailable; try again later"),
        (404, r"no such data: 127\.0\.0\.1 has no http://127\.0\.0\.1:\d+/d/t\.tar \(404\)\. Did you mean 'u\.tar'\?"),
    ],
)
def test_a_web_server_that_refuses_is_one_message(web: Web, status: int, message: str) -> None:
    web.files["/d/u.tar"] = b"x"
    web.status["/d/t.tar"] = status
    with pytest.raises(UserError, match=message) as caught:
        read_source(f"{web.url}/d/t.tar?sig=secret")
    assert "secret" not in str(caught.value)


def test_a_query_chooses_a_file_and_is_never_shown(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web.files["/d/t.tar"] = write_tar(tmp_path / "t.tar", {"cat/a.png": png(1), "dog/b.png": png(2)}).read_bytes()
    source = read_source(f"{web.url}/d/t.tar?X-Amz-Signature=secret")
    assert source.name == "t"
    assert len(source.splits["all"]) == 2
    assert "secret" not in capsys.readouterr().err
    assert not any("secret" in str(path) for path in cache_folder().rglob("*"))
    assert remote.local_place(f"{web.url}/d/t.tar?id=1") != remote.local_place(f"{web.url}/d/t.tar?id=2")


def test_without_a_network_it_is_one_message(web: Web) -> None:
    url = web.url
    web.shutdown()
    web.server_close()
    with pytest.raises(UserError, match=r"127\.0\.0\.1 does not answer \(.*refused\)\. Tried "):
        read_source(f"{url}/t.tar")


def test_a_file_address_is_read_where_it_lies(tmp_path: Path) -> None:
    for n in range(2):
        write_tar(tmp_path / "a b" / f"train-{n}.tar", {"cat/a.png": png(n), "dog/b.png": png(9)})
    base = (tmp_path / "a b").as_uri()
    assert contents(read_source(base)) == contents(read_source(tmp_path / "a b"))
    assert len(read_source(f"{base}/train-{{0..1}}.tar").splits["train"]) == 4
    with pytest.raises(UserError, match="no such data"):
        read_source(f"{base}/c")
    assert not (cache_folder() / "remote").exists()
