"""Several files with an index: read as one, and every disagreement between the index and its shards is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitkit.config import UserError
from vitkit.weights.files import open_weights

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TENSORS = {"b": torch.arange(3.0), "a": torch.ones(2, 2).half(), "c": torch.arange(4)}
WHERE = {"a": ONE, "b": ONE, "c": TWO}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    for file in (ONE, TWO):
        save_file({name: TENSORS[name] for name in WHERE if WHERE[name] == file}, tmp_path / file)
    return edit(tmp_path / "model.safetensors.index.json")


def edit(path: Path, where: Any = WHERE, **more: Any) -> Path:
    path.write_text(json.dumps({"metadata": {"total_size": 52}, "weight_map": where, **more}))
    return path


def test_shards_are_read_as_one_file(index: Path) -> None:
    for name in (index, index.parent, str(index)):
        opened = open_weights(name)
        assert (opened.path, opened.container, opened.metadata) == (index, "safetensors", {"total_size": 52})
        assert opened.files == (index, index.parent / ONE, index.parent / TWO)
        assert all(tensor.is_meta for tensor in opened.header.values())
        read = opened.read()
        assert list(read) == list(opened.header) == list(WHERE)
        assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)
        assert list(opened.read(["c", "a"])) == ["c", "a"]


def test_shards_may_be_links_as_in_the_hubs_cache(index: Path) -> None:
    (index.parent / "blobs").mkdir()
    for file in (ONE, TWO):
        (index.parent / file).rename(index.parent / "blobs" / file)
        (index.parent / file).symlink_to(Path("blobs", file))
    assert torch.equal(open_weights(index).read()["c"], TENSORS["c"])


def test_shards_that_torch_wrote_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.zeros(2)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    where = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    opened = open_weights(edit(tmp_path / "pytorch_model.bin.index.json", where))
    assert opened.container == "torch"
    assert opened.read()["a"].tolist() == [1, 1]


def test_one_shard_alone_is_refused_and_its_index_named(index: Path) -> None:
    with pytest.raises(UserError, match=r"is one of 2 shards; name their index"):
        open_weights(index.parent / ONE)


def test_a_folder_without_one_index_lists_what_is_there(index: Path) -> None:
    edit(index.parent / "other.safetensors.index.json")
    with pytest.raises(
        UserError, match=r"is a folder; name the file of weights in it \(model-00001-of.*other\.safetensors"
    ):
        open_weights(index.parent)
    (index.parent / "empty").mkdir()
    with pytest.raises(UserError, match=r"is a folder; .* \(none is here\)"):
        open_weights(index.parent / "empty")


def without(file: str) -> Callable[[Path], object]:
    return lambda index: (index.parent / file).unlink()


def rewritten(file: str, **tensors: torch.Tensor) -> Callable[[Path], object]:
    return lambda index: save_file({name: t.clone() for name, t in tensors.items()}, index.parent / file)


def mapped(where: Any) -> Callable[[Path], object]:
    return lambda index: edit(index, where)


ONES = torch.ones(1)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (without(TWO), r"1 of 2 shards are missing: 'model-00002-of-00002\.safetensors'\. Put them beside the index"),
        (rewritten(ONE, a=ONES), r"00001-of-00002\.safetensors' lacks 'b', which the index says it has \(1 such\)"),
        (rewritten(ONE, a=ONES, b=ONES, d=ONES), r"00001-of-00002\.safetensors' holds 'd', which the index says is nowhere"),
        (rewritten(ONE, a=ONES, b=ONES, c=ONES), r"holds 'c', which the index says is in 'model-00002-of-00002"),
        (mapped({"a": ONE, "c": TWO}), r"holds 'b', which the index says is nowhere"),
        (mapped({**WHERE, "a": TWO}), r"holds 'a', which the index says is in 'model-00002|lacks 'a'"),
        (mapped({**WHERE, "a": "../secret.safetensors"}), r"the shard '\.\./secret\.safetensors' is not a file beside the index"),
        (mapped({**WHERE, "a": "/etc/passwd"}), r"the shard '/etc/passwd' is not a file beside the index"),
        (mapped({**WHERE, "a": "sub/x.safetensors"}), r"is not a file beside the index"),
        (mapped({**WHERE, "a": "sub\\x.safetensors"}), r"is not a file beside the index"),
        (mapped({**WHERE, "a": ".."}), r"the shard '\.\.' is not a file beside the index"),
        (mapped({**WHERE, "a": ""}), r"the shard '' is not a file beside the index"),
        (mapped({**WHERE, "a": "x\0"}), r"is not a file beside the index"),
        (mapped({**WHERE, "a": "x" * 5000}), r"1 of 3 shards are missing: 'xxx"),
        (mapped({**WHERE, "a": 3}), r"no index of shards \(it has no weight_map"),
        (mapped({}), r"no index of shards"),
        (mapped([ONE]), r"no index of shards"),
        (mapped({"a": "model.safetensors.index.json"}), r"model\.safetensors\.index\.json is a JSON file, not weights"),
        (lambda index: index.write_text("[" * 100_000), r"is a text file, not weights"),
        (lambda index: index.write_text('{"a":' * 100_000), r"is not whole JSON"),
        (lambda index: index.write_bytes(index.read_bytes()[:-9]), r"is not whole JSON"),
        (lambda index: index.write_bytes(index.read_bytes()[:40] + b"\xff" + index.read_bytes()[40:]), r"is not whole JSON"),
        (lambda index: index.write_text("{}"), r"no index of shards"),
        (lambda index: (index.parent / TWO).write_bytes(b""), r"00002-of-00002\.safetensors is empty"),
        (lambda index: torch.save({"c": ONES}, index.parent / TWO), r"its shards are of different kinds \(safetensors, torch\)"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit_its_shards_is_refused(
    index: Path, damage: Callable[[Path], object], found: str
) -> None:
    damage(index)
    with pytest.raises(UserError, match=found) as raised:
        open_weights(index)
    assert len(str(raised.value)) < 600


def test_a_shard_that_changes_between_opening_and_reading_is_told(index: Path) -> None:
    opened = open_weights(index)
    save_file({"c": torch.zeros(4)}, index.parent / TWO)
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors changed while it was read"):
        opened.read()
