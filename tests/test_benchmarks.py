"""What the benchmark programs compute of their measurements, and how they talk to their sides; no speed is measured here."""

import csv
import importlib
import sys
from pathlib import Path

import pytest

from vitkit.models.vit import ViTConfig

PROGRAMS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def program(monkeypatch):
    """Import a benchmark program by its name; none stays imported."""
    monkeypatch.syspath_prepend(str(PROGRAMS))
    names = ("turns", "sides", "inference", "pipeline", "scaling", "tokens", "plots")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def rounds():
    """Three rounds of one cell: the base slows down in the last, and the other side with it."""
    rates = {"timm-fp32": (10, 12, 5), "vitkit-tuned-fp32": (20, 30, 10), "peak-fp32": (400,), "timm-bf16": (30,)}
    return [
        {
            "size": "Ti", "batch": 8, "round": number, "side": side, "rate": rate, "difference": 1e-6, "mb": 500,
            "kind": "ours" if side.startswith("vitkit") else "peer", "library": "torch",
        }
        for side, each in rates.items() for number, rate in enumerate(each)
    ]  # fmt: skip


def test_ratio_is_the_median_of_one_rounds_two_rates(program, rounds):
    inference = program("inference")
    found = {row["side"]: row for row in inference.summarise(rounds)}
    assert found["vitkit-tuned-fp32"]["ratio"] == 2.0
    assert found["vitkit-tuned-fp32"]["high"] == 2.25
    assert found["vitkit-tuned-fp32"]["rate"] == 20
    assert found["timm-bf16"]["ratio"] == 3.0
    assert found["timm-bf16"]["rounds"] == 1
    assert "peak-fp32" not in found


def test_share_of_the_peak_counts_two_operations_a_multiply_add(program, rounds):
    inference = program("inference")
    flops = importlib.import_module("vitkit.analysis.flops")
    for size, giga in inference.GFLOP.items():
        assert 2 * flops.forward_macs(ViTConfig.named(f"{size}/16")) / 1e9 == pytest.approx(giga, abs=6e-5)
    found = {row["side"]: row for row in inference.summarise(rounds)}
    assert found["vitkit-tuned-fp32"]["peak"] == pytest.approx(20 * 2.5074 / 400)
    assert found["timm-bf16"]["peak"] is None


def test_tables_say_what_is_ours(program, rounds):
    inference = program("inference")
    found = inference.summarise(rounds)
    text = inference.markdown(found)
    assert "| timm-fp32, images/s | peer | 10.0 | |" in text
    assert "| **vitkit-tuned-fp32** | ours | 2.00 | 2.00 |" in text
    assert "geometric mean 2.00 over 1 cells, least 2.00 (Ti b8)" in inference.goals(found)


def test_documenting_sides_get_the_rounds_that_fit(program):
    inference = program("inference")
    ready = {"timm-fp32": {"call": 1.0}, "timm-bf16": {"call": 0.5}, "jax-fp32": {"call": 0.36}}
    every = set(range(15))
    assert inference.shares(ready, 15, 0.15, None) == dict.fromkeys(ready, every)
    turns = inference.shares(ready, 15, 0.15, 5.0)  # a second a round
    assert turns["timm-fp32"] == every
    assert turns["timm-bf16"] == turns["jax-fp32"] == {2, 5, 8, 11, 14}
    assert inference.shares(ready, 15, 0.15, 2.0)["jax-fp32"] == set()


def test_rounds_survive_the_file(program, rounds, tmp_path):
    inference = program("inference")
    with open(tmp_path / "rounds.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, inference.FIELDS, restval="")
        writer.writeheader()
        writer.writerows(rounds)
    assert inference.markdown(inference.summarise(inference.read([tmp_path / "rounds.csv"]))) == inference.markdown(
        inference.summarise(rounds)
    )


def test_a_side_answers_refuses_and_dies_with_a_reason(program, tmp_path):
    turns = program("turns")
    script = tmp_path / "side.py"
    script.write_text(
        "import os, turns\n"
        "def answer(request):\n"
        "    print('not an answer')\n"
        "    if request['x'] == 0: raise turns.SideError('not with 0')\n"
        "    if request['x'] == 1: os._exit(3)\n"
        "    return {'y': 10 / request['x'] if request['x'] != 3 else 1 / 0}\n"
        "turns.serve(answer)\n"
    )
    side = turns.Side("one", [sys.executable, str(script)], tmp_path / "logs", PYTHONPATH=str(PROGRAMS))
    try:
        assert side.ask(x=2) == {"y": 5.0}
        with pytest.raises(turns.SideError, match=r"^not with 0$"):
            side.ask(x=0)
        with pytest.raises(turns.SideError, match="ZeroDivisionError: division by zero"):
            side.ask(x=3)
        with pytest.raises(turns.SideError, match="died or hung"):
            side.ask(x=1)
    finally:
        side.close()
    assert "not an answer" in side.log.read_text()


def test_pipeline_compares_with_both_peers(program):
    pipeline = program("pipeline")
    rates = {"timm-fp32": (50, 40), "transformers-fp32": (25, 50), "vitkit-eager-fp32": (100, 100)}
    rows = [
        {"what": "steady state", "round": str(n), "side": side, "rate": str(rate), "mb": "900", "same": "272"}
        for side, each in rates.items() for n, rate in enumerate(each, 1)
    ]  # fmt: skip
    found = {row["side"]: row for row in pipeline.summarise(rows)}
    assert found["vitkit-eager-fp32"]["against_timm"] == 2.25
    assert found["vitkit-eager-fp32"]["against_transformers"] == 3.0
    assert "| vitkit-eager-fp32 | 100.0 | 2.25 | 3.00 | 900 | 272 |" in pipeline.markdown(list(found.values()))


def test_scaling_tells_memory_above_a_small_run(program):
    scaling = program("scaling")
    rows = [
        {"what": "predict", "engine": "eager", "images": str(n), "rate": "2000", "mb": str(400 + n / 1000)}
        for n in (scaling.FEW, 1000, 100_000)
    ]
    text = scaling.markdown(scaling.summarise(rows))
    assert "| predict | eager | 100,000 | 2,000 | 500 | +100 |" in text
    assert "| 16 |" not in text


def test_attention_is_half_of_the_multiply_adds_at_six_widths_of_tokens(program):
    tokens = program("tokens")
    config = ViTConfig.named("Ti/16", image_size=(544, 544))  # 1,157 tokens, of 6 * 192 = 1,152
    assert tokens.counted_share(config) == pytest.approx(0.5, abs=0.01)
    assert tokens.crossover([(64, 0.1), (128, 0.3), (256, 0.7)]) == pytest.approx(192)
    assert tokens.crossover([(64, 0.1), (128, 0.3)]) is None


def test_tokens_measures_each_way(program):
    tokens = program("tokens")
    config, ways = tokens.ways("Ti", 32, ["eager"])
    assert config.grid == (2, 2)
    assert set(ways) == {tokens.NONE, tokens.FUSED, tokens.PLAIN}
    for way in ways.values():
        way()
