"""Damaged files of weights through the readers: each must be read or refused with a UserError, quickly and in bounded memory.

    python benchmarks/fuzz_weights.py [--count 10000] [--seed 0]

Every kind of file is made small, then bits are flipped, bytes and numbers exchanged, parts cut, doubled and spliced. Runs
with a limit on its memory and a clock over each file; says how many were read and refused, and exits 1 at the first other end.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from vitkit.config import UserError
from vitkit.weights.files import open_weights

MEMORY = 1 << 30  # bytes of address space beyond those of the start
SECONDS = 20  # for one file, the machine may be busy
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
WORDS = (b"F32", b"F64", b"BF16", b"BOOL", b"I64", b"F4", b"<f4", b">f8", b"|O8", b"|V2", b"<U9", b"FloatStorage",
         b"HalfStorage", b"LongStorage", b"float32", b"OrderedDict", b"Namespace", b"scalar", b"dtype", b"__metadata__",
         b"data_offsets", b"shape", b"descr", b"null", b"[]", b"{}", b"-1", b"1e999", b"true", b"..", b"\x00")  # fmt: skip


def seeds() -> dict[str, dict[str, bytes]]:
    """Sound files, by kind: the first of each is the one that is opened, the others lie beside it."""
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "head.weight": torch.randn(3, 4, generator=rng),
        "norm.bias": torch.randn(5, generator=rng).half(),
        "bf": torch.randn(2, 2, generator=rng).bfloat16(),
        "steps": torch.arange(3),
        "scalar": torch.tensor(1.5),
        "none": torch.zeros(0, 2),
        "mask": torch.tensor([True, False]),
    }
    arrays = {
        "embedding/kernel": np.ones((2, 3), np.float32),
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "b": np.zeros(4, "V2"),
        "big": np.arange(3, dtype=">f4"),
        "s": np.float32(3),
    }
    arguments = argparse.Namespace(lr=np.float64(0.1), names=["a", {"b": (1, 2.5, None)}], n=10**30, out=Path("a/b"))
    tree = {
        "model": collections.OrderedDict(tensors, tied=tensors["head.weight"], part=tensors["head.weight"][1:, ::2]),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "args": arguments,
        "epoch": 3,
        "rng": np.arange(3),
    }
    plain, packed, new, old, small = (io.BytesIO() for _ in range(5))
    np.savez(plain, **arrays)
    np.savez_compressed(packed, **arrays)
    torch.save(tree, new)
    torch.save(tree, old, _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"w": torch.nn.Parameter(torch.ones(2, 2))}}, small)
    one, two = save({"a": torch.ones(2), "b": torch.ones(3)}), save({"c": torch.ones(2, 2)})
    index = {
        "metadata": {"total_size": 36},
        "weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"},
    }
    shards = {"1.safetensors": one, "2.safetensors": two}
    return {
        "safetensors": {"x.safetensors": save(tensors, {"format": "pt"})},
        "npz": {"x.npz": plain.getvalue()},
        "packed npz": {"x.npz": packed.getvalue()},
        "torch": {"x.pth": new.getvalue()},
        "small torch": {"x.pth": small.getvalue()},
        "older torch": {"x.pth": old.getvalue()},
        "index": {"m.safetensors.index.json": json.dumps(index).encode(), **shards},
        "shard": {"m.safetensors.index.json": json.dumps(index).encode(), **shards},
    }


def flip(data: bytearray, rng: random.Random, _: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def exchange(data: bytearray, rng: random.Random, _: bytes) -> None:
    for _ in range(rng.choice((1, 1, 4))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def cut(data: bytearray, rng: random.Random, _: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def remove(data: bytearray, rng: random.Random, _: bytes) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 8, 64))]


def double(data: bytearray, rng: random.Random, _: bytes) -> None:
    at, to = rng.randrange(len(data)), rng.randrange(len(data))
    data[to:to] = data[at : at + rng.choice((1, 8, 64, 512))]


def splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    at, begin = rng.randrange(len(data)), rng.randrange(len(other))
    length = rng.choice((4, 16, 128, len(other)))
    data[at : at + rng.choice((0, length))] = other[begin : begin + length]


def number(data: bytearray, rng: random.Random, _: bytes) -> None:
    """A whole number in binary: sizes and offsets of zip, of pickles and of the safetensors header."""
    width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data))
    data[at : at + width] = (rng.choice(NUMBERS) & (256**width - 1)).to_bytes(
        width, rng.choice(("little", "little", "big"))
    )


def digits(data: bytearray, rng: random.Random, _: bytes) -> None:
    """A number written in digits: shapes and offsets of JSON and of array headers."""
    found = list(re.finditer(rb"\d+", data))
    if found:
        begin, end = rng.choice(found).span()
        data[begin:end] = rng.choice((b"-1", b"9" * 5000, b"1e9", *(str(n).encode() for n in NUMBERS)))


def word(data: bytearray, rng: random.Random, _: bytes) -> None:
    found = list(re.finditer(rb"[A-Za-z_|<>][A-Za-z0-9_]{1,20}", data))
    if found:
        begin, end = rng.choice(found).span()
        data[begin:end] = rng.choice(WORDS)


def opcode(data: bytearray, rng: random.Random, _: bytes) -> None:
    """An opcode of pickle's, with whatever follows as its argument."""
    data[rng.randrange(len(data))] = rng.choice(
        b"()NKMJXcRbutsae}]q.Q0123hjrl\x80\x81\x82\x85\x86\x87\x88\x8a\x8b\x8c\x93\x94\x95GdIiop"
    )


