"""Where 8 bits go: the range of what enters each linear layer of the blocks, found on images that are then not scored.

A layer's inputs have one scale for all channels. Channels that are much larger than others would take all of it: their size moves
into the weights first, as far as that lessens the error of the layer's output (`packed.quantised.smoothed`). The ends of
the range are then cut off as far as that lessens it. Layers that still cost too much stay in higher precision, with the reason.

``int8.json`` beside a model holds what was found.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitkit.bundle import Bundle
from vitkit.config import UserError, from_dict, read_json
from vitkit.console import Console
from vitkit.engines.kept.places import candidates, engine_folder, fingerprint, write_whole
from vitkit.engines.packed.private_int8 import LEVELS
from vitkit.engines.packed.quantised import imitate, quantised_weight, smoothed, steps_of
from vitkit.exporters.graph import Range
from vitkit.models.vit import VisionTransformer

__all__ = [
    "FEWEST",
    "FILE",
    "MOST",
    "Calibration",
    "calibrate",
    "find_calibration",
    "for_calibration",
    "linear_names",
    "prepared",
    "read_calibration",
    "split",
    "write_calibration",
]

Array = np.ndarray[Any, Any]
FILE, FORMAT = "int8.json", "vitkit-int8"
VERSION = 1
FEWEST, MOST = 8, 128  # images: fewer say too little about ranges, more change nothing
SHARE = 0.25  # of images that calibrate
ROWS = 256  # of a layer's inputs that are kept to try ranges on
KEPT_BYTES = 2**28  # of all layers' rows at most
STRENGTHS = (0.35, 0.5, 0.65, 0.8)  # how much of the difference between channels the weights take
CUTS = (0.9, 0.8, 0.7, 0.6, 0.5)  # of the range
ERROR = 0.04  # of logits, relative to their length, that 8 bits may make
COSTLY = 0.25  # of the blocks' multiplications that may stay in higher precision
ALONE = 8  # images on which layers are tried one by one
JUDGED = 32  # images on which ways to find ranges are compared


@dataclass(frozen=True)
class Calibration:
    """What `quantise` needs to know of a model."""

    model: str  # fingerprint of the model that it belongs to
    ranges: Mapping[str, Range]  # of the input of each Linear in 8 bits, of the model with `factors` moved
    factors: Mapping[str, tuple[float, ...]]  # of a Linear's input channels, see `smoothed`
    kept: Mapping[str, str]  # Linear of a block in higher precision -> why
    images: int
    digests: tuple[str, ...]  # SHA-256 of each calibration image, as its float32 array
    error: float  # of logits on these images, relative to their length
    agreement: float  # share of these images with the same first class
    method: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell beside a result."""
        high = ["patches, pooling and heads", "LayerNorm, softmax, GELU and sums"]
        if self.kept:
            high.append(", ".join(f"{name} ({why})" for name, why in self.kept.items()))
        return (
            f"calibrated on {self.images} images: relative error of logits {self.error:.3f}, the same first class on "
            f"{100 * self.agreement:.1f}% of them",
            f"in higher precision: {'; '.join(high)}",
        )


class _Seen(NamedTuple):
    """What entered a layer, channel by channel."""

    low: Tensor  # (K,), of all tokens
    high: Tensor  # (K,)
    rows: Tensor  # (R, K), some tokens


def linear_names(model: VisionTransformer) -> list[str]:
    """The layers that may be computed in 8 bits, in order: the four Linears of each block."""
    return [
        f"blocks.{n}.{part}"
        for n in range(len(model.blocks))
        for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]


def for_calibration(digest: str) -> bool:
    """Is the image whose file has this SHA-256 (hexadecimal) one that calibrates? Such images are never scored.

    A function of the content alone: the same image calibrates wherever it is met, and a copy of it is never scored either.
    """
    return int(digest[:8], 16) < SHARE * 2**32


def split(digests: Sequence[str]) -> tuple[list[int], list[int]]:
    """(places of images that calibrate, of those that may be scored), by the SHA-256 of each image's file.

    Raises:
        UserError: too few of either.
    """
    ours = [place for place, digest in enumerate(digests) if for_calibration(digest)]
    scored = [place for place, digest in enumerate(digests) if not for_calibration(digest)]
    if len(ours) < FEWEST or not scored:
        raise UserError(
            f"{len(ours)} of {len(digests)} images calibrate and {len(scored)} are left to score; int8 needs at least {FEWEST} to "
            f"calibrate with, a quarter of all by their content. Give at least {round(2 * FEWEST / SHARE)} images."
        )
    return ours[:MOST], scored


