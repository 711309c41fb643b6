"""Images from files through an engine, in order, with bounded memory. Imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np

from vitkit.answers import Outputs
from vitkit.data.containers import ImageSource
from vitkit.data.official import load_view
from vitkit.data.pixels import MAX_PIXELS, ImageError, Preprocess, load_input, to_planes
from vitkit.engines.engine import Engine

__all__ = ["MANY", "Sources", "inputs_of", "stream"]

Array = np.ndarray[Any, Any]
Loaded = Array | ImageError
MANY = 200  # images from which several are computed at once: comparing whether that changes a digit costs less than it saves


class Sources(Protocol):
    """Images that are asked for one after the other: a list, or what need not be in memory at once."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ImageSource]: ...


def stream(
    engine: Engine,
    record: Preprocess,
    sources: Sources,
    *,
    workers: int = 2,
    mirror: bool = False,
    max_pixels: int = MAX_PIXELS,
    view: str = "own",
) -> Iterator[Outputs | ImageError]:
    """Yield each image's logits (O,) and features (D,) in input order, or the error of an image that cannot be used.

    Images are decoded in threads ahead of the model; at most a few groups are in memory. ``mirror`` swaps left and right;
    ``view`` is how images are fitted, see `vitkit.data.official`.
    """

    def load(source: ImageSource) -> Loaded:
        try:
            image = load_view(source, record, view, max_pixels)
            return to_planes(image[:, ::-1] if mirror else image)
        except ImageError as error:
            return error

    def compute(loading: Sequence[Future[Loaded]]) -> list[Outputs | ImageError]:
        loaded = [future.result() for future in loading]
        good = [image for image in loaded if not isinstance(image, ImageError)]
        results = zip(*engine.outputs_of_group(np.stack(good)), strict=True) if good else iter(())
        return [image if isinstance(image, ImageError) else Outputs(*next(results)) for image in loaded]

    size = max(engine.group, engine.together if len(sources) >= MANY else 1)
    ahead = 2 * engine.threads + -(-2 * workers // size)  # groups
    queue: deque[Future[list[Outputs | ImageError]]] = deque()
    with ThreadPoolExecutor(workers) as readers:
        waiting = iter(sources)
        try:
            while group := list(islice(waiting, size)):
                queue.append(engine.pool.submit(compute, [readers.submit(load, source) for source in group]))
                if len(queue) >= ahead:
                    yield from queue.popleft().result()
            while queue:
                yield from queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()


def inputs_of(
    record: Preprocess, sources: Sequence[ImageSource], workers: int = 2, max_pixels: int = MAX_PIXELS
) -> list[Loaded]:
    """Each image as an engine takes it, float32 (C, H, W), or its error; all of them in memory."""

    def load(source: ImageSource) -> Loaded:
        try:
            return to_planes(load_input(source, record, max_pixels))
        except ImageError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(load, sources))
