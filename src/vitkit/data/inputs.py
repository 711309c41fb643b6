"""Images as a model's input, one after the other, decoded ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from torch import Tensor

from vitkit.data.containers import ImageSource
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import MAX_PIXELS, ImageError, Preprocess, load_input

__all__ = ["read_inputs", "spread"]


def read_inputs(
    sources: Sequence[ImageSource], record: Preprocess, *, workers: int = 2, max_pixels: int = MAX_PIXELS
) -> Iterator[Tensor | ImageError]:
    """Yield each image as (C, H, W) in the order of ``sources``, or the error of one that cannot be used.

    At most ``2 * workers`` are decoded ahead of the one that is asked for, so that memory does not grow with their number.
    """

    def read(source: ImageSource) -> Tensor | ImageError:
        try:
            return to_tensor(load_input(source, record, max_pixels))
        except ImageError as error:
            return error

    waiting, queue = iter(sources), deque[Future[Tensor | ImageError]]()
    with ThreadPoolExecutor(workers) as readers:
        try:
            queue.extend(readers.submit(read, source) for source in islice(waiting, 2 * workers))
            while queue:
                result = queue.popleft().result()
                queue.extend(readers.submit(read, source) for source in islice(waiting, 1))
                yield result
        finally:
            for future in queue:
                future.cancel()


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 .. count - 1, evenly spread, in order: data are often sorted by class."""
    taken = min(count, most)
    return [number * count // taken for number in range(taken)]
