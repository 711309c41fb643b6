"""Torch files, new and old: read as torch.load reads them, without torch's unpickler; nothing in them is ever run."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shared import shared_data
from vitkit.config import UserError
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.files import open_weights
from vitkit.weights.torch_file import WRAPPERS

NEW_AND_OLD = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])


def saved(path: Path, value: Any, zipped: bool = True, **more: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **more)
    return path


def tensors() -> dict[str, torch.Tensor]:
    base = torch.randn(4, 6)
    return {
        "float": torch.randn(2, 3),
        "parameter": nn.Parameter(torch.randn(3)),
        "half": torch.randn(5).half(),
        "bf": torch.randn(3, 2).bfloat16(),
        "double": torch.randn(2).double(),
        "ints": torch.arange(3),
        "mask": torch.tensor([True, False]),
        "complex": torch.randn(2, dtype=torch.complex64),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "base": base,
        "part": base[1:3, ::2],
        "turned": base.T,
        "tied": base,
    }


@NEW_AND_OLD
def test_every_tensor_is_read_as_torch_reads_it_and_shares_no_memory(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "x.pth", tensors(), zipped)
    opened = open_weights(path)
    assert (opened.container, opened.metadata, opened.wrappers) == ("torch", {}, ())
    expected, read = torch.load(path, weights_only=True), opened.read()
    assert read.keys() == opened.header.keys() == expected.keys()
    for name, tensor in expected.items():
        assert opened.header[name].is_meta
        assert (opened.header[name].shape, opened.header[name].dtype) == (tensor.shape, tensor.dtype)
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name
        assert type(read[name]) is torch.Tensor
        assert read[name].is_contiguous()
        assert read[name].untyped_storage().nbytes() == read[name].nbytes
    pointers = [t.data_ptr() for t in read.values() if t.numel()]
    assert len(set(pointers)) == len(pointers)
    assert list(opened.read(["tied", "half"])) == ["tied", "half"]


def test_dtypes_without_a_storage_of_their_own_are_read(tmp_path: Path) -> None:
    state = {"eight": torch.randn(4).to(torch.float8_e4m3fn), "words": torch.tensor([1, 65535], dtype=torch.uint16)}
    read = open_weights(saved(tmp_path / "x.pth", state)).read()
    assert torch.equal(read["eight"].view(torch.uint8), state["eight"].view(torch.uint8))
    assert torch.equal(read["words"].view(torch.uint8), state["words"].view(torch.uint8))


@NEW_AND_OLD
def test_what_was_read_outlives_the_file(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "x.pth", {"a": torch.ones(10_000)}, zipped)
    read = open_weights(path).read()
    os.truncate(path, 0)
    assert torch.equal(read["a"], torch.ones(10_000))


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        saved(tmp_path / "x.pth", {"a": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert open_weights(tmp_path / "x.pth").read()["a"].tolist() == [1, 1, 1]


@NEW_AND_OLD
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_training_checkpoints_are_read_with_an_inert_namespace(tmp_path: Path, zipped: bool, protocol: int) -> None:
    """As DeiT, MAE and DINO write theirs: weights, optimiser, arguments, and NumPy's numbers among them."""
    model = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    arguments = argparse.Namespace(
        lr=np.float64(0.25), seed=np.int64(3), half=np.float16(0.5), yes=np.bool_(True), out=Path("a/b"), blank=None,
        betas=(0.9, 0.95), names={"x"}, device=torch.device("cuda:0"), dtype=torch.bfloat16, inner=argparse.Namespace(n=2**70),
    )  # fmt: skip
    state = {
        "model": model.state_dict(),
        "optimizer": optimiser.state_dict(),
        "epoch": 7,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": arguments,
        "best": float("nan"),
        "rng": np.arange(3),
        "size": torch.Size([1, 2]),
        "counts": collections.Counter("aab"),
        "queue": collections.deque([1, 2]),
        "lists": collections.defaultdict(list, {"a": [1]}),
        "raw": bytearray(b"ab"),
        "long": 2**100_000,
    }
    opened = open_weights(saved(tmp_path / "x.pth", state, zipped, pickle_protocol=protocol))
    assert opened.wrappers == ("model",)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in opened.read().items())
    told = opened.metadata
    assert (told["epoch"], told["size"], told["counts"], told["queue"]) == (7, [1, 2], {"a": 2, "b": 1}, [1, 2])
    assert told["long"] == "..."
    assert told["scaler"] == state["scaler"]
    assert told["lists"] == {"a": [1]}
    assert told["best"] != told["best"]
    assert told["other_tensors"] == {"optimizer": 6}
    assert told["args"] == {
        "lr": 0.25, "seed": 3, "half": 0.5, "yes": True, "out": "a/b", "blank": None, "betas": [0.9, 0.95], "names": ["x"],
        "device": "cuda", "dtype": "torch.bfloat16", "inner": {"n": 2**70},
    }  # fmt: skip
    assert all(type(value) is dict for value in (told, told["args"], told["args"]["inner"]))
    assert "Namespace" not in str(torch.serialization.get_safe_globals())


