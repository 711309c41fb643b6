"""What is known of published checkpoints: all rows of the zoo, and finding one by what a person types."""

from __future__ import annotations

import difflib
import importlib
from pathlib import PurePosixPath

import torch

from vitkit.converters.engine import encode
from vitkit.models.vit import VisionTransformer
from vitkit.zoo import augreg, google, huggingface, meta, open_clip, timm, torchvision
from vitkit.zoo.record import IMAGENET_MEAN, IMAGENET_STD, Checkpoint

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ROWS",
    "Checkpoint",
    "find_row",
    "manifest",
    "rows_of_stem",
    "select",
    "suggest",
]

ROWS: tuple[Checkpoint, ...] = (
    *google.ROWS, *augreg.ROWS, *meta.ROWS, *timm.ROWS, *huggingface.ROWS, *open_clip.ROWS, *torchvision.ROWS
)  # fmt: skip
# timm's rows also answer to their repository's name, whose spelling of the activation differs for some.
_BY_NAME = {row.repo: row for row in reversed(ROWS) if row.repo}
_BY_NAME |= {alias: row for row in ROWS for alias in row.aliases}
_BY_NAME |= {row.name: row for row in ROWS}


def find_row(name: str) -> Checkpoint | None:
    """The row of a name, an alias, a hub repository, or a file of "How to train your ViT" by its rule; None where there is none."""
    return _BY_NAME.get(name) or augreg.resolve(name)


def rows_of_stem(stem: str) -> tuple[Checkpoint, ...]:
    """The rows that a file of this stem may be: named so, or published in a file of that stem."""
    found = [row for row in ROWS if stem in (row.name, row.name.rsplit("/", 1)[-1], PurePosixPath(row.file).stem)]
    known = augreg.resolve(stem)
    if known is not None and known.name not in [row.name for row in found]:
        found.append(known)
    return tuple(found)


def suggest(name: str) -> str:
    """Return ``" Did you mean 'x'?"`` for the most alike name, or an empty string; of an architecture, its trainings."""
    if trainings := [row.name for row in ROWS if row.name.startswith(f"{name}.")]:
        return f" That is an architecture, its weights are {', '.join(map(repr, trainings))}: name one."
    best = augreg.nearest(name)
    if best is None:
        word = name.lower()
        scored = [(_likeness(word, known.lower()), known) for known in _BY_NAME]
        score, best = max(scored, key=lambda pair: pair[0])
        if score < 0.6:
            return ""
    return f" Did you mean {best!r}?"


def _likeness(word: str, known: str) -> float:
    """Of a word and a name, or a name's beginning: few type a long name to its end."""
    matcher = difflib.SequenceMatcher(b=word)
    scores = []
    for candidate, weight in ((known, 1.0), (known[: len(word) + 1], 0.95)):
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() * weight > 0.6 and matcher.quick_ratio() * weight > 0.6:
            scores.append(matcher.ratio() * weight)
    return max(scores, default=0.0)


def select(text: str) -> tuple[Checkpoint, ...]:
    """The rows that have every word of ``text`` in their name, architecture, size, licence, training data or format."""
    words = text.lower().split()
    return tuple(row for row in ROWS if all(word in _described(row) for word in words))


def _described(row: Checkpoint) -> str:
    size = row.preprocess.image_size[0]
    parts = (row.name, *row.aliases, row.architecture, str(size), row.licence, row.trained_on, row.format, row.source)
    return " ".join(parts).lower()


def manifest(row: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of the image model in the row's file, computed without memory for them.

    Raises:
        ModuleNotFoundError: this installation has no converter of the row's format.
    """
    module = importlib.import_module(f"vitkit.converters.{row.format}")
    with torch.device("meta"):
        state = VisionTransformer(row.model).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in encode(state, module.rules(row.model)).items()}
