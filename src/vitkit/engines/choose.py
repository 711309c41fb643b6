"""Which engine `auto` is: what a stored benchmark of this model on this machine found, else a function of the hardware.

The same command gives the same engine twice: nothing is timed anew that was timed before, and for little work nothing is timed.
Accuracy is never lost unasked: reduced precision only by a stored benchmark in which it was named and agreed with fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.bundle import Bundle
from vitkit.config import UserError, read_json, write_json
from vitkit.data.cache import cache_folder
from vitkit.engines import book
from vitkit.engines.kept.places import FOLDER, candidates, engine_folder, fingerprint
from vitkit.engines.measured.cells import ENOUGH, Agreement, Cell, recommend
from vitkit.engines.measured.machine import LIBRARIES, Machine, library_versions, machine_key, this_machine

__all__ = ["WORK", "choose", "preferred", "store", "stored_choice"]

AUTO = book.AUTO
FORMAT, FORMAT_VERSION = "vitkit-engine-choice", 1
BENCHMARK, TRIAL = "benchmark", "trial"  # names of files: what the user stored, and what was timed for much work
# The engines in which plain hardware facts decide, the best first. Wrapped runtimes only where nothing else has the precision.
ORDER = ("cuda", "tuned", "eager", "openvino", "onnxruntime")
WORK = 7e13  # floating point operations, 2,000 images of ViT-B/16 at 224: from here on timing pays
TRIAL_SECONDS, TRIAL_BATCH = 6.0, 32


def choose(
    bundle: Bundle, precision: str = AUTO, images: int | None = None, say: Callable[[str], object] = str
) -> tuple[str, str, str]:
    """(engine, precision, why) for a bundle.

    Args:
        precision: ``auto`` or the one that was asked for.
        images: how many there are to compute; None: unknown. From `WORK` on engines are timed once, and the result is kept.
        say: is told when engines are timed.

    Raises:
        UserError: nothing here computes in that precision.
    """
    found, why_not = stored_choice(bundle, precision, BENCHMARK)
    if found:
        return found
    if precision in (AUTO, "fp32") and _is_much(bundle, images):
        trial = _trial(bundle, say)
        if trial:
            return trial
    engine, chosen, why = preferred(precision)
    return engine, chosen, f"{why}; {why_not}" if why_not else why


def preferred(precision: str = AUTO) -> tuple[str, str, str]:
    """(engine, precision, why) by what this machine has, without a measurement.

    Raises:
        UserError: nothing here computes in that precision.
    """
    wanted = "fp32" if precision == AUTO else precision
    reasons = []
    for name in (name for name in ORDER if name in book.ENGINES):
        if wanted not in book.precisions(name):
            continue
        if reason := book.missing(name):
            reasons.append(f"{name}: {reason}")
            continue
        why = {
            "cuda": "there is a GPU",
            "tuned": "its operators are here",
            "eager": "plain PyTorch is everywhere",
        }.get(name, f"it computes in {wanted}")
        return name, wanted, why
    told = f" ({'; '.join(reasons)})" if reasons else ""
    raise UserError(f"--precision {wanted}: no engine here computes in it{told}. Choose another, or vit doctor --perf.")


def stored_choice(bundle: Bundle, precision: str, kind: str = BENCHMARK) -> tuple[tuple[str, str, str] | None, str]:
    """What was kept for this model and machine, or None; and why something that was kept is not used."""
    if not any(True for folder in _homes(bundle) for _ in folder.glob(f"*/{kind}-*.json")):
        return None, ""  # the fingerprint of a model's content takes longer than looking
    for folder in candidates(bundle):
        path = folder / f"{kind}-{machine_key(this_machine())}.json"
        if not path.exists():
            continue
        try:
            return _understand(read_json(path), precision, path), ""
        except UserError as error:
            return None, str(error)
        except (AttributeError, KeyError, TypeError, IndexError):
            return None, f"{path} is not as it was written; vit benchmark --store writes it again"
    return None, ""


def _homes(bundle: Bundle) -> tuple[Path, ...]:
    own = () if bundle.place is None else (bundle.place / FOLDER,)
    return (*own, cache_folder() / FOLDER)


def _understand(kept: Mapping[str, Any], precision: str, path: Path) -> tuple[str, str, str] | None:
    """The choice that a file holds; None where it says nothing about the precision.

    Raises:
        UserError: of another format, or of other libraries than those here.
    """
    if kept.get("format") != FORMAT or kept["format_version"] != FORMAT_VERSION:
        raise UserError(f"{path} is of another version of vitkit; vit benchmark --store writes it again")
    if precision == AUTO:
        found = kept["recommended"]
    else:
        found = kept["fastest"].get(precision)
    if found is None:
        return None
    engine, chosen, why = str(found["engine"]), str(found["precision"]), str(found["why"])
    if engine not in book.ENGINES or chosen not in book.precisions(engine):
        raise UserError(f"{path} recommends {engine} {chosen}, which this vitkit does not have")
    if reason := book.missing(engine):
        raise UserError(f"{path} recommends {engine}, which cannot be used now: {reason}")
    library = LIBRARIES[engine]
    then, now = kept["libraries"].get(library), library_versions().get(library)
    if then != now:
        raise UserError(
            f"{path} was measured with {library} {then}, here is {now}; vit benchmark --store measures again"
        )
    return engine, chosen, f"{kept['kind']} of {kept['date']}: {why}"


def store(
    bundle: Bundle,
    cells: Sequence[Cell],
    agreements: Mapping[tuple[str, str], Agreement],
    asked: Sequence[str],
    machine: Machine,
    kind: str = BENCHMARK,
) -> Path:
    """Keep beside the model what ``auto`` shall be; `recommend` says what ``asked`` is.

    Raises:
        UserError: the place cannot be written.
    """
    import datetime

    choice, _ = recommend(cells, agreements, asked)
    fastest = {}
    for precision in dict.fromkeys(cell.precision for cell in cells):
        mine = [cell for cell in cells if cell.precision == precision]
        # Who uses it names the precision: what it loses is theirs to judge. In fp32, and being numbers, nothing is forgiven.
        forgiven = {pair: each._replace(real=True, images=ENOUGH, same=1.0) for pair, each in agreements.items()}
        best, _ = recommend(mine, forgiven, (precision,))
        if best:
            fastest[precision] = {"engine": best.engine, "precision": precision, "why": f"fastest in {precision}"}
    path = engine_folder(bundle) / f"{kind}-{machine_key(machine)}.json"
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": fingerprint(bundle),
        "machine": machine._asdict(),
        "libraries": library_versions(),
        "recommended": choice and choice._asdict(),
        "fastest": fastest,
    }
    write_json(path, facts)
    return path


def _is_much(bundle: Bundle, images: int | None) -> bool:
    from vitkit.analysis.flops import forward_macs

    return images is not None and 2 * forward_macs(bundle.config) * images >= WORK


def _trial(bundle: Bundle, say: Callable[[str], object]) -> tuple[str, str, str] | None:
    """What was timed once for this model and machine; a place that cannot be written costs time only."""
    from filelock import FileLock

    from vitkit.engines.measured.rounds import Plan, measure

    here = [name for name in book.ENGINES if "fp32" in book.precisions(name) and not book.missing(name)]
    if len(here) < 2:
        return None
    machine = this_machine()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # else nothing is kept, and nobody waited for
            cache_folder().mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(cache_folder() / "trial.lock"))  # two at a time would disturb each other
        kept, _ = stored_choice(bundle, "fp32", TRIAL)
        if kept:
            return kept
        say(
            f"engines are timed once for this much work, some {TRIAL_SECONDS:.0f} s, and the fastest is kept for the next time"
        )
        c = bundle.config
        images = np.random.default_rng(0).standard_normal((TRIAL_BATCH, c.in_channels, *c.image_size), np.float32)
        plan = Plan([(name, "fp32") for name in here], [TRIAL_BATCH], TRIAL_SECONDS, compare=(8, 8), peaks=False)
        found = measure(bundle, plan, images, False, lambda _: None, lambda _, __: None)
        choice, _ = recommend(found.cells, found.agreements, ())
        if choice is None:
            return None
        with contextlib.suppress(UserError):
            store(bundle, found.cells, found.agreements, (), machine, TRIAL)
    return choice.engine, choice.precision, f"trial: {choice.why}"