@pytest.mark.parametrize(
    ("tree", "wrappers", "others"),
    [
        ({"w": 1}, (), {}),
        ({"model": {"w": 1}, "model_ema": {"w": 2}}, ("model",), {"model_ema": 1}),
        ({"state_dict": {"w": 1}, "state_dict_ema": {"w": 2}, "epoch": 0}, ("state_dict",), {"state_dict_ema": 1}),
        ({"student": {"w": 2}, "teacher": {"w": 1}}, ("teacher",), {"student": 1}),
        ({"encoder": {"w": 2}, "predictor": {"w": 3}, "target_encoder": {"w": 1}}, ("target_encoder",),
         {"encoder": 1, "predictor": 1}),
        ({"model": {"state_dict": {"w": 1}, "more": {"w": 2}}}, ("model", "state_dict"), {"more": 1}),
        ({"state_dict": {"w": 1, "sub": {"w": 2}}}, ("state_dict",), {"sub": 1}),
        ({"model": "vit_base", "state_dict": {"w": 1}}, ("state_dict",), {}),
        ({"backbone": {"w": 1}, "epoch": 1}, ("backbone",), {}),
        ({"w": 1, "step": 3, 5: 2}, (), {"5": 1}),
    ],
)  # fmt: skip
def test_the_weights_are_found_among_what_else_is_there(
    tmp_path: Path, tree: dict[Any, Any], wrappers: tuple[str, ...], others: dict[str, int]
) -> None:
    def planted(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: torch.full((2,), float(v)) if key in ("w", 5) else planted(v) for key, v in node.items()}
        return node

    opened = open_weights(saved(tmp_path / "x.pth", planted(tree)))
    assert opened.wrappers == wrappers
    assert opened.metadata.get("other_tensors", {}) == others
    assert {name: tensor.tolist() for name, tensor in opened.read().items()} == {"w": [1, 1]}


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ({"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}}, r"holds no tensors by name, but a table of 'a', 'b'"),
        (
            {"epoch": 3},
            r"holds no tensors by name, but a table of 'epoch'\. Expected a state_dict, alone or under .*model",
        ),
        ({}, "but a table of nothing"),
        ([torch.ones(1)], "but a list"),
        (torch.ones(1), "but one tensor"),
        (3, "but a int"),
        ({3: torch.ones(1)}, "holds no tensors"),
        ({"w": torch.ones(2, 2).to_sparse()}, "'w' is a sparse tensor"),
        ({"w": torch.ones(2, device="meta")}, r"'w' is a meta \(without values\) tensor"),
        ({"w": torch.randn(2, dtype=torch.complex64).conj()}, "'w' is a lazily conjugated"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_what_is_no_plain_table_of_tensors_is_refused(tmp_path: Path, tree: Any, found: str) -> None:
    with pytest.raises(UserError, match=found):
        open_weights(saved(tmp_path / "x.pth", tree))


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(UserError, match="'w' is a quantised tensor"):
        open_weights(saved(tmp_path / "x.pth", {"w": tensor}))


class Runs:
    """Runs a command where it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (self.command,)


@NEW_AND_OLD
@pytest.mark.parametrize("place", ["alone", "beside", "inside"])
def test_a_pickle_with_code_is_refused_by_name_and_not_run(tmp_path: Path, zipped: bool, place: str) -> None:
    trap, state = Runs(f"touch {tmp_path / 'ran'}"), {"w": torch.ones(2)}
    tree = {"alone": trap, "beside": {"model": state, "args": trap}, "inside": {**state, "x": trap}}[place]
    path = saved(tmp_path / "x.pth", tree, zipped)
    with pytest.raises(UserError, match=r"x\.pth holds '(posix|nt)\.system', which is not weights.*nothing was run"):
        open_weights(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "ran").exists()  # the trap works


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Runs(f"touch {tmp_path / 'ran'}"), protocol))
    with pytest.raises(UserError, match=r"x\.pth (holds 'posix\.system'|is not weights|is a text file)"):
        open_weights(path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(pickle.dumps({"w": [1.0, 2.0]}, protocol))
    with pytest.raises(UserError, match=r"is a Python pickle, but none that torch wrote|is not weights|is a text file"):
        open_weights(path)


HARMFUL = ("builtins.eval", "builtins.exec", "builtins.getattr", "builtins.__import__", "os.system", "posix.system",
           "subprocess.Popen", "torch.hub.load", "torch.load", "numpy.load", "operator.attrgetter", "torch.jit.load",
           "torch.storage._load_from_bytes", "torch._C._jit_get_operation", "pathlib.Path.unlink", "codecs.encode")  # fmt: skip


@pytest.mark.parametrize("name", HARMFUL)
@pytest.mark.parametrize("form", ["GLOBAL", "STACK_GLOBAL", "INST"])
def test_whatever_the_pickle_calls_by_name_is_refused(tmp_path: Path, name: str, form: str) -> None:
    module, _, function = name.rpartition(".")
    code = {
        "GLOBAL": f"c{module}\n{function}\n".encode() + b"X\x01\x00\x00\x00x\x85R.",
        "STACK_GLOBAL": b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, function)) + b"\x93)R.",
        "INST": f"(X\x01\x00\x00\x00xi{module}\n{function}\n.".encode(),
    }[form]
    path = zipped_pickle(tmp_path / "x.pth", b"\x80\x04" + code)
    with pytest.raises(UserError, match=rf"holds '{name}', which is not weights"):
        open_weights(path)


def test_a_whole_model_is_refused_by_the_name_of_its_class(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds 'torch\.nn\.modules\.linear\.Linear'.*save the model's state_dict\(\) alone"
    ):
        open_weights(saved(tmp_path / "x.pth", nn.Linear(2, 2)))


def test_torchscript_is_refused_and_the_safetensors_form_named(tmp_path: Path) -> None:
    path = shared_data("mnist_test", "vit4mnist.ptl")
    with pytest.raises(UserError, match=r"is a TorchScript archive.*not run.*vit4mnist\.safetensors"):
        open_weights(path)
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="is a TorchScript archive"):
        open_weights(copy)


def zipped_pickle(path: Path, code: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", code)
        file.writestr("x/version", "3")
        for key, data in records.items():
            file.writestr(f"x/{key}" if key == "byteorder" else f"x/data/{key}", data)
    return path


class Reference:
    def __init__(self, kind: Any, key: str, count: int) -> None:
        self.pid = ("storage", kind, key, "cpu", count)


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.pid if isinstance(value, Reference) else None


class Rebuilt:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return torch._utils._rebuild_tensor_v2, (*self.arguments, False, collections.OrderedDict())


def claims(
    path: Path, size: Any, stride: Any, offset: Any = 0, count: int = 4, stored: int = 16, names: int = 1
) -> Path:
    """A file with one storage of ``stored`` bytes, said to have ``count`` floats, and tensors that claim to lie in it."""
    tensor = Rebuilt(Reference(torch.FloatStorage, "0", count), offset, size, stride)
    file = io.BytesIO()
    Pickler(file, 2).dump({f"w{n}": tensor for n in range(names)})
    return zipped_pickle(path, file.getvalue(), **{"0": bytes(stored)})


def test_a_sound_claim_is_read(tmp_path: Path) -> None:
    assert open_weights(claims(tmp_path / "x.pth", (2, 2), (2, 1))).read()["w0"].shape == (2, 2)


@pytest.mark.parametrize(
    ("claim", "found"),
    [
        ({"size": (2**40,), "stride": (0,)}, "claims more than the 16 bytes of its storage"),
        ({"size": (5,), "stride": (0,)}, "claims more than the 16 bytes of its storage"),
        ({"size": (5,), "stride": (1,)}, "claims more than the 16 bytes of its storage"),
        ({"size": (2,), "stride": (4,)}, "claims more than the 16 bytes of its storage"),
        ({"size": (4,), "stride": (1,), "offset": 1}, "claims more than the 16 bytes of its storage"),
        ({"size": (1,), "stride": (1,), "offset": 2**61}, "claims more than the 16 bytes of its storage"),
        ({"size": (2**61, 2**61), "stride": (0, 0)}, "claims a shape that no tensor has"),
        ({"size": (2**40, 0), "stride": (0, 0), "count": 2**38}, "that is not in the file"),
        ({"size": (4,), "stride": (1,), "count": 2**40}, "that is not in the file"),
        ({"size": (4,), "stride": (1,), "stored": 15}, "that is not in the file"),
        ({"size": (-4,), "stride": (1,)}, "is not a whole pickle"),
        ({"size": (4,), "stride": (-1,)}, "is not a whole pickle"),
        ({"size": (4,), "stride": (1, 1)}, "is not a whole pickle"),
        ({"size": (2**10000,), "stride": (1,)}, "is not a whole pickle"),
        ({"size": (True, 4), "stride": (1, 1)}, "is not a whole pickle"),
        ({"size": "4", "stride": (1,)}, "is not a whole pickle"),
        ({"size": (4,), "stride": (1,), "names": 2000}, "claim 32000 bytes of a file of"),
    ],
)
def test_tensors_that_claim_more_than_the_file_has_are_refused(
    tmp_path: Path, claim: dict[str, Any], found: str
) -> None:
    if claim.get("names"):
        claim["stored"], claim["count"], claim["size"] = 4096, 1024, (1024,)
        found = "claim 8192000 bytes of a file of"
    with pytest.raises(UserError, match=found):
        open_weights(claims(tmp_path / "x.pth", **claim))


def test_a_missing_record_and_another_byte_order_are_refused(tmp_path: Path) -> None:
    whole = zipfile.ZipFile(claims(tmp_path / "x.pth", (4,), (1,))).read("x/data.pkl")
    with pytest.raises(UserError, match="a storage of 4 values that is not in the file"):
        open_weights(zipped_pickle(tmp_path / "x.pth", whole))
    with pytest.raises(UserError, match="big-endian"):
        open_weights(zipped_pickle(tmp_path / "x.pth", whole, **{"0": bytes(16), "byteorder": b"big"}))


@NEW_AND_OLD
def test_wherever_a_file_is_cut_it_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "x.pth", {"w": torch.randn(20), "b": torch.randn(2)}, zipped)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            open_weights(path).read()


def test_a_bit_that_flipped_is_told(tmp_path: Path) -> None:
    values = torch.randn(1000)
    path = saved(tmp_path / "x.pth", {"w": values})
    whole = path.read_bytes()
    at = whole.index(values.numpy().tobytes()[:64]) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(UserError, match="damaged or truncated"):
        open_weights(path).read()


def test_files_are_read_in_threads_at_once(tmp_path: Path) -> None:
    paths = [
        saved(tmp_path / f"{n}.pth", {"model": {"w": torch.full((1000,), float(n))}, "args": argparse.Namespace(n=n)})
        for n in range(8)
    ]
    results: dict[int, Any] = {}

    def work(n: int) -> None:
        for _ in range(20):
            opened = open_weights(paths[n])
            results[n] = (opened.metadata["args"], opened.read()["w"].unique().tolist())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: ({"n": n}, [n]) for n in range(8)}


def test_a_training_checkpoint_of_a_real_size_needs_a_fiftieth_of_the_steps_that_are_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitkit.weights.pickles.MOST_STEPS", 40_000)
    config = ViTConfig(embed_dim=8, depth=12, num_heads=1, mlp_dim=8, patch_size=(8, 8), image_size=(16, 16))
    model = VisionTransformer(config)
    model.init_weights(0)
    optimiser = torch.optim.AdamW([{"params": [p]} for p in model.parameters()])
    model(torch.zeros(1, 3, 16, 16)).sum().backward()
    optimiser.step()
    state = {"model": model.state_dict(), "optimizer": optimiser.state_dict()}
    begin = time.perf_counter()
    opened = open_weights(saved(tmp_path / "x.pth", state))
    assert time.perf_counter() - begin < 2
    assert opened.metadata["other_tensors"] == {"optimizer": 3 * 152}
    assert set(opened.read()) == set(model.state_dict())


def test_every_wrapper_is_documented_in_the_refusal(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        open_weights(saved(tmp_path / "x.pth", {}))
    assert ", ".join(WRAPPERS) in str(raised.value)