MUTATIONS: tuple[Callable[[bytearray, random.Random, bytes], None], ...] = (
    flip, flip, exchange, cut, remove, double, splice, number, number, digits, digits, word, opcode,
)  # fmt: skip


def repack(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Mutate a member of a zip archive and write a sound archive around it: damage behind right checksums."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(written, "w") as target:
        names = source.namelist()
        inner = [name for name in names if name.endswith(("data.pkl", ".npy"))]
        chosen = rng.choice(inner if rng.random() < 0.8 else names)
        for name in names:
            content = source.read(name)
            if name == chosen:
                content = mutated(content, rng, other) if content else b"x"
            target.writestr(rng.choice((name, name.upper())) if rng.random() < 0.01 else name, content)
    return written.getvalue()


def mutated(data: bytes, rng: random.Random, other: bytes) -> bytes:
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        if new:
            rng.choice(MUTATIONS)(new, rng, other)
    return bytes(new)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kinds = seeds()
    folder = Path(tempfile.mkdtemp())
    for files in kinds.values():  # the sound ones are read, and whatever is imported late is imported
        lay(folder, files)
        open_weights(folder / next(iter(files))).read()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends: collections.Counter[str] = collections.Counter()
    slowest, begin = 0.0, time.perf_counter()
    for number_ in range(arguments.count):
        rng = random.Random(f"{arguments.seed}/{number_}")
        kind = list(kinds)[number_ % len(kinds)]
        files = dict(kinds[kind])
        name = "1.safetensors" if kind == "shard" else next(iter(files))
        other = next(iter(kinds[rng.choice(list(kinds))].values()))
        again = files[name][:2] == b"PK" and rng.random() < 0.5
        files[name] = (repack if again else mutated)(files[name], rng, other)
        lay(folder, files)
        signal.alarm(SECONDS)  # its default action ends the process
        start = time.perf_counter()
        try:
            for tensor in open_weights(folder / next(iter(files))).read().values():
                tensor.float().sum()
            ends["read"] += 1
        except UserError as error:
            ends["refused"] += 1
            str(error).encode()
        except BaseException:
            shutil.copytree(folder, keep := Path(tempfile.mkdtemp()), dirs_exist_ok=True)
            print(f"{kind}, number {number_}, kept in {keep}:")
            traceback.print_exc(file=sys.stdout)
            return 1
        finally:
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - start)
    shutil.rmtree(folder)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    facts = {**ends, "seconds": time.perf_counter() - begin, "slowest": slowest, "grown_mib": grown}
    print(json.dumps({key: round(value, 3) for key, value in facts.items()}))
    return 0


def lay(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    sys.exit(main())
