"""Which weights a run starts from when the user names none."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vitkit.config import UserError, is_on
from vitkit.data.download import is_offline
from vitkit.finetuning.arguments import read_arguments
from vitkit.planning import is_pretrain_plan
from vitkit.zoo.box import NAME as BOX
from vitkit.zoo.fetch import cached, fetch
from vitkit.zoo.rows import find_row

__all__ = ["ALLOWED_BY", "RECOMMENDED", "SCRATCH", "Default", "default_model", "model_of_plan"]

SCRATCH = "scratch"  # random weights
RECOMMENDED = (
    "deit_tiny_patch16_224"  # what docs/results/accuracy.md measures, and what fine-tunes in minutes on a processor
)
ALLOWED_BY = "VITKIT_DOWNLOAD"  # the environment's word for --download


class Default(NamedTuple):
    """A model, and why it was chosen."""

    model: str
    why: str


def default_model(download: bool | None) -> Default:
    """The zoo's recommended checkpoint where it is on this machine, or may be fetched and can be; else `box`, which ships.

    Args:
        download: may a socket be opened for it? None: as the environment says.
    """
    row = find_row(RECOMMENDED)
    assert row is not None, RECOMMENDED
    if cached(row) is not None:
        return Default(RECOMMENDED, "the recommended checkpoint, and on this machine already")
    allowed = is_on(ALLOWED_BY) if download is None else download
    if not allowed:
        return Default(
            BOX, f"it ships with vitkit; {RECOMMENDED} is better on photos and would be fetched with --download"
        )
    if is_offline():
        return Default(
            BOX, f"it ships with vitkit; {RECOMMENDED} is not on this machine, and nothing is fetched offline"
        )
    try:
        fetch(row)
    except UserError as error:
        return Default(BOX, f"it ships with vitkit, and the recommended checkpoint is not to be had: {error}")
    return Default(RECOMMENDED, "the recommended checkpoint, fetched as --download allows")


def model_of_plan(plan: str | Path) -> Default | None:
    """The model of the run whose plan is repeated; None where it is no fine-tuning run, which is said elsewhere."""
    run = Path(plan)
    if not all((run / name).is_file() for name in ("arguments.json", "plan.json")) or is_pretrain_plan(run):
        return None
    arguments, _ = read_arguments(run)
    return Default(arguments.model or SCRATCH, f"that of the run {plan}, whose plan is repeated")
