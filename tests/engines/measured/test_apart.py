"""An engine in a process of its own: it answers, and however it ends, the one who asked learns why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from small_models import made
from vitkit.engines.measured.apart import Apart, ApartError, peak_memory
from vitkit.jobs.load import load


def images(folder: Path, count: int) -> tuple[np.ndarray, Path]:
    pixels = np.random.default_rng(0).standard_normal((count, 3, 16, 16), np.float32)
    np.save(folder / "images.npy", pixels)
    return pixels, folder / "images.npy"


def test_a_process_makes_times_and_answers(tmp_path: Path) -> None:
    model = made(tmp_path / "model", ("a", "b", "c"))
    pixels, file = images(tmp_path, 40)
    with Apart() as process:
        request = {
            "do": "make", "bundle": str(model), "place": None, "images": str(file), "engine": "eager", "precision": "fp32"
        }  # fmt: skip
        answer = process.ask(request, 60)
        assert answer["facts"]["name"] == "eager"
        assert answer["facts"]["ours"]
        timed = process.ask({"do": "time", "batch": 50, "seconds": 0, "calls": 3}, 60)
        assert len(timed["times"]) == 3
        assert timed["memory"] >= answer["memory"] > 10**7
        process.ask({"do": "outputs", "out": str(tmp_path / "out.npy"), "count": 33}, 60)
        bundle = load(model, engine="eager")
        assert bundle.run is not None
        assert np.array_equal(np.load(tmp_path / "out.npy"), bundle.run(pixels[:33]).logits)
        with pytest.raises(ApartError, match="computes in fp32, bf16, not in int8"):
            process.ask({**request, "precision": "int8"}, 60)
        with pytest.raises(ApartError, match="KeyError"):
            process.ask({"do": "dance"}, 60)
        assert not process.ended


def test_the_end_of_a_process_is_told() -> None:
    with Apart() as process:
        process._process.kill()
        with pytest.raises(ApartError, match=r"ended with -9 .killed: perhaps there was not enough memory"):
            process.ask({"do": "peak", "precision": "fp32", "seconds": 0.1}, 60)
        assert process.ended


def test_what_takes_too_long_is_stopped() -> None:
    with Apart() as process:
        with pytest.raises(ApartError, match="it took longer than 0 s"):
            process.ask({"do": "peak", "precision": "fp32", "seconds": 60}, 0.01)
        assert process.ended


def test_the_memory_of_this_process_is_known() -> None:
    assert (peak_memory() or 10**8) > 10**7
