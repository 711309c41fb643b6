"""The data of a run from a recipe: what trains, what is watched, what is scored once at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.audit import digest
from vitkit.data.loader import Batch, training_batches
from vitkit.data.mixing import draw_mix, mix_part, one_hot, part_with_neighbour
from vitkit.data.resized import Resized
from vitkit.data.sources import Sample, Source
from vitkit.datasets.book import read_data
from vitkit.parallel.world import ALONE, World
from vitkit.recipes.recipe import Recipe

__all__ = ["RecipeData", "batches_of", "fingerprint", "read_recipe_data"]

SIGNED = 100  # images whose bytes are part of a fingerprint
MOST_WATCHED = 2_000  # validation images scored during training


@dataclass(frozen=True)
class RecipeData:
    """Images by their use."""

    source: Source
    train: Sequence[Sample]
    watched: Sequence[Sample]  # part of a validation split, scored during training; empty without one
    scored: Sequence[Sample]  # once, at the end
    split: str  # of ``scored``: test, val, or empty where there is neither


def read_recipe_data(data: str, console: Console) -> RecipeData:
    """Find the images. Training chooses nothing on them: the last weights are kept.

    Raises:
        UserError: as `read_data`; no training split, or images with several classes.
    """
    source = read_data(data, partial=True)
    console.say(f"data      {source.name}: {source.describe()}")
    for note in source.notes:
        console.say(f"          {note}")
    if source.multilabel:
        raise UserError(f"{data} is multi-label data; recipes train on one class per image. See vit finetune.")
    train = source.splits.get("train", source.splits.get("all", ()))
    if not train:
        raise UserError(f"{data} has no training images, only {', '.join(source.splits)}.")
    val = source.splits.get("val", ())
    split = next((name for name in ("test", "val") if source.splits.get(name)), "")
    if not split:
        console.warn("there is no test or val split: the model is released without a score")
    every = -(-len(val) // MOST_WATCHED) if val else 1
    return RecipeData(source, train, val[::every], source.splits.get(split, ()), split)


def fingerprint(data: RecipeData) -> str:
    """A short sign of the images in their order, their classes, and the bytes of some of them."""
    signed = hashlib.sha256()
    for sample in data.train:
        signed.update(f"{sample.name}\0{sample.label}\0".encode("utf-8", "surrogateescape"))
    every = -(-len(data.train) // SIGNED)
    for sample in data.train[::every]:
        signed.update(digest(sample).encode())
    classes = len(data.source.classes)
    return f"{len(data.train)} images of {classes} classes ({signed.hexdigest()[:12]})"


def batches_of(
    recipe: Recipe,
    data: RecipeData,
    batch_size: int,
    steps: range,
    workers: int,
    world: World = ALONE,
    together: int = 1,
    resized: Resized | None = None,
) -> Iterator[Batch]:
    """This rank's part of the batches for ``steps``, see `World.part`; views and mixing as the recipe says."""
    own = world.part(batch_size, together)
    mixes = recipe.mixing.on
    batches = training_batches(
        data.train,
        recipe.preprocess,
        recipe.augment,
        batch_size=batch_size,
        steps=steps,
        seed=recipe.seed,
        workers=workers,
        positions=part_with_neighbour(batch_size, own.start, own.stop) if mixes else own,
        repeats=recipe.repeats,
        resized=resized,
    )
    return _mixed(recipe, len(data.source.classes), batches, steps) if mixes else batches


def _mixed(recipe: Recipe, outputs: int, batches: Iterator[Batch], steps: range) -> Iterator[Batch]:
    """Mix parts of global batches, each after the one image before it, which is only lent."""
    for step, batch in zip(steps, batches, strict=True):
        mix = draw_mix(recipe.mixing, recipe.preprocess.image_size, recipe.seed, step)
        images, shares = mix_part(batch.images, one_hot(batch.labels, outputs), mix)
        assert batch.places is not None
        yield Batch(images, shares, batch.places[1:])
