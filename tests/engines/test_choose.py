"""`auto`: what was stored for this model and machine, else the hardware; the same twice; never less accurate unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from small_models import made
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines import book, choose
from vitkit.engines.measured.cells import Agreement, Cell
from vitkit.engines.measured.machine import library_versions, this_machine
from vitkit.engines.measured.rounds import Measured, Plan
from vitkit.jobs.load import load
from vitkit.zoo.load import load_model

GOOD = Agreement(200, True, 1.0, 1e-5, 1e-6)
PRECISIONS = {
    "eager": ("fp32", "bf16"), "tuned": ("fp32", "bf16", "int8"), "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"), "cuda": ("fp32", "bf16"),
}  # fmt: skip


def engines_here(monkeypatch: pytest.MonkeyPatch, *here: str) -> None:
    """A machine on which these engines can be used."""
    monkeypatch.setattr(book, "ENGINES", tuple(PRECISIONS))
    monkeypatch.setattr(book, "precisions", PRECISIONS.__getitem__)
    monkeypatch.setattr(book, "missing", lambda name: "" if name in here else f"{name} is not installed")
    versions = {**library_versions(), "openvino": "2026.4"}
    monkeypatch.setattr(choose, "library_versions", lambda: versions)


def cell(engine: str, precision: str, speedup: float) -> Cell:
    return Cell(engine, precision, 8, "x 1", True, 2, 10.0, 1.0, 2.0, 9, 3, 5.0, None, 0.5, speedup, 1.0, ())


CELLS = [
    cell("eager", "fp32", 1.0), cell("tuned", "fp32", 1.8), cell("openvino", "fp32", 2.0), cell("openvino", "bf16", 4.0),
    cell("tuned", "bf16", 3.5), cell("eager", "bf16", 1.5),
]  # fmt: skip
AGREE = {(each.engine, each.precision): GOOD for each in CELLS}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_model(made(tmp_path / "model", ("a", "b", "c")))


def test_the_hardware_decides_where_nothing_was_measured(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    engines_here(monkeypatch, "eager")
    assert choose.choose(bundle)[:2] == ("eager", "fp32")
    engines_here(monkeypatch, "eager", "tuned", "openvino", "onnxruntime")
    assert choose.choose(bundle)[:2] == ("tuned", "fp32")
    assert choose.choose(bundle, "bf16")[:2] == ("tuned", "bf16")
    assert choose.choose(bundle, images=10)[:2] == ("tuned", "fp32")
    engines_here(monkeypatch, "eager", "tuned", "cuda")
    assert choose.choose(bundle)[:2] == ("cuda", "fp32")
    engines_here(monkeypatch, "eager", "onnxruntime")
    assert choose.choose(bundle)[:2] == ("eager", "fp32")
    assert choose.choose(bundle, "int8")[:2] == ("onnxruntime", "int8")


def test_a_precision_that_nothing_computes_in_is_refused(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    engines_here(monkeypatch, "eager")
    with pytest.raises(UserError, match=r"--precision int8: no engine here .*openvino: openvino is not installed"):
        choose.choose(bundle, "int8")


def test_a_stored_benchmark_is_obeyed(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    engines_here(monkeypatch, "eager", "tuned", "openvino")
    path = choose.store(bundle, CELLS, AGREE, (), this_machine())
    assert bundle.place is not None
    assert bundle.place in path.parents
    for _ in range(2):
        engine, precision, why = choose.choose(bundle)
        assert (engine, precision) == ("openvino", "fp32")
        assert why.startswith("benchmark of 2")
    assert choose.choose(bundle, "bf16")[:2] == ("openvino", "bf16")
    assert choose.choose(bundle, images=10**9)[:2] == ("openvino", "fp32")
    assert choose.choose(bundle, "int8")[:2] == ("tuned", "int8")  # not measured: the hardware decides
    again = load_model(bundle.place)  # what lies beside the model does not make it another
    assert choose.choose(again)[:2] == ("openvino", "fp32")


def test_reduced_precision_is_chosen_only_where_it_was_named_and_agreed(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    engines_here(monkeypatch, "eager", "tuned", "openvino")
    choose.store(bundle, CELLS, AGREE, ("bf16",), this_machine())
    assert choose.choose(bundle)[:2] == ("openvino", "bf16")
    assert choose.choose(bundle, "fp32")[:2] == ("openvino", "fp32")
    off = {**AGREE, ("openvino", "bf16"): GOOD._replace(same=0.9)}
    choose.store(bundle, CELLS, off, ("bf16",), this_machine())
    assert choose.choose(bundle)[:2] == ("tuned", "bf16")


def test_what_was_stored_elsewhere_or_for_others_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tmp_path: Path
) -> None:
    engines_here(monkeypatch, "eager", "tuned", "openvino")
    machine = this_machine()
    path = choose.store(bundle, CELLS, AGREE, (), machine._replace(processor="another"))
    assert choose.choose(bundle)[:2] == ("tuned", "fp32")
    path.unlink()
    path = choose.store(bundle, CELLS, AGREE, (), machine)
    bundle.model.cls_token.data += 1  # another model in its place
    assert choose.choose(bundle)[:2] == ("tuned", "fp32")
    bundle.model.cls_token.data -= 1
    bundle = load_model(str(bundle.place))
    assert choose.choose(bundle)[0] == "openvino"
    versions = choose.library_versions()
    monkeypatch.setattr(choose, "library_versions", lambda: {**versions, "openvino": "2027.1"})
    engine, _, why = choose.choose(bundle)
    assert engine == "tuned"
    assert "was measured with openvino 2026.4, here is 2027.1; vit benchmark --store measures again" in why
    engines_here(monkeypatch, "eager", "tuned")
    assert "recommends openvino, which cannot be used now: openvino is not installed" in choose.choose(bundle)[2]


@pytest.mark.parametrize(
    "damage", ['{"format": "vitkit-eng', '{"format": "other"}', "[]", '{"format": "vitkit-engine-choice"}']
)
def test_a_damaged_file_is_said_and_not_taken(monkeypatch: pytest.MonkeyPatch, bundle: Bundle, damage: str) -> None:
    engines_here(monkeypatch, "eager", "tuned", "openvino")
    path = choose.store(bundle, CELLS, AGREE, (), this_machine())
    path.write_text(damage)
    engine, precision, why = choose.choose(bundle)
    assert (engine, precision) == ("tuned", "fp32")
    assert str(path) in why


def test_much_work_is_timed_once(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    engines_here(monkeypatch, "eager", "tuned", "openvino")
    plans: list[Plan] = []

    def measured(_: Bundle, plan: Plan, *__: object) -> Measured:
        plans.append(plan)
        return Measured(CELLS[:3], AGREE)

    monkeypatch.setattr("vitkit.engines.measured.rounds.measure", measured)
    monkeypatch.setattr(choose, "WORK", 1e6)
    assert choose.choose(bundle, images=1)[:2] == ("tuned", "fp32")  # little work, nothing timed
    assert choose.choose(bundle, images=10**6)[:2] == ("openvino", "fp32")
    assert choose.choose(bundle, images=10**6)[:2] == ("openvino", "fp32")
    assert len(plans) == 1
    assert plans[0].pairs == [("eager", "fp32"), ("tuned", "fp32"), ("openvino", "fp32")]
    assert choose.choose(bundle, images=1)[:2] == ("tuned", "fp32")  # little work is what it was
    assert choose.choose(bundle, "bf16", images=10**6)[:2] == ("tuned", "bf16")


def test_loading_takes_what_was_stored(bundle: Bundle) -> None:
    cells = [cell("eager", "fp32", 1.0), cell("eager", "bf16", 2.0)]
    agree = {(each.engine, each.precision): GOOD for each in cells}
    path = choose.store(bundle, cells, agree, ("bf16",), this_machine())
    assert json.loads(path.read_text())["recommended"]["precision"] == "bf16"
    assert bundle.place is not None
    assert book.engine_of(load(bundle.place)).facts[:2] == ("eager", "bf16")
    assert book.engine_of(load(bundle.place, precision="fp32")).facts.precision == "fp32"
    assert book.engine_of(load_model(bundle.place)).facts[:2] == ("eager", "bf16")  # a report is of what predicts
