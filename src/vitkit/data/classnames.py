"""Class names that are the same everywhere: ImageNet-1k's, known by WordNet id, by name or by index.

`assets/imagenet1k.txt` holds a line per class in the order of the outputs: WordNet id, tab, its lemmas.
Source: ILSVRC 2012 (image-net.org), names from WordNet 3.0 (Princeton University, WordNet licence).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

__all__ = ["CLASS_SETS", "class_ids", "class_indices", "class_names", "distinct"]

CLASS_SETS = ("imagenet1k",)


@cache
def _lines() -> tuple[tuple[str, str], ...]:
    text = (files("vitkit.data") / "assets" / "imagenet1k.txt").read_text(encoding="utf-8")
    return tuple((line.split("\t")[0], line.split("\t")[1]) for line in text.splitlines())


@cache
def class_ids(class_set: str) -> tuple[str, ...]:
    """The WordNet id of each output."""
    assert class_set in CLASS_SETS
    return tuple(wnid for wnid, _ in _lines())


@cache
def class_names(class_set: str) -> tuple[str, ...]:
    """One name per output: the first lemma, with the WordNet id where two classes share it."""
    assert class_set in CLASS_SETS
    first = [lemmas.split(", ")[0] for _, lemmas in _lines()]
    count = Counter(first)
    return tuple(
        name if count[name] == 1 else f"{name} ({wnid})" for name, (wnid, _) in zip(first, _lines(), strict=True)
    )


@cache
def _aliases() -> dict[str, int]:
    """Everything that means exactly one class: WordNet id, our name, all lemmas in one, and each lemma of one class only."""
    found: dict[str, int] = {}
    lemmas = [(number, lemma) for number, (_, all_) in enumerate(_lines()) for lemma in all_.split(", ")]
    count = Counter(lemma for _, lemma in lemmas)
    found.update({lemma: number for number, lemma in lemmas if count[lemma] == 1})
    shared = {name for name, times in Counter(all_ for _, all_ in _lines()).items() if times > 1}
    for number, ((wnid, all_), name) in enumerate(zip(_lines(), class_names("imagenet1k"), strict=True)):
        found.update({name: number, wnid: number})
        found[f"{all_} ({number})" if all_ in shared else all_] = number
    return found


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Names that occur several times get their index behind them, since a class is called by its name everywhere."""
    count = Counter(names)
    return tuple(f"{name} ({number})" if count[name] > 1 else name for number, name in enumerate(names))


def _index(name: str) -> int | None:
    aliases = _aliases()
    return aliases.get(
        name, aliases.get(name.split(" ")[0]) if name.startswith("n0") or name.startswith("n1") else None
    )


def class_indices(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Index in a model's ``classes`` of each of a data set's ``names``; -1 where the model does not know one.

    Names match by spelling. Where the model's classes are ImageNet-1k's, a WordNet id, alone or before a name, any lemma, and
    indices where all names are numbers below 1000 mean the same class.
    """
    known = {name: number for number, name in enumerate(classes)}
    exact = [known.get(name, -1) for name in names]
    if (
        -1 not in exact
        or len(classes) != len(_lines())
        or [_index(name) for name in classes] != list(range(len(classes)))
    ):
        return exact
    if all(name.isdecimal() and int(name) < len(classes) for name in names):
        return [int(name) for name in names]
    found = (_index(name) for name in names)
    return [-1 if index is None else index for index in found]
