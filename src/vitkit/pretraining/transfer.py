"""Fine-tunes a model on a few images by a recipe and scores it on others, in memory: no run folder, no checkpoint, no bundle.

Training and test images are made alike: the whole image, squashed to the model's size with the reference's bilinear resizing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from vitkit.checkpoint import TrainState
from vitkit.config import UserError
from vitkit.console import Console, LiveLine
from vitkit.data.loader import Batch, to_tensor
from vitkit.data.pixels import MAX_PIXELS, ImageError, Preprocess, normalise, open_image
from vitkit.data.reference import ReferenceAugment, squashed_view
from vitkit.data.samples import Sample, Source
from vitkit.diagnose import NotFiniteError
from vitkit.engines.eager import EagerEngine
from vitkit.models.vit import VisionTransformer
from vitkit.planning import free_memory
from vitkit.pretraining.data import RecipeData, batches_of
from vitkit.pretraining.model import with_new_head, with_objective
from vitkit.recipes.recipe import Recipe, batch_of, fitted_optim, steps_of
from vitkit.train import StepReport, TrainConfig, best_blocks, best_precision, measure, start, train

__all__ = ["WHOLE", "fine_tuned", "top1", "transfer_top1"]

WHOLE = ReferenceAugment(crop="none", flip=False, cast=False)  # no crop, no mirror


def transfer_top1(
    model: VisionTransformer,
    recipe: Recipe,
    train_: Sequence[Sample],
    test: Sequence[Sample],
    classes: tuple[str, ...],
    console: Console,
    *,
    label: str = "",
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> float:
    """Top-1 on ``test`` of a copy of ``model`` fine-tuned on ``train_``; ``label`` is shown beside the progress.

    Raises:
        UserError: an image that cannot be read, too little memory, or a loss that is not finite.
    """
    tuned = fine_tuned(model, recipe, train_, classes, console, label=label, workers=workers)
    return top1(tuned, recipe.preprocess, test, console, label=label, workers=workers, max_pixels=max_pixels)


def fine_tuned(
    model: VisionTransformer,
    recipe: Recipe,
    samples: Sequence[Sample],
    classes: tuple[str, ...],
    console: Console,
    *,
    label: str = "",
    workers: int = 2,
) -> VisionTransformer:
    """A copy of ``model`` with a new head of zeros, trained for the recipe's steps; the last weights, without dropout.

    Raises:
        UserError: as `transfer_top1`.
    """
    recipe = dataclasses.replace(recipe, augment=WHOLE)
    first = with_new_head(recipe, model, len(classes))
    module, objective = with_objective(recipe, first, classes, console)
    data = RecipeData(Source("transfer", classes, {"train": samples}), samples, (), (), "")
    config = _config(recipe, len(samples))
    batch = next(iter(batches_of(recipe, data, config.batch_size, range(1), 0)))
    config = dataclasses.replace(
        config, microbatch_size=measure(module, config, objective, batch, free_memory()).microbatch_size
    )
    state = start(module, config)
    batches = batches_of(recipe, data, config.batch_size, range(config.steps), workers)
    with console.live(config.steps, label or "training") as line:
        train(state, config, objective, batches, _Hooks(line, console))
    tuned = VisionTransformer(dataclasses.replace(first.config, dropout=0.0, drop_path=0.0))
    tuned.load_state_dict({name: tensor.detach().cpu() for name, tensor in state.best_weights.items()})
    return tuned.eval()


def _config(recipe: Recipe, images: int) -> TrainConfig:
    precision, fused = best_precision()
    precision = precision if recipe.precision == "auto" else recipe.precision
    steps, batch_size = steps_of(recipe, images), batch_of(recipe, images)
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        microbatch_size=batch_size,
        seed=recipe.seed,
        eval_every=steps,  # nothing is chosen on the way
        patience=0,
        precision=precision,
        fused_attention=fused,
        compiled_blocks=best_blocks(precision),
        optim=fitted_optim(recipe.optim, steps)[0],
        activation_checkpointing=recipe.activation_checkpointing,
    )


class _Hooks:
    """What the loop tells: the live line gets it; nothing is evaluated or saved."""

    def __init__(self, line: LiveLine, console: Console) -> None:
        self.line, self.console = line, console

    def on_step(self, report: StepReport) -> None:
        self.line.update(report.step, f"loss {report.loss:.3f}  {report.seconds:.2f} s a step")

    def evaluate(self, weights: dict[str, Tensor], step: int) -> tuple[float, float]:
        del weights
        return float(step), float(step)

    def on_checkpoint(self, state: TrainState) -> None:
        del state

    def on_note(self, text: str) -> None:
        self.console.warn(text)

    def on_not_finite(self, fault: NotFiniteError, batch: Batch) -> str:
        del fault, batch
        return "Try a lower rate: optim.lr."

    def stop_requested(self) -> bool:
        return False


def top1(
    model: VisionTransformer,
    record: Preprocess,
    samples: Sequence[Sample],
    console: Console,
    *,
    label: str = "",
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
) -> float:
    """The part of ``samples`` whose class has the largest logit, the lower class of equal ones; every image counts once.

    Raises:
        UserError: no images, or one that cannot be read: a part of a test set is not scored.
    """
    engine, hits = EagerEngine(model), 0
    groups = _groups(samples, record, engine.group, workers, max_pixels)
    shown = console.track(groups, -(-len(samples) // engine.group), f"{label}: scoring", unit="batch")
    for images, labels in shown:
        logits = engine(images).logits
        if not np.isfinite(logits).all():
            raise UserError(
                "the model's outputs are not finite numbers: its training diverged. Try a lower rate: optim.lr."
            )
        hits += int((logits.argmax(axis=1) == labels.numpy()).sum())
    if not len(samples):
        raise UserError("there are no images to score.")
    return hits / len(samples)


def _groups(
    samples: Sequence[Sample], record: Preprocess, size: int, workers: int, max_pixels: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, C, H, W) and labels (B,), decoded in threads ahead of the model."""

    def load(sample: Sample) -> np.ndarray:
        try:
            picture = open_image(sample.source, max_pixels)
        except ImageError as error:
            raise UserError(f"{sample.name} cannot be read: {error}. Every test image counts.") from None
        return normalise(squashed_view(picture, record.image_size), record)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = (samples[index] for index in range(len(samples)))
        queue = [(sample.label, pool.submit(load, sample)) for sample in islice(waiting, size + 4 * max(1, workers))]
        while queue:
            now, queue = queue[:size], queue[size:]
            pixels = np.stack([future.result() for _, future in now])
            queue += [(sample.label, pool.submit(load, sample)) for sample in islice(waiting, len(now))]
            yield to_tensor(pixels), torch.tensor([label for label, _ in now])
