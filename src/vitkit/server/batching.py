"""Images of many requests through one engine: decoded by some threads, computed in groups by others, answered in any order.

A group is taken as soon as a thread of the engine is free. It waits for no image that has not arrived, and at most
`Limits.wait_ms` for those that are being decoded; what arrives while others are computed makes the next group, so groups grow
with the load. An image's digits do not depend on its group (`engines.engine`).
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np

from vitkit.answers import Outputs, Prediction
from vitkit.data.pixels import ImageError, load_input, to_planes
from vitkit.engines.kept.ready import Ready
from vitkit.server.errors import Refused
from vitkit.server.limits import Limits

__all__ = ["Batcher", "Observer", "Work"]

Array = np.ndarray[Any, Any]
Result = Prediction | Refused
SMOOTH = 0.1  # part that the newest measurement has in a mean


class Observer(Protocol):
    """Who is told what a batcher does; called from its threads."""

    def computed(self, images: int, seconds: float) -> None: ...


class Work:
    """The images of one request. ``done`` holds one `Prediction` or `Refused` for each, in order."""

    def __init__(self, count: int, top: int, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[list[Result]] = loop.create_future()
        self.top, self.left, self.dropped = top, count, False
        self.results: list[Result | None] = [None] * count

    def drop(self) -> None:
        """Nobody waits for it any more: what was not computed yet is left out."""
        self.dropped = True


class _Item:
    __slots__ = ("content", "number", "pixels", "since", "work")

    def __init__(self, work: Work, number: int, content: bytes) -> None:
        self.work, self.number, self.content = work, number, content
        self.pixels: Array | None = None
        self.since = 0.0


class Batcher:
    """The queue of one model. `submit` and `full` belong to the event loop; all else to the threads, under one lock.

    Args:
        ready: the model.
        readers: threads that decode; several batchers may share them.
        workers: how many those are.
        limits: how many images may wait, and how long.
        observer: told of each group.
    """

    def __init__(self, ready: Ready, readers: Executor, workers: int, limits: Limits, observer: Observer) -> None:
        self.ready, self.limits = ready, limits
        self._readers, self._workers, self._observer = readers, workers, observer
        engine = ready.engine
        self._together, self._threads, self._pool = max(engine.group, engine.together), engine.threads, engine.pool
        self._ahead = 2 * self._together * self._threads + 2 * workers  # images in memory, decoded
        self._lock = threading.Lock()
        self._waiting: deque[_Item] = deque()
        self._decoded: deque[_Item] = deque()
        self._reading = self._computing = self._pending = 0
        self._alarm = False
        self._compute_seconds = self._read_seconds = 0.0  # of an image in one thread, running means
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def pending(self) -> int:
        """Images that are not answered yet."""
        return self._pending

    def seconds_ahead(self) -> float:
        """How long what is pending will take, by what it took lately."""
        return self._pending * (self._compute_seconds / self._threads + self._read_seconds / self._workers)

    def require_room(self, images: int = 1) -> None:
        """Refuse what would wait too long.

        Raises:
            Refused: 429 with the seconds after which to try again.
        """
        ahead = self.seconds_ahead()
        if self._pending + images <= self.limits.queue and ahead <= self.limits.seconds / 2:
            return
        raise Refused(
            429,
            "too_busy",
            f"{self._pending} images are waiting (at most {self.limits.queue} may); try again later.",
            {"Retry-After": str(max(1, math.ceil(ahead / 2)))},
        )

    def submit(self, contents: Sequence[bytes], top: int) -> Work:
        """Queue the encoded images of one request.

        Raises:
            Refused: 429, too many are waiting.
        """
        self.require_room(len(contents))
        self._loop = asyncio.get_running_loop()
        work = Work(len(contents), top, self._loop)
        with self._lock:
            self._pending += len(contents)
            self._waiting.extend(_Item(work, number, content) for number, content in enumerate(contents))
            self._fill()
        return work

    def _fill(self) -> None:
        while self._waiting and self._reading + len(self._decoded) < self._ahead:
            self._reading += 1
            self._readers.submit(self._read, self._waiting.popleft())

    def _read(self, item: _Item) -> None:
        began, result = time.perf_counter(), None
        try:
            if not item.work.dropped:
                item.pixels = to_planes(load_input(item.content, self.ready.preprocess, self.limits.pixels))
        except ImageError as error:
            result = unusable(error)
        except Exception as error:  # one image is no reason to stop reading
            result = _bug(error)
        item.content = b""
        item.since = now = time.perf_counter()
        with self._lock:
            self._reading -= 1
            if item.pixels is not None:
                self._read_seconds = _mean(self._read_seconds, now - began)
                self._decoded.append(item)
            else:
                self._finish(item, result)
            self._fill()
            self._dispatch()

    def _dispatch(self) -> None:
        """Give the engine what it can take: to a free thread a group or a part of one, to a busy one its next full group."""
        while self._decoded and self._computing < 2 * self._threads:
            found, free = len(self._decoded), self._threads - self._computing
            if free <= 0 and found < self._together:
                return
            size = min(self._together, math.ceil(found / free) if free > 0 else found)
            if size < self._together and self._reading and self._waits():
                return
            self._computing += 1
            self._pool.submit(self._compute, [self._decoded.popleft() for _ in range(size)])

    def _waits(self) -> bool:
        """Is the oldest decoded image still to wait for others? Then an alarm is set."""
        left = self._decoded[0].since + self.limits.wait_ms / 1000 - time.perf_counter()
        if left <= 0 or self._loop is None:
            return False
        if not self._alarm:
            self._alarm = True
            self._call(self._loop.call_later, left, self._ring)
        return True

    def _ring(self) -> None:
        with self._lock:
            self._alarm = False
            self._dispatch()
            self._fill()

    def _compute(self, items: list[_Item]) -> None:
        began = time.perf_counter()
        live = [item for item in items if not item.work.dropped]
        found: dict[_Item, Result] = {}
        try:
            if live:
                images = np.stack([item.pixels for item in live if item.pixels is not None])
                rows = zip(*self.ready.engine.outputs_of_group(images), strict=True)
                for item, row in zip(live, rows, strict=True):
                    found[item] = self._answer(Outputs(*row), item.work.top)
                seconds = time.perf_counter() - began
                self._observer.computed(len(live), seconds)
                self._compute_seconds = _mean(self._compute_seconds, seconds / len(live))
        except Exception as error:  # of this group; the next may be fine
            found = dict.fromkeys(live, _bug(error))
        with self._lock:
            self._computing -= 1
            for item in items:
                self._finish(item, found.get(item))
            self._dispatch()
            self._fill()

    def _answer(self, outputs: Outputs, top: int) -> Result:
        found = self.ready.answers.answer(outputs, min(top, self.ready.answers.num_classes))
        if not all(map(math.isfinite, found.probabilities)):
            return Refused(422, "not_finite", "the model computes values for this image that are not finite.")
        return found

    def _finish(self, item: _Item, result: Result | None) -> None:
        work, item.pixels = item.work, None
        work.results[item.number] = result
        work.left -= 1
        self._pending -= 1
        if not work.left and not work.dropped:
            self._call(_deliver, work)

    def _call(self, function: Callable[..., object], *arguments: Any) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def _deliver(work: Work) -> None:
    if not work.done.done():
        work.done.set_result([found for found in work.results if found is not None])


def _mean(before: float, newest: float) -> float:
    return newest if not before else before + SMOOTH * (newest - before)


def unusable(error: ImageError) -> Refused:
    """What a client is told of an image that cannot be used."""
    text = str(error).replace("--max-pixels N allows more", "send a smaller one")
    if "megapixels" in text:
        return Refused(413, "too_many_pixels", f"the image: {text}.")
    return Refused(422, "unreadable_image", f"the image {text}.")


def _bug(error: Exception) -> Refused:
    return Refused(500, "internal_error", f"a bug in the server: {type(error).__name__}.")