def calibrate(bundle: Bundle, images: Iterable[Array], console: Console) -> Calibration:
    """Find the ranges of a model's layers on preprocessed images (C, H, W), of which the first 128 are taken.

    Raises:
        UserError: fewer than 8 images, images of another size, or values that are not finite.
    """
    model = bundle.model.eval()
    batch = [np.ascontiguousarray(image, dtype=np.float32) for image in islice(images, MOST)]
    if len(batch) < FEWEST:
        raise UserError(f"int8 is calibrated on at least {FEWEST} images, got {len(batch)}. Give more images.")
    names = linear_names(model)
    with torch.inference_mode():
        seen, logits = _observe(model, names, batch, console)
    for name, found in seen.items():
        if not (found.low.isfinite().all() and found.high.isfinite().all()):
            raise UserError(f"{name} reads values that are not finite; such a model cannot be computed in int8.")
    plans: dict[str, _Plan] = {"whole ranges": _Plan({}, {}), "moved": _Plan({}, {}), "moved and cut": _Plan({}, {})}
    with torch.inference_mode():
        for name in console.track(names, len(names), "finding ranges", "layer"):
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            fitted = _fit(weight, seen[name], movable=not name.endswith("fc2"))
            for plan, (factor, limits) in zip(plans.values(), fitted, strict=True):
                plan.ranges[name] = _on_steps(limits)
                if factor is not None:
                    plan.factors[name] = factor
        del seen, weight
        few = batch[:JUDGED]
        judged = {
            method: _compare(imitate(smoothed(model, plan.factors), plan.ranges), few, logits[:JUDGED])[0]
            for method, plan in plans.items()
        }
        method = min(judged, key=lambda name: judged[name])
        plan = plans[method]
        moved = smoothed(model, plan.factors)
        kept = _keep(moved, plan.ranges, batch, console)
        ranges = {name: limits for name, limits in plan.ranges.items() if name not in kept}
        error, agreement = _compare(imitate(moved, ranges), batch, logits)
    return Calibration(
        model=fingerprint(bundle),
        ranges=ranges,
        factors={name: tuple(factor.tolist()) for name, factor in plan.factors.items()},
        kept=kept,
        images=len(batch),
        digests=tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in batch),
        error=error,
        agreement=agreement,
        method=f"{method}; errors of logits: " + ", ".join(f"{name} {value:.4f}" for name, value in judged.items()),
    )


class _Plan(NamedTuple):
    ranges: dict[str, Range]
    factors: dict[str, Tensor]


