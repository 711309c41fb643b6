"""Every engine by its name, and the one that a command uses. Importing this imports no engine, so no torch.

Each engine is the module of its name. It says with which `PRECISIONS` it computes, with `missing()` why it cannot be used here,
and makes itself with `make(bundle, precision)`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from vitkit.bundle import Bundle
from vitkit.config import UserError, did_you_mean
from vitkit.engines.engine import PRECISIONS, Engine

__all__ = ["AUTO", "ENGINES", "check_choice", "engine_of", "make_engine", "missing", "precisions"]

AUTO = "auto"
ENGINES = ("eager", "tuned", "openvino", "onnxruntime", "cuda")


def _module(name: str) -> Any:
    return import_module(f"vitkit.engines.{name}")


def precisions(name: str) -> tuple[str, ...]:
    """Precisions that an engine computes in."""
    return tuple(_module(name).PRECISIONS)


def missing(name: str) -> str:
    """Why an engine cannot be used on this machine, and what to do about it; empty where it can."""
    return str(_module(name).missing())


def check_choice(engine: str, precision: str) -> None:
    """Refuse names that are no engine and no precision.

    Raises:
        UserError: such a name.
    """
    for option, value, known in (
        ("--engine", engine, (AUTO, *ENGINES)),
        ("--precision", precision, (AUTO, *PRECISIONS)),
    ):
        if value not in known:
            raise UserError(f"{option} {value!r}; known: {', '.join(known)}.{did_you_mean(value, known)}")


def make_engine(
    bundle: Bundle,
    engine: str = AUTO,
    precision: str = AUTO,
    images: int | None = None,
    say: Callable[[str], object] = str,
) -> Engine:
    """The engine that computes a bundle. ``images``: how many there will be, where that is known, see `choose.choose`.

    Raises:
        UserError: no such engine or precision, one that cannot be used here, or a pair that is not there.
    """
    if bundle.artefact is not None:
        from vitkit.engines.exported import exported_engine

        return exported_engine(bundle.artefact, engine, precision)
    check_choice(engine, precision)
    name, chosen = engine, "fp32" if precision == AUTO else precision
    if engine == AUTO:
        from vitkit.engines.choose import choose

        name, chosen, _ = choose(bundle, precision, images, say)
    if reason := missing(name):
        raise UserError(f"--engine {name} cannot be used here: {reason}")
    if chosen not in precisions(name):
        raise UserError(f"--engine {name} computes in {', '.join(precisions(name))}, not in {chosen}.")
    made: Engine = _module(name).make(bundle, chosen)
    return made


def engine_of(bundle: Bundle) -> Engine:
    """The engine that the bundle was loaded with, else the one that ``auto`` is, for its weights as they are now."""
    run: Any = bundle.current_run()
    return run if isinstance(run, Engine) else make_engine(bundle)
