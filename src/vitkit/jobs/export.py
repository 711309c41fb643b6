"""`vit export`: a model as a graph for another runtime, written, scored there, and refused where it does not answer as the model.

The steps, in order: understand; the model; the images; 8 bits; write; compare; time; judge; put in place.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitkit.artefact import Artefact, find_artefact, read_artefact
from vitkit.bundle import Bundle
from vitkit.config import UserError, check_writable
from vitkit.console import Console
from vitkit.data.pixels import MAX_PIXELS, ImageError
from vitkit.data.random_pixels import random_images
from vitkit.engines.calibration import FEWEST, Calibration, calibrate
from vitkit.engines.eager import EagerEngine
from vitkit.engines.exported import exported_engine
from vitkit.engines.stream import inputs_of, stream
from vitkit.engines.wrapped import WrappedEngine
from vitkit.evals.scoring import judge, task_of
from vitkit.exporting.card import card
from vitkit.exporting.graphs import check_target, notes_of, write_graph_files, write_record
from vitkit.exporting.images import RANDOM, CheckImages, find_images_to_check
from vitkit.exporting.proof import Proof, compare, refusals
from vitkit.exporting.speed import speed_of
from vitkit.zoo.load import load_model

__all__ = ["ExportResult", "export"]

Array = np.ndarray
TIMED = 8  # images of a timed call


@dataclass(frozen=True)
class ExportResult:
    """What was written and how it was proved."""

    folder: Path
    target: str
    precision: str
    proof: Proof
    refused: tuple[str, ...]  # what it was written in spite of, with ``force``
    bytes: int  # of the graph's files

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "folder": str(self.folder), "target": self.target, "precision": self.precision, "bytes": self.bytes,
            "refused": list(self.refused), "proof": self.proof.to_dict(),
        }  # fmt: skip


def export(
    model: str | Path | Bundle,
    to: str,
    *,
    out: str | Path | None = None,
    precision: str = "fp32",
    check: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    force: bool = False,
    timed: bool = True,
    workers: int = 2,
    max_pixels: int = MAX_PIXELS,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> ExportResult:
    """Write ``model`` for ``onnx``, ``openvino`` or ``torch``, prove it in that runtime, and put it in place if it passes.

    Args:
        model: a bundle, a bundle folder, a checkpoint or a name of the zoo.
        out: the artefact's folder; by default beside the model, named after it.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        check: images to compare answers on, labelled or not; by default the validation images of the run that made the model.
        image_size: (height, width) to run at, at which positions are fixed.
        force: write it though it does not pass; the reasons stay with it.
        timed: also measure its speed, which int8 needs to pass.
        workers: threads that decode images.
        max_pixels: larger images are left out.
        overrides: see `vitkit.load`.

    Raises:
        UserError: as `vitkit.load`; a target or precision that cannot be had here; images that are missing; a place that is
            taken; an artefact that does not pass.
    """
    console = console or Console()
    check_target(to, precision)
    if image_size is not None:
        overrides = {**(overrides or {}), "image_size": image_size}
    bundle = _model(model, overrides or {})
    for note in bundle.notes:
        console.warn(note)
    target = _destination(model, out, to, precision)
    bundle.require_preprocess()
    c = bundle.config
    images = find_images_to_check(bundle, check, precision == "int8", console)
    console.say(f"model     {model if not isinstance(model, Bundle) else bundle.source}: {c.embed_dim} wide, {c.depth} deep, "
                f"{c.num_classes} classes, {c.image_size[0]}x{c.image_size[1]}")  # fmt: skip
    console.say(f"export    {to}, {precision}, to {target}")
    console.say(f"check     {images.name}")
    calibration = _calibrated(bundle, images, workers, max_pixels, console) if precision == "int8" else None
    notes = notes_of(to, precision, calibration)
    with _apart(target) as folder:
        console.say("writing   the graph")
        files = write_graph_files(bundle, folder, to, precision, calibration)
        engine = _engine(bundle, folder, to, precision)
        proof, pixels = _compared(bundle, engine, images, workers, max_pixels, console)
        if timed:
            proof = dataclasses.replace(proof, speed=_speed(bundle, engine, to, precision, folder, pixels, console))
        reasons = refusals(proof, precision)
        for line in proof.describe():
            console.say(f"proof     {line}")
        if reasons and not force:
            raise UserError(f"the export to {to} in {precision} is refused: {'; '.join(reasons)}. Nothing was written to {target}. "
                            "--force writes it all the same.")  # fmt: skip
        notes += tuple(f"exported with --force although {reason}" for reason in reasons)
        for reason in reasons:
            console.warn(f"written with --force although {reason}")
        text = card(bundle, to, precision, proof.describe(), notes)
        write_record(bundle, folder, to, precision, files, proof.to_dict(), notes, text)
        size = sum((folder / name).stat().st_size for name in files)
        _put(folder, target)
    console.say(f"wrote     {target}: {size / 1e6:.1f} MB; vit predict {target} IMAGES answers with it")
    return ExportResult(target, to, precision, proof, tuple(reasons), size)


def _model(model: str | Path | Bundle, overrides: Mapping[str, Any]) -> Bundle:
    bundle = model if isinstance(model, Bundle) else load_model(model, **overrides)
    if bundle.artefact is not None:
        raise UserError(f"{bundle.place} is an exported artefact already; export the model that it was made from.")
    if isinstance(model, Bundle) and overrides:
        raise UserError("a loaded bundle is exported as it is; give overrides to vitkit.load.")
    return bundle


def _destination(model: str | Path | Bundle, out: str | Path | None, to: str, precision: str) -> Path:
    """Where the artefact goes.

    Raises:
        UserError: the place is taken by something else, cannot be written, or has to be named.
    """
    if out is None:
        if isinstance(model, Bundle) or not Path(model).exists():
            raise UserError("name the folder to write: -o DST (a model that is no file or folder has none beside it).")
        path = Path(model).resolve()
        base = path.with_suffix("") if path.is_file() else path
        target = base.with_name(f"{base.name}-{to}-{precision}")
    else:
        target = Path(out)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and find_artefact(target) is None)):
        raise UserError(f"{target} exists and is no exported artefact. Choose another folder with -o.")
    check_writable(target)
    return target


def _calibrated(bundle: Bundle, images: CheckImages, workers: int, max_pixels: int, console: Console) -> Calibration:
    """Where 8 bits go, found on images that are not compared.

    Raises:
        UserError: too few of them.
    """
    found = [each for each in inputs_of(bundle.require_preprocess(), images.calibrating, workers, max_pixels)
             if not isinstance(each, ImageError)]  # fmt: skip
    if len(found) < FEWEST:
        raise UserError(
            f"{images.name}: {len(found)} images are left to calibrate int8 on, at least {FEWEST} are needed (a quarter of the "
            f"images of --check, by their content). Give at least {5 * FEWEST} images."
        )
    console.say(f"int8      calibrating on {len(found)} images, on which nothing is compared")
    return calibrate(bundle, found, console)


def _engine(bundle: Bundle, folder: Path, target: str, precision: str) -> WrappedEngine:
    """The runtime with the graph in a folder that has no record as yet."""
    record = bundle.require_preprocess()
    return exported_engine(
        Artefact(
            folder, target, precision, "", "", 0, {}, bundle.answers, record, bundle.source, bundle.licence, {}, {}, ()
        )
    )


def _compared(
    bundle: Bundle, engine: WrappedEngine, images: CheckImages, workers: int, max_pixels: int, console: Console
) -> tuple[Proof, Array]:
    """The proof without speed, and a few images (n, C, H, W).

    Raises:
        UserError: no image can be used.
    """
    record, plain = bundle.require_preprocess(), EagerEngine(bundle.model)
    if not images.samples:
        pixels = random_images(record, RANDOM)
        names = [f"random {number}" for number in range(len(pixels))]
        wanted, found = plain(pixels), engine(pixels)
        kept, skipped = [], 0
    else:
        sources = [sample.source for sample in images.samples]
        rows = {}
        for name, each in (("PyTorch", plain), (engine.facts.name, engine)):
            outputs = stream(each, record, sources, workers=workers, max_pixels=max_pixels)
            rows[name] = list(console.track(outputs, len(sources), f"scoring with {name}"))
        pairs = [pair for pair in zip(images.samples, *rows.values(), strict=True)
                 if not any(isinstance(each, ImageError) for each in pair[1:])]  # fmt: skip
        skipped = len(sources) - len(pairs)
        if not pairs:
            raise UserError(f"{images.name}: none of them can be used, the first: {next(iter(rows.values()))[0]}.")
        if skipped:
            console.warn(f"left out {skipped} images that cannot be used")
        kept = [pair[0] for pair in pairs]
        names = [sample.name for sample in kept]
        wanted, found = (
            type(pairs[0][side])(*(np.stack(parts) for parts in zip(*(pair[side] for pair in pairs), strict=True)))
            for side in (1, 2)
        )
        few = inputs_of(record, [sample.source for sample in kept[:TIMED]], workers, max_pixels)
        pixels = np.stack([each for each in few if not isinstance(each, ImageError)])
    figures = dict(compare(bundle.answers, names, wanted.logits, found.logits))
    accuracy: dict[str, Any] = {}
    if images.labelled:
        task = task_of(bundle)
        before, after = (judge(bundle, kept, each.logits, each.features, ()).scores.values[task.headline]
                         for each in (wanted, found))  # fmt: skip
        accuracy = {"metric": task.shown, "model_accuracy": before, "accuracy": after}
    proof = Proof(**figures, **accuracy, real=bool(images.samples), name=images.name, skipped=skipped)
    return proof, pixels[:TIMED]


def _speed(
    bundle: Bundle, engine: WrappedEngine, to: str, precision: str, folder: Path, pixels: Array, console: Console
) -> Any:
    """In turn with plain PyTorch and, where this is not fp32, with the same target in fp32."""
    console.say("timing    in turn with plain PyTorch" + ("" if precision == "fp32" else f" and with {to} in fp32"))
    sides: dict[str, Any] = {"this": engine, "plain": EagerEngine(bundle.model)}
    beside = folder / ".fp32"
    try:
        if precision != "fp32":
            write_graph_files(bundle, beside, to, "fp32")
            sides["fp32"] = _engine(bundle, beside, to, "fp32")
        return speed_of(sides, np.resize(pixels, (TIMED, *pixels.shape[1:])))
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def _apart(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` that is gone afterwards, whatever happens."""
    folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}. Free space or choose another place."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(folder: Path, target: Path) -> None:
    """The finished folder becomes ``target``; an artefact that is there stays whole until then."""
    read_artefact(folder)  # as everybody will
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.replace(old)
    folder.replace(target)
    shutil.rmtree(old, ignore_errors=True)