def _observe(
    model: VisionTransformer, names: Sequence[str], batch: Sequence[Array], console: Console
) -> tuple[dict[str, _Seen], Tensor]:
    """What enters each layer, and the model's logits (n, O)."""
    widths = [cast(nn.Linear, model.get_submodule(name)).in_features for name in names]
    rows = min(ROWS, KEPT_BYTES // (4 * sum(widths)))
    each = max(1, rows // len(batch))
    draw = torch.Generator().manual_seed(0)
    first = model.config.prefix_tokens  # these always: heads read them, and they are unlike others
    seen: dict[str, _Seen] = {}

    def look(name: str, x: Tensor) -> None:
        tokens = x.flatten(0, -2)  # (tokens, K)
        others = torch.randperm(len(tokens) - first, generator=draw)[: max(1, each - first)] + first
        rows = tokens[torch.cat([torch.arange(first), others])]
        low, high = tokens.aminmax(dim=0)
        if before := seen.get(name):
            low, high = low.minimum(before.low), high.maximum(before.high)
            rows = torch.cat([before.rows, rows])
        seen[name] = _Seen(low, high, rows)

    logits = []
    with _looking(model, names, look):
        for image in console.track(batch, len(batch), "calibrating"):
            logits.append(model(torch.from_numpy(image)[None]))
    return seen, torch.cat(logits).flatten(1)


@contextmanager
def _looking(model: VisionTransformer, names: Sequence[str], look: Any) -> Iterator[None]:
    """Call ``look(name, input)`` whenever one of the layers is called."""
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs[0]))
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fit(weight: Tensor, seen: _Seen, *, movable: bool) -> list[tuple[Tensor | None, Range]]:
    """(factors of the channels or None, range): the whole range; with factors; with factors and its ends cut off.

    Least error of the layer's output decides, of each token relative to its size.
    """
    wanted = seen.rows @ weight.T
    sizes = wanted.square().sum(dim=1, keepdim=True)
    sizes = sizes.clamp_min(1e-3 * float(sizes.mean()) + 1e-30)

    def noise(rows: Tensor, rounded: Tensor, limits: Range) -> float:
        scale, zero = steps_of(limits)
        steps = (rows / scale).round_().add_(zero).clamp_(0, LEVELS).sub_(zero).mul_(scale)
        return float(((steps @ rounded.T).sub_(wanted).square_() / sizes).sum())

    def tried(factor: Tensor | None) -> tuple[float, Tensor | None, Range, Tensor, Tensor]:
        f = torch.ones_like(seen.low) if factor is None else factor
        whole, scales = quantised_weight(weight * f)
        limits = Range(float((seen.low / f).min()), float((seen.high / f).max()))
        rows, rounded = seen.rows / f, whole * scales[:, None]
        return noise(rows, rounded, limits), factor, limits, rows, rounded

    plain = tried(None)
    strengths = [tried(_factor(weight, seen, strength)) for strength in STRENGTHS] if movable else []
    _, factor, limits, rows, rounded = min([plain, *strengths], key=lambda found: found[0])
    low, high = min(limits.low, 0.0), max(limits.high, 0.0)
    one_sided = min(-low, high) < 0.5 * max(-low, high)  # then the longer end alone
    cuts = [limits] + [
        Range(low if one_sided and -low < high else low * cut, high if one_sided and high < -low else high * cut)
        for cut in CUTS
    ]
    cut = min(cuts, key=lambda ends: noise(rows, rounded, ends))
    return [plain[1:3], (factor, limits), (factor, cut)]


def _keep(
    model: VisionTransformer, ranges: Mapping[str, Range], batch: Sequence[Array], console: Console
) -> dict[str, str]:
    """Layers that are to stay in higher precision, and why: those that add most to the error of logits for what they compute.

    Errors of single layers, measured, add up as squares. Layers are kept until what is left is `ERROR`, or they do `COSTLY` of all
    multiplications.
    """
    count = max(1, min(ALONE, len(batch), KEPT_BYTES // (4 * _tokens(model) * len(model.blocks))))
    images = torch.from_numpy(np.stack(batch[:count]))
    entered: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])) for block in model.blocks]
    try:
        wanted = model(images)
    finally:
        for handle in handles:
            handle.remove()
    squares: dict[str, float] = {}
    for name in console.track(list(ranges), len(ranges), "one layer at a time", "layer"):
        index = int(name.split(".")[1])
        tried = imitate(model, {name: ranges[name]})
        blocks = cast(nn.ModuleList, tried.blocks)
        for before in range(index):
            blocks[before] = nn.Identity()
        blocks[index].register_forward_pre_hook(lambda *_, x=entered[index]: (x,))
        squares[name] = float((tried(images) - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30))
    size = {name: cast(nn.Linear, model.get_submodule(name)).weight.numel() for name in ranges}
    kept: dict[str, str] = {}
    left, spent = sum(squares.values()), 0
    for name in sorted(ranges, key=lambda name: squares[name] / size[name], reverse=True):
        if left <= ERROR**2:
            break
        if spent + size[name] > COSTLY * sum(size.values()):
            continue
        kept[name] = f"alone an error of {squares[name] ** 0.5:.3f}"
        left, spent = left - squares[name], spent + size[name]
    return {name: kept[name] for name in ranges if name in kept}


def _tokens(model: VisionTransformer) -> int:
    """Numbers in the tokens of an image."""
    h, w = model.config.grid
    return (model.config.prefix_tokens + h * w) * model.config.embed_dim


