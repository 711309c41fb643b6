"""What a machine is, and the measurement of its matrix products."""

from __future__ import annotations

import pytest
import torch

from vitkit.config import UserError
from vitkit.engines.measured import machine
from vitkit.engines.measured.machine import Machine, library_versions, machine_key, matrix_peak, this_machine


def test_a_machine_says_what_it_is() -> None:
    here = this_machine()
    assert here.processor
    assert here.cpus >= 1
    assert here.memory_gib > 0
    assert here.processor in here.describe()
    assert library_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_the_key_of_a_machine_is_of_what_decides_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    one = Machine("a processor", ("avx2",), 2, 8.0, "none")
    assert machine_key(one) == machine_key(one._replace(memory_gib=7.9))
    others = [
        one._replace(cpus=4),
        one._replace(flags=()),
        one._replace(accelerator="a GPU"),
        one._replace(processor="b"),
    ]
    assert len({machine_key(each) for each in (one, *others)}) == 5
    before = machine_key(one)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine_key(one) != before


def test_a_system_that_tells_nothing_is_a_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", nothing)
    found = this_machine()
    assert found.flags == ()
    assert "no vector flags known" in found.describe()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_is_the_fastest_of_all_products(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHAPES", ((64, 64, 64), (32, 128, 64)))
    monkeypatch.setattr(machine, "WIDE", ((64, 64, 64),))
    before = torch.get_num_threads()
    peak = matrix_peak(precision, threads=1, seconds=0.02)
    assert peak.gflops > 0
    assert peak.threads == 1
    assert peak.shape in (*machine.SHAPES, *machine.WIDE)
    assert torch.get_num_threads() == before


def test_a_private_operator_that_is_gone_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHAPES", ((64, 64, 64),))

    def gone(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.Tensor, "to_mkldnn", gone)
    assert matrix_peak("fp32", seconds=0.01).operator == "torch.nn.functional.linear"
    monkeypatch.setattr(machine, "_eight_bits", lambda _: iter(()))
    with pytest.raises(UserError, match="no matrix product in int8 is known"):
        matrix_peak("int8", seconds=0.01)
