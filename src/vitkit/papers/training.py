"""One small training run of a study: trained from random weights, timed, and scored on the test images."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from vitkit.checkpoint import TrainState
from vitkit.config import UserError
from vitkit.console import Console, LiveLine, duration
from vitkit.data.loader import Batch, to_tensor
from vitkit.data.pixels import ImageError, Preprocess, fit_image, normalise, open_image
from vitkit.data.samples import Sample
from vitkit.diagnose import NotFiniteError
from vitkit.engines.eager import EagerEngine
from vitkit.models.vit import VisionTransformer
from vitkit.papers.study import EVALUATIONS, Cell, Run, Setting
from vitkit.planning import free_memory
from vitkit.pretraining.data import RecipeData, batches_of
from vitkit.pretraining.model import first_model, with_objective
from vitkit.recipes.recipe import Recipe, batch_of, fitted_optim
from vitkit.report import code_fingerprint
from vitkit.train import StepReport, TrainConfig, measure, start, train

__all__ = ["ScoredImages", "fitting_steps", "train_one"]

WATCHED = 1_000  # test images scored for a point of a curve but its last, for which all are
GROUP = 100  # images scored together


class ScoredImages(NamedTuple):
    """Test images at the model's size, read once for all runs."""

    pixels: np.ndarray  # (n, H, W, 3) uint8
    labels: np.ndarray  # (n,)

    @classmethod
    def read(cls, samples: Sequence[Sample], record: Preprocess) -> ScoredImages:
        """All of them.

        Raises:
            UserError: one cannot be read.
        """
        pixels = np.empty((len(samples), *record.image_size, 3), np.uint8)
        for place, sample in enumerate(samples):
            try:
                pixels[place] = fit_image(open_image(sample.source), record)
            except ImageError as error:
                raise UserError(f"{sample.name} cannot be read: {error}. Every test image counts.") from None
        return cls(pixels, np.array([sample.label for sample in samples]))

    def sign(self) -> str:
        """A short sign of what is scored."""
        signed = hashlib.sha256(self.pixels.tobytes())
        signed.update(self.labels.astype(np.int64).tobytes())
        return signed.hexdigest()[:12]

    def watched(self) -> ScoredImages:
        """Some of them, evenly spread."""
        every = -(-len(self.labels) // WATCHED)
        return ScoredImages(self.pixels[::every], self.labels[::every])

    def top1(self, engine: EagerEngine, record: Preprocess) -> float:
        """Share of them that the engine's model names right.

        Raises:
            UserError: its outputs are not finite.
        """
        hits = 0
        for first in range(0, len(self.labels), engine.group):
            part = slice(first, first + engine.group)
            logits = engine.forward(to_tensor(normalise(self.pixels[part], record))).logits
            if not np.isfinite(logits).all():
                raise UserError("the model's outputs are not finite numbers: its training diverged.")
            hits += int((logits.argmax(axis=1) == self.labels[part]).sum())
        return hits / len(self.labels)


def fitting_steps(
    asked: Setting, seconds: float, cells: Sequence[Cell], data: RecipeData, scored: ScoredImages, console: Console
) -> int:
    """Steps with which the slowest of the cells takes so many seconds.

    Raises:
        UserError: not even one fits.
    """
    trial = dataclasses.replace(asked, steps=1_000)
    slowest, scoring = 0.0, 0.0
    for cell in {(cell.pool, cell.position, cell.at): cell for cell in cells}.values():
        recipe = trial.recipe_of(cell, 0)
        model = first_model(recipe, len(data.source.classes), console)
        module, objective = with_objective(recipe, model)
        config = _config(trial, recipe, len(data.train))
        batches = batches_of(recipe, data, config.batch_size, range(2), 0)
        batch = next(batches)
        began = time.perf_counter()
        next(batches)
        loading = time.perf_counter() - began
        slowest = max(slowest, loading + measure(module, config, objective, batch, free_memory()).seconds)
        engine = EagerEngine(model, precision=config.precision, fused_attention=config.fused_attention, group=GROUP)
        few = ScoredImages(scored.pixels[:GROUP], scored.labels[:GROUP])
        few.top1(engine, recipe.preprocess)
        began = time.perf_counter()
        few.top1(engine, recipe.preprocess)
        images = len(scored.labels) + (EVALUATIONS - 1) * len(scored.watched().labels)
        scoring = max(scoring, (time.perf_counter() - began) * images / len(few.labels))
    steps = int((seconds - scoring) / slowest)
    console.say(
        f"timing    {slowest:.2f} s a step at most, {scoring:.0f} s of scoring: {steps} steps in {duration(seconds)}"
    )
    if steps < 1:
        raise UserError(
            f"no step fits into {duration(seconds)}; allow more seconds, or take a smaller width or batch_size."
        )
    return steps


def _config(setting: Setting, recipe: Recipe, images: int) -> TrainConfig:
    batch_size = batch_of(recipe, images)
    return TrainConfig(
        steps=setting.steps,
        batch_size=batch_size,
        microbatch_size=batch_size,
        seed=recipe.seed,
        eval_every=max(1, -(-setting.steps // recipe.evaluations)),
        patience=0,
        precision=setting.precision,
        fused_attention=setting.fused_attention,
        compiled_blocks=setting.compiled_blocks,
        optim=fitted_optim(recipe.optim, setting.steps)[0],
        checkpoint_every=math.inf,
    )


def train_one(
    setting: Setting, cell: Cell, seed: int, data: RecipeData, scored: ScoredImages, label: str, console: Console
) -> Run:
    """Train from random weights and score.

    Raises:
        UserError: it diverged, or took longer than it may.
    """
    began = time.perf_counter()
    recipe = setting.recipe_of(cell, seed)
    model = first_model(recipe, len(data.source.classes), console)
    scoring = VisionTransformer(model.config)  # beside the one that trains, whose mode and weights are left alone
    config, record, watched = _config(setting, recipe, len(data.train)), recipe.preprocess, scored.watched()
    engine = EagerEngine(scoring, precision=config.precision, fused_attention=config.fused_attention, group=GROUP)

    def score(weights: Mapping[str, Tensor], images: ScoredImages = watched) -> float:
        engine.model.load_state_dict(weights)
        return images.top1(engine, record)

    module, objective = with_objective(recipe, model)
    state = start(module, config)
    with console.live(config.steps, label) as line:
        hooks = _Hooks(line, console, config.steps, score, began, setting.limit_seconds)
        train(state, config, objective, batches_of(recipe, data, config.batch_size, range(config.steps), 0), hooks)
    top1 = score(state.best_weights, scored)
    tail = hooks.losses[-max(1, config.steps // 10) :]
    hooks.check_time(config.steps)
    return Run(
        cell,
        seed,
        top1,
        len(scored.labels),
        (*hooks.curve, (config.steps, top1)),
        statistics.fmean(tail),
        round(time.perf_counter() - began, 1),
        sum(parameter.numel() for parameter in model.parameters()),
        code_fingerprint(),
    )


class _Hooks:
    """What the loop tells: losses, points of the curve, and the time, which is limited."""

    def __init__(
        self,
        line: LiveLine,
        console: Console,
        steps: int,
        score: Callable[[Mapping[str, Tensor]], float],
        began: float,
        limit: float,
    ) -> None:
        self.line, self.console, self.steps, self.score = line, console, steps, score
        self.began, self.limit = began, limit
        self.losses: list[float] = []
        self.curve: list[tuple[int, float]] = []

    def check_time(self, step: int) -> None:
        """Raises UserError where the run has taken longer than it may."""
        if time.perf_counter() - self.began > self.limit:
            raise UserError(
                f"more than {duration(self.limit)} had gone by at step {step} of {self.steps}. Leave the machine to it, or begin "
                "anew in another folder with fewer steps."
            )

    def on_step(self, report: StepReport) -> None:
        self.losses.append(report.loss)
        self.line.update(report.step, f"loss {report.loss:.3f}  {report.seconds:.2f} s a step")
        self.check_time(report.step)

    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        if step < self.steps:
            self.curve.append((step, self.score(weights)))
        return float(step), float(step)  # nothing is chosen: the last weights are kept

    def on_checkpoint(self, state: TrainState) -> None:
        del state

    def on_note(self, text: str) -> None:
        self.console.warn(text)

    def on_not_finite(self, fault: NotFiniteError, batch: Batch) -> str:
        del fault, batch
        return "A lower rate would train."

    def stop_requested(self) -> bool:
        return False