def _factor(weight: Tensor, seen: _Seen, strength: float) -> Tensor:
    """Source: arXiv 2211.10438, equation 4."""
    largest = seen.high.maximum(-seen.low)
    largest = largest.clamp_min(1e-5 * float(largest.max()) + 1e-12)
    weights = weight.abs().amax(dim=0)
    weights = weights.clamp_min(1e-5 * float(weights.max()) + 1e-12)
    factor = largest**strength / weights ** (1 - strength)
    return factor / factor.log().mean().exp()


def _on_steps(limits: Range) -> Range:
    """The range that the steps cover, in which 0 is a step."""
    scale, zero = steps_of(limits)
    return Range(-zero * scale, (LEVELS - zero) * scale)


def _compare(model: nn.Module, batch: Sequence[Array], wanted: Tensor) -> tuple[float, float]:
    """(relative error of logits, share of images with the same first class)."""
    found = torch.cat([model(torch.from_numpy(image)[None]) for image in batch]).flatten(1)
    same = (found.argmax(dim=1) == wanted.argmax(dim=1)).float().mean()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30)), float(same)


def write_calibration(bundle: Bundle, calibration: Calibration) -> Path:
    """Keep a calibration beside its model, or in the cache folder where that cannot be written.

    Raises:
        UserError: it is of another model, or no place can be written.
    """
    _check_model(bundle, calibration, "the calibration")
    path = engine_folder(bundle) / FILE
    told = {"format": FORMAT, "format_version": VERSION, **dataclasses.asdict(calibration)}
    told["ranges"] = {name: list(limits) for name, limits in calibration.ranges.items()}
    return write_whole(path, lambda partial: partial.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8"))


def find_calibration(bundle: Bundle) -> Path | None:
    """The file that says how to compute this model in 8 bits; None where it was not calibrated."""
    return next((path for folder in candidates(bundle) if (path := folder / FILE).exists()), None)


def read_calibration(bundle: Bundle) -> Calibration:
    """The calibration that is kept for a model.

    Raises:
        UserError: there is none, it is of another model or a newer format, or it is damaged.
    """
    path = find_calibration(bundle)
    if path is None:
        raise UserError(
            "int8 needs to be calibrated once on images like those to come: "
            "vit benchmark MODEL --images DATA --precisions int8 --store"
        )
    told = read_json(path)
    if not isinstance(told, dict) or told.pop("format", None) != FORMAT:
        raise UserError(f"{path} is not a calibration. Delete it and calibrate again.")
    if (version := told.pop("format_version", None)) != VERSION:
        raise UserError(f"{path} has format {version}; this vitkit reads {VERSION}. Delete it and calibrate again.")
    calibration = from_dict(Calibration, told, str(path))
    _check_model(bundle, calibration, str(path))
    try:
        ranges = {name: Range(*map(float, limits)) for name, limits in calibration.ranges.items()}
        factors = {name: tuple(map(float, values)) for name, values in calibration.factors.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}. Delete it and calibrate again.") from None
    known = linear_names(bundle.model)
    for name, limits in ranges.items():
        if name not in known or not -math.inf < limits.low <= 0 <= limits.high < math.inf:
            raise UserError(
                f"{path}: {name} from {limits.low} to {limits.high} is no range of this model. Calibrate again."
            )
    for name, values in factors.items():
        width = bundle.model.get_submodule(name).in_features if name in known else None
        if len(values) != width or not all(0 < value < math.inf for value in values):
            raise UserError(f"{path}: the factors of {name} do not fit this model. Calibrate again.")
    return dataclasses.replace(calibration, ranges=ranges, factors=factors)


def _check_model(bundle: Bundle, calibration: Calibration, what: str) -> None:
    if calibration.model != fingerprint(bundle):
        raise UserError(f"{what} is of another model: weights or image size differ. Calibrate this one.")


def prepared(bundle: Bundle, calibration: Calibration | None = None) -> tuple[VisionTransformer, Mapping[str, Range]]:
    """(model to write or to quantise, ranges of its layers) from a calibration, by default the one that is kept.

    The model computes what the bundle's does, with channels' sizes moved into weights, see `smoothed`.

    Raises:
        UserError: as `read_calibration`.
    """
    found = read_calibration(bundle) if calibration is None else calibration
    factors = {name: torch.tensor(values) for name, values in found.factors.items()}
    return smoothed(bundle.model, factors), found.ranges
