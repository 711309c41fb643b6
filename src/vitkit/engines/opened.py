"""From what a user names to all that predicting takes, by the shortest way: what predict and serve open."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vitkit.artefact import Artefact, find_artefact, read_artefact
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.engines.book import AUTO, check_choice, make_engine
from vitkit.engines.exported import exported_engine
from vitkit.engines.kept.ready import Ready, keep_ready, open_ready, ready
from vitkit.engines.native.compiler import begin

__all__ = ["open_for_answers"]


def open_for_answers(
    model: str | Path | Bundle,
    engine: str = AUTO,
    precision: str = AUTO,
    overrides: Mapping[str, Any] | None = None,
    *,
    images: int | None = None,
    say: Callable[[str], object] = str,
) -> Ready:
    """A model with its engine, ready to answer. What was opened with the same words before is not loaded again where a wrapped
    runtime computes it.

    Args:
        model: whatever a user names, see `vitkit.load`, or a loaded bundle.
        engine, precision, overrides: see `vitkit.load`.
        images: how many there will be, where that is known: much work is worth timing engines for.
        say: told what is being made or measured where that takes time.

    Raises:
        UserError: as `vitkit.load`; a model that gives no classes, or that nothing says the preprocessing of.
    """
    if isinstance(model, Bundle):
        if (engine, precision) == (AUTO, AUTO):
            return ready(model)
        return ready(dataclasses.replace(model, run=make_engine(model, engine, precision), _made=None))
    overrides = dict(overrides or {})
    if not overrides and (folder := find_artefact(Path(model))):
        return _exported(read_artefact(folder), engine, precision)
    if found := open_ready(model, engine, precision, overrides):
        return found
    check_choice(engine, precision)
    if engine in (AUTO, "tuned"):
        begin(precision)
    from vitkit.zoo.load import load_model

    bundle = load_model(model, exported=True, **overrides)
    bundle.run_by(lambda it: make_engine(it, engine, precision, images, say))
    keep_ready(model, bundle, engine, precision, overrides)
    return ready(bundle)


def _exported(artefact: Artefact, engine: str, precision: str) -> Ready:
    """Without torch, where the runtime needs none."""
    if not artefact.answers.num_classes:
        raise UserError(f"{artefact.folder} has no head: it gives features, not classes.")
    made = exported_engine(artefact, engine, precision)
    return Ready(artefact.answers, artefact.preprocess, artefact.notes, made)
