"""Images with facts, of which a task makes its label: the same function for the publisher's files and for tfds' records.

Facts are named and shaped as `tensorflow_datasets` stores them in a tf.train.Example: arrays of one dimension, objects of an
image one after another (``objects/pixel_coords`` of k objects is (3k,)).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitkit.config import UserError
from vitkit.data.containers import ImageSource
from vitkit.data.samples import Sample

__all__ = ["Example", "Facts", "LabelOf", "checked", "given", "labelled", "one_of"]

Array = np.ndarray[Any, Any]
Facts = Mapping[str, Any]
LabelOf = Callable[[Facts], int]


class Example(NamedTuple):
    """One image and what is known of it."""

    name: str
    source: ImageSource
    facts: Facts


def given(facts: Facts, name: str) -> Array:
    """A fact, (n,).

    Raises:
        UserError: the image has none of that name.
    """
    if name not in facts or isinstance(facts[name], tuple):
        raise UserError(f"no numbers {name!r} are stored; found {', '.join(facts) or 'nothing'}.")
    return np.asarray(facts[name])


def one_of(facts: Facts, name: str) -> int:
    """A fact that is one whole number.

    Raises:
        UserError: it is not.
    """
    values = given(facts, name)
    if values.shape != (1,):
        raise UserError(f"{name!r} has {values.size} values; expected one.")
    return int(values[0])


def checked(name: str, facts: Facts, label: LabelOf, classes: int) -> int:
    """The label of an image.

    Raises:
        UserError: it has none, or one outside the classes; the image is named.
    """
    try:
        found = label(facts)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if not 0 <= found < classes:
        raise UserError(f"{name}: its label is {found}; the task has {classes} classes, from 0 to {classes - 1}.")
    return found


def labelled(examples: Sequence[Example], label: LabelOf, classes: int) -> list[Sample]:
    """The examples with the labels of a task.

    Raises:
        UserError: as `checked`.
    """
    return [Sample(e.name, e.source, checked(e.name, e.facts, label, classes)) for e in examples]
