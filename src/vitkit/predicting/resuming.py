"""Predicts many images part by part, on one rank or several, and goes on with what an earlier run has done."""

from __future__ import annotations

from typing import Any

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.engines.kept.ready import Ready
from vitkit.parallel.launch import is_restart, launch_name
from vitkit.predicting.identity import engine_words, facts_before, facts_opened
from vitkit.predicting.joining import Joined, join
from vitkit.predicting.listing import Listing
from vitkit.predicting.parts import Parts
from vitkit.predicting.ranks import Ranks, await_parts, share_outcome
from vitkit.predicting.request import Request, open_model
from vitkit.predicting.working import make_work, write_parts

__all__ = ["predict_in_parts"]

Facts = dict[str, Any]


def predict_in_parts(request: Request, parts: Parts, listing: Listing, world: Ranks, console: Console) -> Joined:
    """Compute the parts that are missing, and join all.

    Raises:
        UserError: ranks that differ, an earlier run that was another one, or an output that cannot be written; parts are kept.
    """
    known = facts_before(
        request.model, listing, request.overrides,
        {
            "--top": request.top, "--features": request.features, "--max-pixels": request.max_pixels,
            "--engine": request.engine, "--precision": request.precision,
        },
    )  # fmt: skip
    _agree(world, known, "what is to be predicted")
    earlier = share_outcome(world, lambda: _earlier(request, parts, known, listing), "what is done")
    if earlier["joined"]:
        return Joined(earlier["joined"]["written"], earlier["joined"]["skipped"], tuple(earlier["joined"]["first"]))
    opened, manifest = _opened(request, parts, earlier["manifest"], known, listing, world, console)
    parts.open(manifest)
    if request.strict:
        _refuse_skipped(parts)
    if done := parts.done():
        console.say(f"going on: {done} of {parts.count} parts are done")
    console.say(f"engine: {opened.engine.facts.describe()}")
    work = make_work(request, opened, console)
    mine = [part for part in range(world.rank, parts.count, world.size) if not parts.is_done(part)]
    world.work("predicting")
    try:
        await_parts(world, parts, write_parts(work, listing, parts, mine))
        found = share_outcome(world, lambda: _join(parts, work.columns), "joining the parts")
    except KeyboardInterrupt:
        console.say(f"stopped: {parts.kept()}")
        raise
    return Joined(found[0], found[1], tuple(found[2]))


def _agree(world: Ranks, facts: Facts, label: str) -> None:
    told = {name.removeprefix("the "): str(value) for name, value in facts.items()}
    world.agree(told, label)


def _earlier(request: Request, parts: Parts, known: Facts, listing: Listing) -> Facts:
    """What an earlier run left: its manifest, or, where only cleaning up was left to do, what it wrote."""
    parts.hold()
    if request.restart and not is_restart(parts.began_by()):
        parts.remove()
        return {"joined": None, "manifest": None}
    manifest = parts.manifest()
    if joined := parts.joined():
        same = True
        try:
            parts.check(joined["manifest"], known, listing)
        except UserError:
            same = False
        parts.remove()
        return {"joined": joined if same else None, "manifest": None}
    if manifest is not None:
        parts.check(manifest, known, listing)
    return {"joined": None, "manifest": manifest}


def _opened(
    request: Request,
    parts: Parts,
    manifest: Facts | None,
    known: Facts,
    listing: Listing,
    world: Ranks,
    console: Console,
) -> tuple[Ready, Facts]:
    """The model with one engine on all ranks and in all runs, and the manifest of this run.

    The first rank chooses the engine, or takes that of the earlier run.
    """
    held: list[Ready] = []

    def begin() -> Facts:
        held.append(_open(request, manifest, listing, console))
        facts = facts_opened(held[0])
        if manifest is not None:
            parts.check(manifest, facts, listing)
            return manifest
        return parts.create({**known, **facts}, listing, launch_name())

    manifest = share_outcome(world, begin, "opening the model")
    assert manifest is not None
    opened = held[0] if held else _open(request, manifest, listing, console)
    _agree(world, facts_opened(opened), "the model")
    return opened, manifest


def _open(request: Request, manifest: Facts | None, listing: Listing, console: Console) -> Ready:
    words = request.engine, request.precision
    if manifest is not None and not isinstance(request.model, Bundle):
        words = engine_words(manifest["facts"])
    return open_model(request, listing.count, words, console)


def _refuse_skipped(parts: Parts) -> None:
    for part in range(parts.count):
        if parts.is_done(part) and (skipped := parts.skipped(part)):
            raise UserError(f"{skipped[0][0]}: {skipped[0][1]} (--strict)")


def _join(parts: Parts, columns: Any) -> list[Any]:
    found = join(parts, columns)
    parts.finish(found._asdict())
    return [*found]
