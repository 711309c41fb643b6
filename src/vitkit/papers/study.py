"""What the paper's comparisons are made of, scaled down: cells, the setting that all runs share, and finished runs.

Everything is of the test images, on which nothing is chosen during a run: the last weights are scored.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vitkit.config import UserError, from_dict
from vitkit.console import duration
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import Recipe, changed

__all__ = ["BASE_RATE", "LIMIT", "RECIPE", "SETTINGS", "Cell", "Run", "Setting", "Study"]

RECIPE = "cifar10_small"
BASE_RATE = 2e-3  # the recipe's
LIMIT = 360.0  # seconds that a run may take
EVALUATIONS = 6  # points of a curve
# What `--set` may change of a study.
SETTINGS: dict[str, Any] = {
    "steps": 0,  # of each run; 0: as many as fit into `seconds`, measured before the first run
    "seconds": 150.0,  # of the slowest run
    "seeds": 3,
    "threads": 1,
    "batch_size": 64,
    "width": 72,
    "depth": 4,
}


@dataclass(frozen=True)
class Cell:
    """What one row of a comparison is trained with."""

    pool: str = "cls"  # mean: without a cls token
    position: str = "learned"
    at: str = "stem"
    rate: float = BASE_RATE

    @property
    def changes(self) -> dict[str, Any]:
        """Of the recipe."""
        return {
            "model.pool": self.pool, "model.cls_token": self.pool == "cls", "model.position": self.position,
            "model.position_at": self.at, "optim.lr": self.rate,
        }  # fmt: skip

    def __str__(self) -> str:
        at = "" if self.at == "stem" else f" at {self.at}"
        return f"{self.pool}, positions {self.position}{at}, lr {self.rate:g}"


@dataclass(frozen=True)
class Setting:
    """What all runs of a queue share."""

    data: str  # its name, images and a sign of them
    steps: int
    changes: Mapping[str, Any]  # of the recipe
    threads: int
    precision: str
    fused_attention: bool
    scored: str = ""  # a sign of the test images at the model's size; empty: of a folder made before there was one
    recipe: str = RECIPE
    limit_seconds: float = LIMIT
    compiled_blocks: bool = False
    made_with: Mapping[str, str] = field(default_factory=dict)  # versions; says nothing about what is alike

    def recipe_of(self, cell: Cell, seed: int) -> Recipe:
        """One run's recipe."""
        steps = {"steps": self.steps, "seed": seed, "evaluations": EVALUATIONS}
        return changed(find_recipe(self.recipe), {**self.changes, **cell.changes, **steps})


@dataclass(frozen=True)
class Run:
    """A finished run."""

    cell: Cell
    seed: int
    top1: float  # of all test images, of the last weights, computed as in training
    images: int  # of them
    curve: tuple[tuple[int, float], ...]  # (step, top-1): of `WATCHED` test images at most, the last point of all
    loss: float  # mean over the last tenth of the steps
    seconds: float
    parameters: int
    code: str  # sign of vitkit's source

    def to_dict(self) -> dict[str, Any]:
        """JSON form: the cell's fields beside the others."""
        values = dataclasses.asdict(self)
        return {**values.pop("cell"), **values}

    @classmethod
    def of(cls, values: Any, where: str) -> Run:
        """From its JSON form.

        Raises:
            UserError: it is not one.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"{where} is not a run but {values!r:.40}. Remove the line; its run will be made again.")
        names = [f.name for f in dataclasses.fields(Cell)]
        rest = {name: value for name, value in values.items() if name not in names}
        cell = from_dict(Cell, {name: values[name] for name in names if name in values}, where)
        run = from_dict(cls, {"cell": cell, **rest}, where)
        try:
            curve = tuple((int(step), float(top1)) for step, top1 in run.curve)
            return dataclasses.replace(
                run, seed=int(run.seed), top1=float(run.top1), seconds=float(run.seconds), curve=curve
            )
        except (TypeError, ValueError):
            raise UserError(
                f"{where}: a value of the run is not a number. Remove the line; its run will be made again."
            ) from None


class Study(NamedTuple):
    """A queue that has ended."""

    setting: Setting
    runs: Mapping[tuple[Cell, int], Run]
    train_images: int
    name: str  # of the data

    def values(self, cell: Cell) -> dict[int, float]:
        """Top-1 by seed."""
        return {seed: run.top1 for (other, seed), run in self.runs.items() if other == cell}

    def curve(self, cell: Cell) -> list[tuple[int, float]]:
        """(step, mean top-1 over seeds)."""
        curves = [run.curve for (other, _), run in self.runs.items() if other == cell]
        return [(points[0][0], statistics.fmean(top1 for _, top1 in points)) for points in zip(*curves, strict=True)]

    def facts(self) -> dict[str, Any]:
        """The setting as JSON values, with what was measured of the runs."""
        runs = self.runs.values()
        return {
            **dataclasses.asdict(self.setting),
            "train_images": self.train_images,
            "test_images": next(iter(runs)).images,
            "seeds": len({run.seed for run in runs}),
            "longest_run_seconds": max(run.seconds for run in runs),
            "code": sorted({run.code for run in runs}),
        }

    def sentence(self) -> str:
        """The setting for people."""
        model = self.setting.recipe_of(Cell(), 0).model
        batch = min(self.setting.changes["batch_size"], self.train_images)
        (H, W), facts = model.image_size, self.facts()
        return (
            f"scaled down: width {model.embed_dim}, depth {model.depth}, patches of {model.patch_size[0]} on {H} x {W} images of "
            f"{self.name}, {self.setting.steps} steps of {batch} images "
            f"({self.setting.steps * batch / self.train_images:.1f} epochs) from random weights, {facts['seeds']} seeds; top-1 of "
            f"{facts['test_images']:,} test images; the longest run took {duration(facts['longest_run_seconds'])} with "
            f"{self.setting.threads} thread{'s' * (self.setting.threads > 1)}"
        )
