"""`vit doctor --perf`: every choice that decides speed, with its reason and its override."""

from __future__ import annotations

import json

import pytest

from vitkit.cli.main import main
from vitkit.engines.book import ENGINES
from vitkit.jobs import doctor as module


def test_perf_lists_every_choice(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEAK", 0.01)
    assert main(["doctor", "--perf", "--json"]) == 0
    captured = capsys.readouterr()
    perf = json.loads(captured.out)["perf"]
    assert [each["name"] for each in perf["engines"]] == list(ENGINES)
    assert perf["peaks"]["fp32"]["gflops"] > 0
    assert perf["machine"]["cpus"] >= 1
    whats = [each["what"] for each in perf["decisions"]]
    for what in (
        "inference",
        "training precision",
        "training attention",
        "training blocks",
        "optimiser",
        "compiler",
        "loading while training",
    ):
        assert what in whats
    for each in perf["decisions"]:
        assert all(each.values())
        assert f"because {each['why']}; otherwise: {each['override']}" in captured.err
    assert main(["doctor"]) == 0
    assert "because" not in capsys.readouterr().out


def test_what_a_processor_lacks_is_said() -> None:
    assert len(list(module._lacks(("avx2",)))) == 3
    assert not list(module._lacks(("avx2", "avx512f", "avx512_bf16", "avx512_vnni")))
    assert not list(module._lacks(("asimd",)))
    assert not list(module._lacks(()))
