"""Queues of images: order, groups, errors of one image, room, and work that nobody waits for."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from live import Gate
from pictures import encoded
from vitkit.answers import Prediction
from vitkit.server.batching import Batcher
from vitkit.server.errors import Refused
from vitkit.server.limits import Limits

LIGHT, DARK = (encoded(Image.new("RGB", (8, 8), (value,) * 3)) for value in (250, 5))


class Seen:
    def __init__(self) -> None:
        self.groups: list[int] = []

    def computed(self, images: int, seconds: float) -> None:
        assert seconds >= 0
        self.groups.append(images)


def answered(results: list[Any]) -> list[str]:
    return [found.answer if isinstance(found, Prediction) else found.code for found in results]


def with_queue(engine: Gate, limits: Limits, work: Any, workers: int = 2) -> Any:
    """The result of ``work(queue, seen)`` in an event loop."""

    async def run() -> Any:
        seen = Seen()
        with ThreadPoolExecutor(workers) as readers:
            queue = Batcher(engine.ready(), readers, workers, limits, seen)
            try:
                return await asyncio.wait_for(work(queue, seen), 20)
            finally:
                engine.gate.set()

    return asyncio.run(run())


async def quiet(queue: Batcher, pending: int = 0) -> None:
    while queue.pending != pending:
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("threads", [1, 3])
def test_each_image_gets_its_own_answer_in_the_order_of_its_request(threads: int) -> None:
    async def work(queue: Batcher, seen: Seen) -> None:
        patterns = [[LIGHT], [DARK, LIGHT, b"no image", DARK], [DARK] * 9, [LIGHT, b""]]
        done = [queue.submit(pattern, 1) for pattern in patterns]
        found = [answered(await each.done) for each in done]
        expected = {LIGHT: "light", DARK: "dark"}
        assert found == [[expected.get(one, "unreadable_image") for one in pattern] for pattern in patterns]
        assert sum(seen.groups) == 14
        await quiet(queue)

    with_queue(Gate(threads=threads, open=True), Limits(), work)


def test_what_arrives_while_a_group_is_computed_makes_the_next_groups() -> None:
    engine = Gate(together=4)

    async def work(queue: Batcher, seen: Seen) -> None:
        first = queue.submit([LIGHT], 1)
        while not engine.waiting:
            await asyncio.sleep(0.005)
        more = [queue.submit([DARK], 1) for _ in range(8)]
        await asyncio.sleep(0.2)  # all are decoded
        engine.gate.set()
        await asyncio.gather(first.done, *(each.done for each in more))
        assert seen.groups == [1, 4, 4]

    with_queue(engine, Limits(), work)


def test_images_in_one_request_share_the_threads_of_an_engine() -> None:
    engine = Gate(together=8, threads=2)

    async def work(queue: Batcher, seen: Seen) -> None:
        done = queue.submit([LIGHT] * 4, 1)
        await asyncio.sleep(0.2)
        engine.gate.set()
        await done.done
        assert max(seen.groups) < 4

    with_queue(engine, Limits(wait_ms=50), work)


def test_beyond_its_length_the_queue_refuses_and_later_takes_again() -> None:
    engine = Gate()

    async def work(queue: Batcher, seen: Seen) -> None:
        first = queue.submit([LIGHT, LIGHT], 1)
        with pytest.raises(Refused, match="2 images are waiting") as refused:
            queue.submit([DARK, DARK], 1)
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        queue.require_room()
        engine.gate.set()
        await first.done
        await quiet(queue)
        assert answered(await queue.submit([DARK, DARK], 1).done) == ["dark", "dark"]

    with_queue(engine, Limits(queue=3), work)


def test_a_queue_that_would_take_longer_than_a_request_may_is_full() -> None:
    engine = Gate(open=True)

    async def work(queue: Batcher, seen: Seen) -> None:
        await queue.submit([LIGHT], 1).done
        await quiet(queue)
        queue._compute_seconds, queue._read_seconds = 2.0, 0.0  # as of a slow model
        engine.gate.clear()
        first = queue.submit([LIGHT] * 3, 1)
        with pytest.raises(Refused) as refused:
            queue.require_room()
        assert int(refused.value.headers["Retry-After"]) in (3, 4)
        engine.gate.set()
        await first.done

    with_queue(engine, Limits(seconds=10), work)


def test_work_that_nobody_waits_for_is_not_computed() -> None:
    engine = Gate(together=1)

    async def work(queue: Batcher, seen: Seen) -> None:
        first = queue.submit([LIGHT], 1)
        while not engine.waiting:
            await asyncio.sleep(0.005)
        gone = queue.submit([DARK] * 20, 1)
        gone.drop()
        engine.gate.set()
        await first.done
        await quiet(queue)
        assert seen.groups == [1]
        assert not gone.done.done()

    with_queue(engine, Limits(), work)


def test_an_engine_that_fails_is_said_to_each_and_the_next_is_served() -> None:
    engine = Gate(open=True, fault=RuntimeError("secret"))

    async def work(queue: Batcher, seen: Seen) -> None:
        found = await queue.submit([LIGHT, DARK], 1).done
        assert [each.status for each in found] == [500, 500]
        assert "secret" not in found[0].message
        engine.fault = None
        assert answered(await queue.submit([DARK], 1).done) == ["dark"]

    with_queue(engine, Limits(), work)


def test_an_image_of_too_many_pixels_is_not_decoded() -> None:
    async def work(queue: Batcher, seen: Seen) -> None:
        (found,) = await queue.submit([encoded(Image.new("RGB", (200, 200)))], 1).done
        assert (found.status, found.code) == (413, "too_many_pixels")
        assert "200x200" in found.message
        assert "--" not in found.message

    with_queue(Gate(open=True), Limits(pixels=30_000), work)


def test_at_most_all_classes_are_named() -> None:
    async def work(queue: Batcher, seen: Seen) -> None:
        (found,) = await queue.submit([LIGHT], 100_000).done
        assert found.classes == ("light", "dark")

    with_queue(Gate(open=True), Limits(), work)
