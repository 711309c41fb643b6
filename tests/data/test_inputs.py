"""Images come in order, with their errors, and not all at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from conftest import write_images
from vitkit.data import inputs
from vitkit.data.inputs import read_inputs, spread
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import ImageError, Preprocess, load_input

RECORD = Preprocess((8, 8))


def test_in_order_with_errors_in_their_places(tmp_path: Path) -> None:
    write_images(tmp_path, (10, 200, 90), 7, 0)
    paths = sorted(tmp_path.iterdir())
    (tmp_path / "003.png").write_bytes(b"no image")
    found = list(read_inputs(paths, RECORD, workers=3))
    assert isinstance(found.pop(3), ImageError)
    expected = [to_tensor(load_input(path, RECORD)) for path in paths if path.name != "003.png"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert list(read_inputs([], RECORD)) == []


def test_few_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    read, lock = [], threading.Lock()

    def load(source: int, record: object, max_pixels: int) -> object:
        with lock:
            read.append(source)
        raise ImageError("counted")

    monkeypatch.setattr(inputs, "load_input", load)
    for number, _ in enumerate(read_inputs(range(1000), RECORD, workers=2)):  # type: ignore[arg-type]
        assert len(read) <= number + 1 + 4
    assert len(read) == 1000


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(3, 8, [0, 1, 2]), (8, 4, [0, 2, 4, 6]), (10, 3, [0, 3, 6]), (1, 1, [0])],
)
def test_spread(count: int, most: int, expected: list[int]) -> None:
    assert spread(count, most) == expected
