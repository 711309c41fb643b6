"""How much of an engine's rate arrives over HTTP: `vit serve` against the same engine with decoding in one process.

    python benchmarks/serving.py [--model M] [--precision fp32] [--seconds 8] [--rounds 3] [--skip overload,memory]

Clients are a process of their own: keep-alive connections that send prebuilt bodies and wait for each answer. They share the
processors with the server, so their processor time is measured, shown, and subtracted: the corrected rate is images over
(seconds - clients' seconds / processors). Bare and served rounds alternate; ratios are of neighbouring rounds, the median counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

PHOTOS = 64
HERE = Path(__file__).resolve()


def photos(folder: Path) -> list[Path]:
    """JPEG files of 500x375 pixels and about 75 KB, as photos of data sets are."""
    random, found = np.random.default_rng(0), []
    for number in range(PHOTOS):
        coarse = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        noise = random.normal(0, 14, (375, 500, 3))
        path = folder / f"{number:02d}.jpg"
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(path, quality=85)
        found.append(path)
    return found


def made_model(folder: Path) -> Path:
    """ViT-Ti/16 at 224 with drawn weights."""
    import torch

    from vitkit.bundle import Bundle
    from vitkit.data.pixels import Preprocess
    from vitkit.models.vit import VisionTransformer, ViTConfig

    model = VisionTransformer(
        ViTConfig(
            embed_dim=192,
            depth=12,
            num_heads=3,
            mlp_dim=768,
            patch_size=(16, 16),
            image_size=(224, 224),
            num_classes=1000,
        )
    )
    model.init_weights(0)
    assert model.head is not None
    model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return Bundle(model.eval(), Preprocess((224, 224), crop_fraction=0.875)).save(folder)


def bare(model: str, engine: str, precision: str, folder: Path) -> None:
    """A process that times the engine with decoding whenever a line with a number of images comes."""
    from vitkit.engines.opened import open_for_answers
    from vitkit.engines.stream import stream

    opened = open_for_answers(model, engine, precision)
    files = sorted(folder.glob("*.jpg"))

    def run(count: int) -> list[Any]:
        sources = [files[i % len(files)].read_bytes() for i in range(count)]
        return [opened.answers.answer(row, 5) for row in stream(opened.engine, opened.preprocess, sources)]

    answers = run(len(files))
    print(json.dumps([[found.answer, found.probability] for found in answers]), flush=True)
    for line in sys.stdin:
        count, began, before = int(line), time.perf_counter(), time.process_time()
        run(count)
        print(json.dumps([count / (time.perf_counter() - began), (time.process_time() - before) / count]), flush=True)


class Client:
    """One keep-alive connection that has at most one request under way."""

    def __init__(self, port: int, bodies: list[bytes], expected: list[list[Any]] | None) -> None:
        self.port, self.bodies, self.expected = port, bodies, expected
        self.times: list[tuple[int, float]] = []
        self.wrong = 0

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, number: int) -> None:
        began = time.perf_counter()
        self.writer.write(self.bodies[number % len(self.bodies)])
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        body = await self.reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))  # type: ignore[index]
        self.times.append((status, time.perf_counter() - began))
        if status == 200 and self.expected:
            found = json.loads(body)["predictions"][0]
            self.wrong += [found["prediction"], found["probability"]] != self.expected[number % len(self.bodies)]


def bodies_of(folder: Path, name: str, port: int) -> list[bytes]:
    found = []
    for path in sorted(folder.glob("*.jpg")):
        data = path.read_bytes()
        head = (
            f"POST /v1/models/{name}:predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        found.append(head.encode() + data)
    return found


def clients(port: int, name: str, folder: Path, expected: list[list[Any]] | None) -> None:
    """A process of clients; each line of JSON on stdin is one round."""

    async def closed(count: int, connections: int, bodies: list[bytes]) -> list[Client]:
        """Each client asks again as soon as it is answered."""
        found = [Client(port, bodies, expected) for _ in range(connections)]
        await asyncio.gather(*(each.connect() for each in found))
        numbers = iter(range(count))

        async def work(each: Client) -> None:
            for number in numbers:
                await each.ask(number)

        await asyncio.gather(*map(work, found))
        return found

    async def paced(rate: float, seconds: float, connections: int, bodies: list[bytes]) -> list[Client]:
        """Requests come at a rate, whether or not earlier ones are answered, as long as a connection is free."""
        found = [Client(port, bodies, expected) for _ in range(connections)]
        await asyncio.gather(*(each.connect() for each in found))
        free, began, sent = list(found), time.perf_counter(), 0
        under_way = set()

        async def work(each: Client, number: int) -> None:
            await each.ask(number)
            free.append(each)

        while (now := time.perf_counter() - began) < seconds:
            while sent < now * rate and free:
                task = asyncio.ensure_future(work(free.pop(), sent))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                sent += 1
            sent = max(sent, int(now * rate))  # what had no connection is not made up for
            await asyncio.sleep(0.004)
        await asyncio.gather(*under_way)
        return found

    bodies = bodies_of(folder, name, port)
    for line in sys.stdin:
        asked = json.loads(line)
        kind = asked.pop("kind")
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        done = asyncio.run((closed if kind == "closed" else paced)(**asked, bodies=bodies))
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        times = [each for client in done for each in client.times]
        told = {
            "seconds": seconds,
            "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "statuses": Counter(status for status, _ in times),
            "wrong": sum(client.wrong for client in done),
            "milliseconds": {
                status: [
                    round(1000 * float(np.quantile([t for s, t in times if s == status], q)), 1) for q in (0.5, 0.99, 1)
                ]
                for status in {status for status, _ in times}
            },
        }
        print(json.dumps(told), flush=True)


class Beside:
    """A process that answers each line with a line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, value: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()
        return self.line()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(20)


