"""What protocols begin with: the model, the data and its splits, the features of a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vitkit.answers import MULTI
from vitkit.bundle import Bundle
from vitkit.config import UserError, did_you_mean
from vitkit.console import Console
from vitkit.data.official import check_view, describe_view
from vitkit.data.samples import Sample, Source
from vitkit.datasets.book import read_data
from vitkit.engines.book import check_choice, make_engine
from vitkit.engines.kept.places import fingerprint
from vitkit.evals.features import FeatureTable, compute_features, data_fingerprint
from vitkit.evals.scoring import seen_label
from vitkit.protocols.request import Request
from vitkit.zoo.load import load_model

__all__ = [
    "Learnt",
    "Opened",
    "account",
    "chosen_view",
    "describe_model",
    "open_data",
    "open_model",
    "open_to_learn",
    "parts_of",
    "row_label",
    "say_data",
    "scored_split",
    "table_of",
    "tables_to_learn",
]


def open_model(request: Request, console: Console, *, runs: bool = True) -> Bundle:
    """The model, and its notes said; with ``runs`` also with the engine that was asked for, which is noted; without, not a graph.

    Raises:
        UserError: no such model.
    """
    check_choice(request.engine, request.precision)
    bundle = load_model(request.model, exported=runs, **request.overrides)
    console.say(f"model: {request.model}: {describe_model(bundle)}")
    for note in bundle.notes:
        console.say(f"model: {note}")
    if runs:
        bundle.run = engine = make_engine(bundle, request.engine, request.precision)
        console.say(f"engine: {engine.facts.describe()}")
        request.account.settings["engine"] = engine.facts._asdict()
    request.account.model.update(name=request.model, fingerprint=fingerprint(bundle))
    return bundle


def describe_model(bundle: Bundle) -> str:
    """A model in half a line."""
    c = bundle.config
    parameters = sum(p.numel() for p in bundle.model.parameters()) / 1e6
    outputs = (
        "no head" if not c.num_classes else f"{c.num_classes:,} classes{'' if bundle.classes else ' without names'}"
    )
    if c.num_classes and not c.head_bias:
        outputs = "a head that gives no classes"
    return (
        f"{parameters:.2f} M parameters, width {c.embed_dim}, depth {c.depth}, patch {c.patch_size[0]}x{c.patch_size[1]}, "
        f"{outputs}{', multi-label' if bundle.task == MULTI else ''}"
    )


def open_data(request: Request) -> Source:
    """The data, whatever DATA names.

    Raises:
        UserError: no such data, or a label that is no class.
    """
    source = read_data(request.data, root=request.data_root, partial=request.partial)
    for split, samples in source.splits.items():
        for sample in samples:
            for label in sample.labels if source.multilabel else (sample.label,):
                if not 0 <= label < len(source.classes):
                    raise UserError(
                        f"{source.name}: {sample.name} of the {split} split has the label {label}; expected 0 to "
                        f"{len(source.classes) - 1}, there are {len(source.classes)} classes."
                    )
    return source


def say_data(source: Source, console: Console) -> None:
    """What was understood of the data."""
    console.say(f"data: {source.name}: {source.describe()}{', multi-label' if source.multilabel else ''}")
    for note in source.notes:
        console.say(f"data: {note}")


def scored_split(request: Request, source: Source, known: Sequence[str]) -> str:
    """The split to score: the one that was named, else the first of ``known`` that the data has.

    Raises:
        UserError: there is no such split, or it is empty.
    """
    chosen = request.split or next((name for name in known if name in source.splits), "")
    if chosen not in source.splits:
        asked = f"no split {chosen!r}" if chosen else f"none of the splits {', '.join(known)}"
        advice = did_you_mean(chosen, source.splits) if chosen else " Put images to score into test/ or val/ beside it."
        raise UserError(f"{request.data} has {asked}; it has {', '.join(source.splits)}.{advice}")
    if not source.splits[chosen]:
        raise UserError(f"{request.data}: the split {chosen!r} is empty; there is nothing to score.")
    return chosen


def table_of(
    request: Request, bundle: Bundle, samples: Sequence[Sample], console: Console, label: str, view: str
) -> FeatureTable:
    """Features and logits of samples; those that cannot be used are said.

    Raises:
        UserError: as `compute_features`.
    """
    table = compute_features(
        bundle,
        samples,
        console,
        label,
        view=view,
        strict=request.strict,
        workers=request.workers,
        max_pixels=request.max_pixels,
        world=request.world,
    )
    for name, reason in table.skipped:
        console.warn(f"skipped {name}: {reason}")
    return table


def chosen_view(request: Request, bundle: Bundle, own: str, console: Console) -> str:
    """How images are fitted: as asked, else ``own``, the protocol's.

    Raises:
        UserError: no such preprocessing, or not for this model.
    """
    record, view = bundle.require_preprocess(), request.preprocess or own
    check_view(view, record)
    console.say(f"images: {describe_view(view, record)}")
    request.account.settings["preprocess"] = view
    return view


def row_label(bundle: Bundle, source: Source, samples: Sequence[Sample], console: Console) -> str:
    """What a reader of rows must know: images that are not new to the model, a part of a published set; empty where nothing."""
    seen, count = seen_label(bundle, samples)
    if seen:
        console.warn(f"{count} of these images took part in making the model: {seen}")
    return "; ".join([*parts_of(source), *([seen] if seen else [])])


def parts_of(source: Source) -> list[str]:
    """Words of the notes that say that a published set is not whole."""
    return [note.partition(":")[0] for note in source.notes if note.startswith("a part of ")]


class Opened(NamedTuple):
    """What a protocol that learns from features starts with."""

    bundle: Bundle
    source: Source
    split: str  # that is scored
    view: str  # how images are fitted

    @property
    def dataset(self) -> str:
        """As rows name it."""
        return f"{self.source.name}/{self.split}"

    def table(self, request: Request, samples: Sequence[Sample], label: str, console: Console) -> FeatureTable:
        """Features of samples of the data, see `table_of`."""
        return table_of(request, self.bundle, samples, console, label, self.view)

    def seen(self, test: FeatureTable, console: Console) -> str:
        """What a reader of the rows must know, see `row_label`."""
        return row_label(self.bundle, self.source, test.samples, console)


def open_to_learn(request: Request, console: Console, view: str = "own", *, multilabel: bool = False) -> Opened:
    """Model and data with a train split and one to score: the named one, else test, else val. A model without a head will do.

    Args:
        view: the protocol's own preprocessing.
        multilabel: can the protocol learn from multi-label data?

    Raises:
        UserError: no train split or none to score, or an empty one; multi-label data where it cannot be learnt from.
    """
    bundle = open_model(request, console)
    view = chosen_view(request, bundle, view, console)
    source = open_data(request)
    say_data(source, console)
    if source.multilabel and not multilabel:
        raise UserError(
            f"{source.name} is multi-label data; this protocol tells which one class an image has. Use --protocol linear."
        )
    if "train" not in source.splits:
        raise UserError(
            f"{request.data} has no train split to learn from; it has {', '.join(source.splits)}. Expected train/ and test/ "
            "or val/, each with the folders of the classes."
        )
    if not source.splits["train"]:
        raise UserError(f"{request.data}: the train split is empty; there is nothing to learn from.")
    split = scored_split(request, source, ("test", "val"))
    if split == "train":
        raise UserError("--split train: what is learnt from train cannot be scored on it. Name another split.")
    return Opened(bundle, source, split, view)


class Learnt(NamedTuple):
    """Features of the train split and of the one that is scored."""

    source: Source
    split: str  # that is scored
    dataset: str  # as rows name it
    train: FeatureTable
    test: FeatureTable
    seen: str  # what a reader of the rows must know, empty where nothing


def tables_to_learn(request: Request, console: Console, *, multilabel: bool = False) -> Learnt:
    """`open_to_learn`, and the features of both splits.

    Raises:
        UserError: as `open_to_learn` and `table_of`.
    """
    opened = open_to_learn(request, console, multilabel=multilabel)
    train = opened.table(request, opened.source.splits["train"], "train", console)
    test = opened.table(request, opened.source.splits[opened.split], opened.split, console)
    account(request, opened.source, opened.split, test, train)
    return Learnt(opened.source, opened.split, opened.dataset, train, test, opened.seen(test, console))


def account(
    request: Request, source: Source, split: str, test: FeatureTable, train: FeatureTable | None = None
) -> None:
    """Note the data that a result is of: a fingerprint over the files' contents, those that were learnt from first."""
    digests = [*(train.digests if train else ()), *test.digests]
    request.account.data.update(
        name=source.name,
        split=split,
        images=len(test.samples),
        fingerprint=data_fingerprint(digests),
        **({"train_images": len(train.samples)} if train else {}),
    )
