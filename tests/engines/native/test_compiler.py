"""C is compiled once, also while other things are imported, and nothing of it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vitkit.engines.native import compiler
from vitkit.engines.native.compiler import SOURCE, begin, compiled


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VITKIT_NATIVE", raising=False)
    monkeypatch.setattr(compiler, "_begun", {})
    monkeypatch.setattr(compiler, "FLAGS", ("-O0", "-fPIC", "-shared"))
    monkeypatch.setattr(compiler, "has_instructions", lambda name: True)


def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    source = folder / "small.c"
    source.write_text("int answer(void) { return 42; }\n")
    monkeypatch.setattr(compiler, "SOURCE", source)
    return source


def has_compiler() -> bool:
    try:
        compiler._compiler()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_compiler(), reason="no C compiler here")
def test_what_was_begun_is_waited_for_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small(tmp_path, monkeypatch)
    calls = []
    make = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda *a: calls.append(1) or make(*a))
    begin("fp32")
    begin("fp32")
    assert compiled(source).answer() == 42
    assert len(calls) == 1
    assert [path.suffix for path in sorted((tmp_path / "cache" / "native").iterdir())] == [".sha256", ".so"]


def test_nothing_is_begun_where_it_would_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, monkeypatch)
    monkeypatch.setenv("VITKIT_NATIVE", "0")
    begin("fp32")
    monkeypatch.delenv("VITKIT_NATIVE")
    monkeypatch.setattr(compiler, "has_instructions", lambda name: False)
    begin("fp32")
    assert compiler._begun == {}
    assert not (tmp_path / "cache").exists()


def test_what_goes_wrong_meanwhile_is_said_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small(tmp_path, monkeypatch)
    monkeypatch.setenv("CC", "no-such-compiler-anywhere")
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    begin("fp32")
    with pytest.raises(OSError, match="no C compiler is found"):
        compiled(source)


def test_beginning_imports_no_torch() -> None:
    script = "import sys; from vitkit.engines.native.compiler import begin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
    assert SOURCE.exists()