@contextlib.contextmanager
def served(model: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """`vit serve` with the port that it took and its process."""
    command = [sys.executable, "-m", "vitkit", "serve", f"m={model}", "--port", "0", "--log-format", "json", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"serving +http://127.0.0.1:(\d+)", line):
                    yield int(found[1]), process.pid
                    break
            else:
                log.seek(0)
                raise SystemExit(log.read().decode())
        finally:
            process.terminate()
            code = process.wait(60)
            print(f"server's exit code: {code}")


def resident(process: int) -> float:
    """MB of a process."""
    import psutil

    return psutil.Process(process).memory_info().rss / 2**20


def used(process: int) -> float:
    """Processor seconds of a process."""
    import psutil

    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--engine", default="tuned")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--skip", default="")
    parser.add_argument("--requests", type=int, default=10_000, help="of the memory test")
    parser.add_argument("--role")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--port", type=int)
    asked = parser.parse_args()
    if asked.role == "bare":
        bare(asked.model, asked.engine, asked.precision, asked.folder)
    elif asked.role == "clients":
        clients(asked.port, "m", asked.folder, json.loads((asked.folder / "expected.json").read_text()))
    else:
        compare(asked)


def compare(asked: argparse.Namespace) -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        found = photos(folder)
        model = asked.model or str(made_model(folder / "model"))
        size = sum(path.stat().st_size for path in found) / len(found) / 1000
        print(
            f"{asked.engine} {asked.precision}, {len(found)} photos of {size:.0f} KB, {asked.clients} clients, {cores} processors"
        )
        engine = ["--engine", asked.engine, "--precision", asked.precision]
        beside = Beside("--role", "bare", "--model", model, "--folder", str(folder), *engine)
        (folder / "expected.json").write_text(json.dumps(beside.line()))
        rate, _ = beside.ask(200)
        with served(model, *engine) as (port, process):
            asking = Beside("--role", "clients", "--port", str(port), "--folder", str(folder))
            count = max(asked.clients, int(rate * asked.seconds))
            asking.ask({"kind": "closed", "count": count // 4, "connections": asked.clients})
            ratios, plain, rates = [], [], []
            for _ in range(asked.rounds):
                before = beside.ask(count)
                begin = used(process)
                told = asking.ask({"kind": "closed", "count": count, "connections": asked.clients})
                served_each = (used(process) - begin) / count
                after = beside.ask(count)
                alone, alone_each = np.add(before, after) / 2
                raw, corrected = count / told["seconds"], count / (told["seconds"] - told["cpu"] / cores)
                assert told["statuses"] == {"200": count}, told
                assert not told["wrong"], told
                print(
                    f"bare {alone:6.1f} /s | served {raw:6.1f} ({raw / alone:.1%}), corrected {corrected:6.1f} "
                    f"({corrected / alone:.1%}); clients' CPU {told['cpu']:.2f} of {cores * told['seconds']:.1f} s; "
                    f"p50, p99, most: {told['milliseconds']['200']} ms; lost or wrong 0 of {count}; "
                    f"processor time an image: bare {1000 * alone_each:.2f} ms, served {1000 * served_each:.2f} ms "
                    f"({alone_each / served_each:.1%})"
                )
                ratios.append(corrected / alone)
                plain.append(raw / alone)
                rates.append(raw)
            print(f"median: {median(ratios):.1%} corrected, {median(plain):.1%} as it is")
            if "overload" not in asked.skip:
                told = asking.ask(
                    {"kind": "paced", "rate": 5 * median(rates), "seconds": asked.seconds, "connections": 400}
                )
                good = told["statuses"].get("200", 0)
                print(
                    f"5 times the load: {told['statuses']}, answered {good / told['seconds']:.1f} images/s, corrected "
                    f"{good / (told['seconds'] - told['cpu'] / cores):.1f}; clients' CPU {told['cpu']:.2f} of "
                    f"{cores * told['seconds']:.1f} s; p50, p99, most by status: {told['milliseconds']}; wrong {told['wrong']}"
                )
            if "memory" not in asked.skip:
                first = 1000
                asking.ask({"kind": "closed", "count": first, "connections": asked.clients})
                begin = resident(process)
                asking.ask({"kind": "closed", "count": asked.requests - first, "connections": asked.clients})
                print(
                    f"memory after {first:,} requests {begin:.0f} MB, after {asked.requests:,} {resident(process):.0f} MB"
                )
            asking.close()
        beside.close()


if __name__ == "__main__":
    main()
