"""Safetensors: what the library wrote is read bit for bit; a header that cannot be true is refused before anything is allocated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from vitkit.config import UserError
from vitkit.weights.files import open_weights
from vitkit.weights.safetensors_file import open_safetensors, read_tensors

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "half": torch.randn(5).half(),
    "bf": torch.randn(3, 2).bfloat16(),
    "double": torch.randn(2).double(),
    "ints": torch.arange(3),
    "small": torch.arange(3, dtype=torch.int8),
    "mask": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "complex": torch.randn(2, dtype=torch.complex64),
    "eight": torch.randn(4).to(torch.float8_e5m2),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt", "who": "me"})
    return tmp_path / "x.safetensors"


def test_every_dtype_is_read_as_the_library_reads_it(path: Path) -> None:
    opened = open_weights(path)
    assert (opened.container, opened.metadata) == ("safetensors", {"format": "pt", "who": "me"})
    assert (opened.path, opened.files, opened.wrappers) == (path, (path,), ())
    expected = load_file(path)
    read = opened.read()
    assert read.keys() == opened.header.keys() == expected.keys()
    for name, tensor in expected.items():
        assert opened.header[name].is_meta
        assert (opened.header[name].shape, opened.header[name].dtype) == (tensor.shape, tensor.dtype)
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def test_some_names_are_read_alone(path: Path) -> None:
    opened = open_weights(path)
    assert list(opened.read(["scalar", "a"])) == ["scalar", "a"]
    assert opened.read([]) == {}
    with pytest.raises(KeyError):
        opened.read(["nothing"])


def test_what_was_read_outlives_the_file(path: Path) -> None:
    read = open_weights(path).read()
    os.truncate(path, 0)  # a mapped file would end the process here
    assert torch.equal(read["a"], TENSORS["a"])


def test_a_file_that_changes_between_opening_and_reading_is_told(path: Path) -> None:
    opened = open_weights(path)
    data = path.read_bytes()
    path.write_bytes(data + b"x")
    with pytest.raises(UserError, match="changed while it was read"):
        opened.read()
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        opened.read()


def lying(header: Any, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: Any = (4,), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HUGE = 2**63 - 1
LIES = {
    "a header longer than the file": ((10**6).to_bytes(8, "little") + b"{}" + bytes(20), "would be 1000000 bytes long"),
    "a header of all memory": (HUGE.to_bytes(8, "little") + b"{}" + bytes(20), f"would be {HUGE} bytes long"),
    "a header above the limit": ((100_000_001).to_bytes(8, "little") + b"{}", "would be 100000001 bytes long"),
    "no JSON": (lying(b"{nothing"), "header is not JSON"),
    "deep JSON": (lying(b'{"a":' + b"[" * 100_000), "header is not JSON"),
    "a list": (lying(b'{"a": 1}'), "is not described by dtype, shape and data_offsets"),
    "other metadata": (lying({"__metadata__": [1], "a": entry()}), "not a table of tensors"),
    "one name twice": (lying(b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2)), "each thing once"),
    "terabytes": (lying({"a": entry([2**40], [0, 2**42])}), "describes 4398046511.* bytes, the file has"),
    "more shape than bytes": (lying({"a": entry([2**40])}), "does not fill its 16 bytes"),
    "an absurd shape": (lying({"a": entry([2**40, 2**40])}), "claims a shape that no tensor has"),
    "an overflowing shape": (lying({"a": entry([2**32, 2**32, 0], [0, 0])}, b""), "claims a shape that no tensor has"),
    "a negative size": (lying({"a": entry([-4])}), "claims a shape that no tensor has"),
    "sizes that are no numbers": (lying({"a": entry(["4"])}), "claims a shape that no tensor has"),
    "a size of true": (lying({"a": entry([True, 4])}), "claims a shape that no tensor has"),
    "fractions": (lying({"a": entry([4.0])}), "claims a shape that no tensor has"),
    "very many dimensions": (lying({"a": entry([1] * 1000 + [4])}), "claims a shape that no tensor has"),
    "no shape": (lying({"a": entry(4)}), "no sound shape and offsets"),
    "offsets backwards": (lying({"a": entry([4], [16, 0])}), "no sound shape and offsets"),
    "negative offsets": (lying({"a": entry([4], [-16, 0])}), "no sound shape and offsets"),
    "offsets of many digits": (lying(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, %s]}}' % (b"9" * 4299)),
                               "no sound shape and offsets"),
    "an unknown dtype": (lying({"a": entry(dtype="F4")}), "is of dtype 'F4', which is not read. Known: F64, F32"),
    "a dtype that is no text": (lying({"a": entry(dtype=[])}), "which is not read"),
    "an overlap": (lying({"a": entry(), "b": entry([2], [8, 16])}), "a gap or an overlap"),
    "a gap": (lying({"a": entry([2], [0, 8]), "b": entry([1], [12, 16])}), "a gap or an overlap"),
    "a gap at the start": (lying({"a": entry([2], [8, 16])}), "a gap or an overlap"),
    "unused bytes": (lying({"a": entry()}, bytes(17)), "describes .* bytes, the file has"),
    "missing bytes": (lying({"a": entry()}, bytes(15)), "describes .* bytes, the file has"),
    "no tensors": (lying({}, b""), "holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_and_nothing_is_allocated(
    tmp_path: Path, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, found = LIES[lie]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    monkeypatch.setattr("vitkit.weights.safetensors_file.raw_bytes", lambda *_: pytest.fail("allocated"))
    with pytest.raises(UserError, match=found) as raised:
        open_weights(path).read()
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_header_of_very_many_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = {str(n): entry([0], [0, 0]) for n in range(200_001)}
    path.write_bytes(lying(header, b""))
    with pytest.raises(UserError, match="claims 200001 tensors"):
        open_weights(path)


def test_wherever_a_file_is_cut_it_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            open_weights(path).read()


def test_a_file_of_another_checksum_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    path = tmp_path / "x.safetensors"
    data = save({"a": torch.ones(3)})
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert torch.equal(read_tensors(path, digest)["a"], torch.ones(3))
    path.write_bytes(data[:-1] + b"\x01")
    assert read_tensors(path).keys() == {"a"}
    monkeypatch.setattr("vitkit.weights.safetensors_file.open_safetensors", lambda *_: pytest.fail("parsed"))
    with pytest.raises(UserError, match=r"is not the file its config\.json describes"):
        read_tensors(path, digest)


def test_a_tensor_that_does_not_fit_into_memory_is_refused_before_it_is_allocated(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    none: Callable[[], Any] = lambda: type("Memory", (), {"available": 10})()  # noqa: E731
    monkeypatch.setattr(psutil, "virtual_memory", none)
    opened = open_safetensors(path)
    with pytest.raises(UserError, match=r"need 0\.0 GiB of memory, 0\.0 GiB are free"):
        opened.read()
    assert opened.read(["scalar"])["scalar"] == 2.5


@pytest.mark.parametrize("length", [*range(128, 2056, 8), 65_536 + 640, 0x1F8B, 0x4B50])
def test_no_length_of_the_header_is_taken_for_another_kind_of_file(length: int, tmp_path: Path) -> None:
    """The first bytes of a file are that length: 640 begins like a pickle."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(length)
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header + torch.tensor([1.0, 2.0]).numpy().tobytes())
    assert open_weights(path).read()["a"].tolist() == [1.0, 2.0]
