"""Engines in turn: every cell is measured in every round, and what cannot be measured is listed with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from small_models import made
from vitkit.bundle import Bundle
from vitkit.engines.measured import rounds
from vitkit.engines.measured.rounds import BASE, Plan, measure
from vitkit.zoo.load import load_model


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_model(made(tmp_path / "model", ("a", "b", "c")))


def run(bundle: Bundle, plan: Plan) -> tuple[rounds.Measured, list[str], list[tuple[float, str]]]:
    images = np.random.default_rng(0).standard_normal((20, 3, 16, 16), np.float32)
    said: list[str] = []
    shown: list[tuple[float, str]] = []
    return measure(bundle, plan, images, False, said.append, lambda *each: shown.append(each)), said, shown


def test_plain_pytorch_is_always_beside(bundle: Bundle) -> None:
    found, said, shown = run(bundle, Plan([("eager", "bf16"), ("eager", "int8")], [2, 1], 0.5, (4, 20), peaks=False))
    assert [(each.engine, each.precision, each.batch) for each in found.cells] == [
        ("eager", "fp32", 1), ("eager", "fp32", 2), ("eager", "bf16", 1), ("eager", "bf16", 2)
    ]  # fmt: skip
    for each in found.cells:
        assert each.rounds >= 3
        assert each.calls >= each.rounds
        assert each.images_per_second > 0
        assert each.p50_ms <= each.p99_ms
        assert each.ours
        assert (each.memory_mb or 100) > 50
        assert each.share_of_peak is None
    assert [each.speedup for each in found.cells[:2]] == [1.0, 1.0]
    assert found.agreements[BASE] == (20, False, 1.0, 0.0, 0.0)
    assert 0 < found.agreements["eager", "bf16"].difference < 0.5
    assert [each[:3] for each in found.left_out] == [("eager", "int8", None)]
    assert "computes in fp32, bf16, not in int8" in found.left_out[0].reason
    assert said == ["making eager fp32", "making eager bf16", "making eager int8"]
    parts = [part for part, _ in shown]
    assert all(0 <= part <= 1 for part in parts)
    assert parts == sorted(parts)
    assert bundle.place is not None
    assert not list(bundle.place.glob("*.npy"))


def test_batches_that_take_too_long_are_left_out_with_a_reason(bundle: Bundle) -> None:
    found, _, _ = run(bundle, Plan([], [1, 4096], 0.05, (4, 20), peaks=False))
    assert [each.batch for each in found.cells] == [1]
    assert [each[:3] for each in found.left_out] == [("eager", "fp32", 4096)]
    assert "too long for the time there is: give more --seconds" in found.left_out[0].reason


def test_where_memory_is_short_engines_are_measured_one_after_the_other(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_free_memory", lambda: 2**20)
    found, _, _ = run(bundle, Plan([("eager", "bf16")], [1], 0.3, (4, 20), peaks=False))
    assert not found.together
    assert [(each.precision, each.batch) for each in found.cells] == [("fp32", 1), ("bf16", 1)]
    assert all(each.speedup for each in found.cells)
    assert ("eager", "bf16") in found.agreements


def test_an_engine_that_ends_is_listed_and_the_others_go_on(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = rounds.Apart.ask

    def dying(self: rounds.Apart, request: dict[str, object], timeout: float) -> dict[str, object]:
        if request["do"] == "make":
            self.precision = request["precision"]  # type: ignore[attr-defined]
        if request["do"] == "time" and self.precision == "bf16":  # type: ignore[attr-defined]
            asked.append("bf16")
            if len(asked) == 3:  # in the second round
                self._process.kill()
        return ask(self, request, timeout)

    monkeypatch.setattr(rounds.Apart, "ask", dying)
    found, _, _ = run(bundle, Plan([("eager", "bf16")], [1], 0.3, (4, 20), peaks=False))
    assert [each[:3] for each in found.left_out] == [("eager", "bf16", 1)]
    assert "its process ended with -9" in found.left_out[0].reason
    assert {each.precision: each.rounds for each in found.cells}["fp32"] >= 3


def test_the_share_of_the_peak_is_of_the_machine_in_the_same_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PEAK", 0.01)
    found, said, _ = run(bundle, Plan([], [1], 0.2, (4, 20)))
    assert said[0] == "measuring the machine's matrix products"
    (cell,) = found.cells
    flops = 2 * rounds.forward_macs(bundle.config)
    assert cell.share_of_peak == pytest.approx(cell.images_per_second * flops / (1e9 * found.peaks["fp32"].gflops))
    assert 0 < cell.share_of_peak < 1
