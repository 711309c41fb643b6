"""Data sets of the hub by name: layouts, configurations, pinned commits, hidden labels, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from served import Web, serving
from tiny_tables import png, write_parquet, write_tar
from vitkit.config import UserError
from vitkit.data.containers import read_bytes
from vitkit.data.hub_data import HubName, parse_hub_name
from vitkit.data.hub_layouts import find_splits
from vitkit.data.sources import data_name, pinned, read_source

REPO = "someone/pets"
SHA, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Web]:
    """As much of the hub as data sets need, with no data set."""
    pytest.importorskip("pyarrow")
    for name in ("VITKIT_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with serving() as web:
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        web.headers["404"] = {"X-Error-Code": "RepoNotFound"}
        yield web


def publish(
    hub: Web,
    files: Mapping[str, bytes],
    *,
    revision: str = "",
    sha: str = SHA,
    card: dict[str, Any] | None = None,
    tags: list[str] | None = None,
) -> None:
    """A data set at a commit, which ``revision`` (by default main) names from now on."""
    about = {
        "id": REPO, "sha": sha, "cardData": card, "tags": tags or [], "private": False, "downloads": 0, "likes": 0,
        "siblings": [{"rfilename": name, "size": len(content)} for name, content in files.items()],
    }  # fmt: skip
    for place in (
        f"/api/datasets/{REPO}" + (f"/revision/{revision}" if revision else ""),
        f"/api/datasets/{REPO}/revision/{sha}",
    ):
        hub.files[place] = json.dumps(about).encode()
        hub.headers[place] = {"Content-Type": "application/json"}
    for name, content in files.items():
        place = f"/datasets/{REPO}/resolve/{sha}/{name}"
        hub.files[place] = content
        tag = hashlib.sha256(content).hexdigest()
        hub.headers[place] = {"ETag": f'"{tag}"', "X-Repo-Commit": sha, "X-Linked-Size": str(len(content))}
    for kind in ("", "/revision/main", "/revision/refs/convert/parquet"):
        hub.headers.setdefault(f"/api/datasets/{REPO}{kind}", {"X-Error-Code": "RevisionNotFound"})
    if f"/api/datasets/{REPO}/revision/refs/convert/parquet" not in hub.files:
        hub.status[f"/api/datasets/{REPO}/revision/refs/convert/parquet"] = 404
    if revision:
        hub.status.pop(f"/api/datasets/{REPO}/revision/{revision}", None)


def table(tmp_path: Path, shade: int, labels: Any = (0, 1), **columns: Any) -> bytes:
    rows = {"image": [png(shade), png(shade + 1)], "label": list(labels), **columns}
    return write_parquet(tmp_path / "made.parquet", rows, names={"label": ["cat", "dog"]}).read_bytes()


def read_all(data: str) -> dict[str, list[tuple[str, bytes]]]:
    source = read_source(data)
    return {
        split: [(source.classes[s.label], read_bytes(s.source)) for s in samples]
        for split, samples in source.splits.items()
    }


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (
            (
                "data/train-00000-of-00002.parquet",
                "data/train-00001-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ),
            "",
        ),
        (
            (
                "plain_text/train-00000-of-00002.parquet",
                "plain_text/train-00001-of-00002.parquet",
                "plain_text/test.parquet",
            ),
            "",
        ),
        (("default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"), "/default"),
        (
            (
                "train-00000-of-00002-0123456789abcdef.parquet",
                "train-00001-of-00002-fedcba9876543210.parquet",
                "test.parquet",
            ),
            "",
        ),
    ],
)
def test_a_set_is_read_by_name_in_the_usual_layouts(
    hub: Web, tmp_path: Path, names: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(hub, {file: table(tmp_path, 10 * n) for n, file in enumerate(names)} | {"README.md": b"x"})
    source = read_source(f"hf:{REPO}{name}")
    assert (source.name, source.classes, source.origin) == ("pets", ("cat", "dog"), f"hf:{REPO}{name}@{SHA}")
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 4, "test": 2}
    assert read_all(f"hf:{REPO}{name}")["train"] == [
        ("cat", png(0)),
        ("dog", png(1)),
        ("cat", png(10)),
        ("dog", png(11)),
    ]
    assert f"revision {SHA[:12]} of {REPO} on the Hugging Face hub" in source.notes
    assert f"fetching hf:{REPO}{name}: 3 of 3 files" in capsys.readouterr().err
    assert not any("README" in path for _, path, _ in hub.log)


def test_a_resumed_run_reads_the_commit_that_it_began_with(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, {"data/train-00000-of-00001.parquet": table(tmp_path, 1)})
    named = pinned(f"hf:{REPO}")
    assert named == f"hf:{REPO}@{SHA}"
    first = read_all(named)
    publish(hub, {"data/train-00000-of-00001.parquet": table(tmp_path, 50)}, sha=OTHER)
    assert read_all(named) == first
    assert pinned(named) == named
    assert pinned(f"hf:{REPO}") == f"hf:{REPO}@{OTHER}"
    assert read_all(f"hf:{REPO}") != first
    hub.log.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read_all(named) == first
    assert hub.log == []
    with pytest.raises(UserError, match="hf:someone/cars is not on this machine, and nothing is fetched offline"):
        read_source("hf:someone/cars")


def test_what_the_hub_made_parquet_of_is_read_and_pinned(hub: Web, tmp_path: Path) -> None:
    publish(hub, {"images.zip": b"x"})
    publish(
        hub,
        {"default/train/0000.parquet": table(tmp_path, 1), "default/partial-test/0000.parquet": table(tmp_path, 5)},
        revision="refs/convert/parquet", sha=OTHER,
    )  # fmt: skip
    hub.files[f"/api/datasets/{REPO}"] = hub.files[f"/api/datasets/{REPO}/revision/{SHA}"]
    source = read_source(f"hf:{REPO}")
    assert source.origin == f"hf:{REPO}@{OTHER}"
    assert list(source.splits) == ["train", "test"]
    assert "read from the Parquet files that the hub made of it" in source.notes
    assert "test: the hub made only a first part of it into Parquet files" in source.notes
    assert read_all(source.origin) == read_all(f"hf:{REPO}")


def test_one_of_several_configurations_is_chosen(hub: Web, tmp_path: Path) -> None:
    files = {
        f"{config}/train-00000-of-00001.parquet": table(tmp_path, n) for n, config in enumerate(("large", "small"))
    }
    publish(hub, files)
    with pytest.raises(
        UserError, match=r"has several configurations: 'large', 'small'\. Say which: hf:someone/pets/large"
    ):
        read_source(f"hf:{REPO}")
    assert read_all(f"hf:{REPO}/small")["train"][0] == ("cat", png(1))
    with pytest.raises(UserError, match=r"has no configuration 'smal', only .*Did you mean 'small'\?"):
        read_source(f"hf:{REPO}/smal")
    publish(hub, files, card={"configs": [{"config_name": "small", "default": True, "data_files": [
        {"split": "train", "path": "small/*"}]}, {"config_name": "both", "data_files": [
        {"split": "train", "path": ["large/train-*", "small/train-*"]}]}]}, sha=OTHER)  # fmt: skip
    assert read_source(f"hf:{REPO}").origin == f"hf:{REPO}@{OTHER}"
    assert len(read_source(f"hf:{REPO}").splits["train"]) == 2
    assert len(read_source(f"hf:{REPO}/both").splits["train"]) == 4


def test_hidden_labels_and_other_splits_are_left_out_and_told(hub: Web, tmp_path: Path) -> None:
    publish(hub, {
        "data/train-00000-of-00001.parquet": table(tmp_path, 1),
        "data/test-00000-of-00001.parquet": table(tmp_path, 3, labels=(-1, -1)),
        "data/unsupervised-00000-of-00001.parquet": table(tmp_path, 5),
    })  # fmt: skip
    source = read_source(f"hf:{REPO}")
    assert list(source.splits) == ["train"]
    assert "test left out: its labels are hidden (-1)" in source.notes
    assert "splits left out: 'unsupervised'" in source.notes


def test_a_missing_part_and_a_damaged_one_are_told(hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(hub, {f"data/train-0000{n}-of-00003.parquet": table(tmp_path, n) for n in (0, 2)})
    with pytest.raises(UserError, match=r"^hf:someone/pets: .*train-00001-of-00003\.parquet is missing: 2 of 3 files"):
        read_source(f"hf:{REPO}")
    name = "data/train-00000-of-00001.parquet"
    publish(hub, {name: table(tmp_path, 1)}, sha=OTHER)
    hub.headers[f"/datasets/{REPO}/resolve/{OTHER}/{name}"]["ETag"] = f'"{"0" * 64}"'
    with pytest.raises(UserError, match=r"came damaged: its SHA-256 is .* the hub states 0+\. It is deleted"):
        read_source(f"hf:{REPO}")


def test_a_file_that_was_cut_in_the_cache_is_fetched_again(hub: Web, tmp_path: Path) -> None:
    publish(hub, {"data/train-00000-of-00001.parquet": table(tmp_path, 1)})
    before = read_all(f"hf:{REPO}")
    (file,) = (tmp_path / "hf").rglob("snapshots/*/data/*.parquet")
    file.resolve().write_bytes(file.read_bytes()[:50])
    assert read_all(f"hf:{REPO}@{SHA}") == before


@pytest.mark.parametrize(
    ("card", "tags", "message"),
    [
        ({"dataset_info": {"features": [{"name": "text", "dtype": "string"}, {"name": "label", "dtype": {"class_label": {}}}]}},
         [], r"is a data set of text or numbers, columns text \(string\), label \(classes\); expected images"),
        ({"dataset_info": [{"config_name": "default", "features": [{"name": "audio", "dtype": "audio"}]}, {"config_name": "x"}]},
         [], r"is a data set of audio, columns audio \(audio\)"),
        (None, ["modality:text", "modality:audio"], r"is a data set of audio and text; expected images with a label each"),
        (None, [], r"has no column of images: found 'text', 'label'"),
    ],
)  # fmt: skip
def test_sets_of_other_kinds_are_refused(
    hub: Web, tmp_path: Path, card: dict[str, Any] | None, tags: list[str], message: str
) -> None:
    content = write_parquet(tmp_path / "t.parquet", {"text": ["a", "b"], "label": [0, 1]}).read_bytes()
    publish(hub, {"data/train-00000-of-00001.parquet": content}, card=card, tags=tags)
    with pytest.raises(UserError, match=rf"^hf:someone/pets.* {message}"):
        read_source(f"hf:{REPO}")
    assert any("resolve" in path for _, path, _ in hub.log) == (not card and not tags)


def test_addresses_inside_a_repository(hub: Web, tmp_path: Path) -> None:
    files = {f"wds/train-{n:03d}.tar": write_tar(tmp_path / "t.tar", {"cat/a.png": png(n), "dog/b.png": png(9)}).read_bytes()
             for n in range(3)}  # fmt: skip
    files |= {"photos/cat/1.png": png(1), "photos/dog/2.png": png(2), "photos/notes.md": b"x"}
    publish(hub, files)
    base = f"hf://datasets/{REPO}"
    for path, name, count in [
        ("/wds", "wds", 6), ("/wds/train-{000..001}.tar", "wds", 4), ("/wds/train-001.tar", "train-001", 2),
        ("/photos", "photos", 2),
    ]:  # fmt: skip
        source = read_source(base + path)
        assert (source.name, sum(map(len, source.splits.values()))) == (name, count)
        assert source.origin == f"{base}@{SHA}{path}"
        assert read_all(source.origin) == read_all(base + path)
    assert len(read_source(f"hf:{REPO}").splits["train"]) == 6
    for path, message in [
        ("/wds/train-{000..003}.tar", r"has no wds/train-003\.tar.*Did you mean"),
        ("/photo", "has no photo.*'photos'"),
    ]:
        with pytest.raises(UserError, match=message):
            read_source(base + path)


def test_names_are_taken_apart() -> None:
    assert parse_hub_name("hf:cifar10") == HubName("cifar10")
    assert parse_hub_name("hf:a/b/c@main") == HubName("a/b", "c", "main")
    assert parse_hub_name("hf://datasets/a/b@refs%2Fconvert%2Fparquet/x/y.tar") == HubName(
        "a/b", "", "refs/convert/parquet", "x/y.tar"
    )
    for name in ("hf:", "hf:/a", "hf://a/b", "hf:a@"):
        with pytest.raises(UserError, match="is not understood; expected hf:"):
            parse_hub_name(name)
    for name, called in [
        ("hf:a/cifar10@main", "cifar10"), ("hf://datasets/a/b/x.tar", "x"), ("s3://b/photos/?x=secret", "photos"),
        ("https://h/a/t.tar.gz?sig=secret", "t"), ("memory://box", "box"),
    ]:  # fmt: skip
        assert data_name(name) == called


def test_splits_are_found_by_card_or_name() -> None:
    files = ["a-train-000.tar", "a-train-001.tar", "a-validation-000.tar", "x.json"]
    assert find_splits(files, {}, ".tar") == {"default": {"train": files[:2], "validation": files[2:3]}}
    card = {
        "configs": [{"config_name": "c", "data_files": [{"split": "test", "path": "a-val*"}]}, {"data_files": "x"}, 3]
    }
    assert find_splits(files, card, ".tar") == {"c": {"test": files[2:3]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("hf:someone/nothing", r"the hub has no repository datasets/someone/nothing, or it is private"),
        ("hf:some one/x y", "is no name of a data set on the hub"),
        (f"hf:{REPO}@v9", r"hf:someone/pets@v9: someone/pets on the hub has no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have_is_one_message(hub: Web, tmp_path: Path, data: str, message: str) -> None:
    publish(hub, {"data/train-00000-of-00001.parquet": table(tmp_path, 1)})
    hub.status[f"/api/datasets/{REPO}/revision/v9"] = 404
    hub.headers[f"/api/datasets/{REPO}/revision/v9"] = {"X-Error-Code": "RevisionNotFound"}
    hub.status["/api/datasets/someone/nothing"] = 401
    hub.headers["/api/datasets/someone/nothing"] = {"X-Error-Code": "RepoNotFound"}
    with pytest.raises(UserError, match=message):
        read_source(data)
