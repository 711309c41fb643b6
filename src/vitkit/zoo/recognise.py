"""What a foreign checkpoint is: its format, configuration and preprocessing, told from its header before any tensor is read.

What is told more surely wins: the user, then `vitkit.json`, then the JSON files of the weights' own library, then the row of
the zoo, then names and shapes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from vitkit.config import UserError, override, read_json
from vitkit.converters.engine import Told, decode, split_ignored
from vitkit.converters.formats import format_of
from vitkit.data.classnames import CLASS_SETS, class_names, distinct
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.files import SUFFIXES, WeightsFile, open_weights
from vitkit.weights.fill import fill
from vitkit.weights.torch_file import WRAPPERS
from vitkit.zoo.rows import ROWS, Checkpoint, manifest, rows_of_stem
from vitkit.zoo.sidecar import SIDECAR, Sidecar, read_sidecar

__all__ = ["Recognised", "file_sha256", "recognise", "weights_in"]

ADAPTED = ("image_size", "patch_size", "in_channels")  # what a user says of these changes the model after it was read
NAMES = "the tensors' names and shapes"
HEAD_DIM = 64  # the width of a head in nearly all published sizes
GENERIC = ("model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model")  # file stems that name no checkpoint


@dataclass(frozen=True)
class Recognised:
    """A checkpoint file understood, nothing of its tensors read yet."""

    file: WeightsFile
    format: ModuleType
    config: ViTConfig  # its image_size is the one that the stored positions are for
    config_from: str
    tensors: int  # of the file, that the model is made of
    ignored: tuple[str, ...]  # the file's own names of tensors that are no part of the image model
    preprocess: Preprocess | None
    preprocess_from: str
    classes: tuple[str, ...] | None
    row: Checkpoint | None
    source: str
    licence: str
    assumed: tuple[str, ...]  # what nothing told, for people
    sidecar: Sidecar | None = None

    def build(self) -> VisionTransformer:
        """Read the tensors into a model, in eval mode.

        Raises:
            UserError: a file that is damaged or was replaced, tensors that do not fit or are not finite.
        """
        where = str(self.file.path)
        left_out = set(self.ignored)
        wanted = self.file.read([name for name in self.file.header if name not in left_out])
        state = self.format.normalise({**self.file.header, **wanted})  # all names, since wrappers are told from them
        kept, _ = split_ignored(state, self.format.IGNORE)
        del state, wanted
        tensors = decode(kept, self.format.rules(self.config), where)
        with torch.device("meta"):
            model = VisionTransformer(self.config)
        fill(model, tensors, where)
        return model.eval()


def weights_in(folder: Path) -> Path:
    """The one weights file of a folder: an index of shards, or a file; safetensors win over the other containers.

    Raises:
        UserError: none, or several.
    """
    index = sorted(folder.glob("*.index.json"))
    shards = {name for path in index for name in _shards(path)}
    found = index + sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.name not in shards)
    safe = [p for p in found if ".safetensors" in p.name]
    chosen = safe or found
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise UserError(
            f"{folder} holds several weights files ({', '.join(p.name for p in chosen)}): name the one that is meant."
        )
    raise UserError(
        f"{folder} is neither a vitkit bundle (config.json of format 'vitkit-bundle') nor a folder with weights "
        f"({', '.join(SUFFIXES)})."
    )


def _shards(index: Path) -> set[str]:
    weight_map = read_json(index)
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    return set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()


def _declared(folder: Path) -> str | None:
    """The kind of model that config.json names: transformers' ``model_type``, or timm's ``architecture``."""
    try:
        values = read_json(folder / "config.json")
    except (UserError, OSError):
        return None
    if not isinstance(values, dict):
        return None
    kinds = (values.get(name) for name in ("model_type", "architecture"))
    return next((kind for kind in kinds if isinstance(kind, str) and re.fullmatch(r"[\w.-]{1,80}", kind)), None)


class _Source(NamedTuple):
    """One of those who tell something, and how to call it."""

    name: str
    told: Told


def recognise(
    path: Path,
    *,
    source_image_size: tuple[int, int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    row: Checkpoint | None = None,
) -> Recognised:
    """Tell what the checkpoint at ``path``, a file or folder, is.

    Args:
        source_image_size: the image size (H, W) that the stored positions are for, where nothing tells.
        overrides: fields of `ViTConfig` that the user said; ``image_size`` is only a hint here.
        row: of the zoo, where the file was fetched by its name.

    Raises:
        UserError: not a weights file, of no known layout, incomplete, or not telling what it must.
    """
    folder = path if path.is_dir() else path.parent
    sidecar = read_sidecar(folder)
    if path.is_dir():
        path = folder / sidecar.weights if sidecar else weights_in(folder)
    elif sidecar and sidecar.weights != path.name:
        sidecar = None  # it speaks of another file
    file = open_weights(path)
    format_ = format_of(file.header, str(path), _declared(folder))
    if sidecar and sidecar.layout != format_.NAME:
        raise UserError(
            f"{folder / SIDECAR} says {path.name} is of layout {sidecar.layout}; its tensors are {format_.NAME}'s."
        )
    normalised = _guarded(format_, path, lambda: format_.normalise(file.header))
    header, ignored = split_ignored(normalised, format_.IGNORE)
    own = {id(tensor): name for name, tensor in file.header.items()}
    left_out = [own.get(id(normalised[name]), name) for name in ignored]
    row, how = (row, "its name") if row else _row_of(path, format_.NAME, header)
    sources = _sources(format_, folder, sidecar, row, how)
    fields = {name: value for source in reversed(sources) for name, value in source.told.model.items()}
    said = {name: value for name, value in (overrides or {}).items() if name not in ADAPTED}
    size = source_image_size or fields.pop("image_size", None)
    config = _guarded(format_, path, lambda: _at_its_size(format_, header, size, (overrides or {}).get("image_size")))
    untold = sorted(format_.untold(config) - set(fields) - set(said))
    if "num_heads" in untold and config.num_heads == 1 and config.embed_dim != HEAD_DIM:
        raise UserError(
            f"{path}: the number of heads is not in the file, and heads of {HEAD_DIM} do not fill the width "
            f"{config.embed_dim}: say num_heads=..."
        )
    config = override(config, {**{k: v for k, v in fields.items() if k != "image_size"}, **said}, str(path))
    _guarded(format_, path, lambda: _check(format_, header, config, str(path)))
    speaks = [source for source in sources if source.told.preprocess]
    named = [source for source in sources if source.told.classes]
    classes = distinct(named[0].told.classes or ()) if named else None
    if classes is not None and len(classes) != config.num_classes:
        raise UserError(f"{named[0].name} has {len(classes)} class names for a head of {config.num_classes} outputs.")
    who = sidecar or row
    return Recognised(
        file=file,
        format=format_,
        config=config,
        config_from=" and ".join(
            [*(["you"] if said else []), *([source.name for source in sources if source.told.model][:1] or [NAMES])]
        ),
        tensors=len(header),
        ignored=tuple(sorted(left_out)),
        preprocess=speaks[0].told.preprocess if speaks else None,
        preprocess_from=speaks[0].name if speaks else "",
        classes=classes,
        row=row,
        source=_origin(path, sidecar, row),
        licence=who.licence if who else "unknown",
        assumed=(*_assumed(untold, config), *_others(file)),
        sidecar=sidecar,
    )


def _sources(
    format_: ModuleType, folder: Path, sidecar: Sidecar | None, row: Checkpoint | None, how: str
) -> list[_Source]:
    """Who tells something of the checkpoint beside its header, the surest first."""
    sources = []
    if sidecar:
        sources.append(_Source(SIDECAR, Told(_fields(sidecar.model), sidecar.preprocess, sidecar.classes)))
    files = {name: read_json(folder / name) for name in getattr(format_, "SIDECARS", ()) if (folder / name).exists()}
    if files:
        sources.append(_Source(" and ".join(sorted(files)), format_.read_sidecars(files)))
    if row:
        classes = class_names(row.classes) if row.classes in CLASS_SETS else None
        sources.append(
            _Source(f"the zoo's row {row.name} (by {how})", Told(_fields(row.model), row.preprocess, classes))
        )
    return sources


def _fields(config: ViTConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(ViTConfig)}


def _at_its_size(
    format_: ModuleType,
    header: Mapping[str, Tensor],
    size: tuple[int, int] | None,
    run_at: int | tuple[int, int] | None,
) -> ViTConfig:
    """The configuration of a header. Stored positions that equal the grid to run at are of that grid, as are computed ones."""
    if size is None and run_at is not None:
        config: ViTConfig = format_.config(header, (run_at, run_at) if isinstance(run_at, int) else tuple(run_at))
        rows = [header[rule.theirs[0]].shape[1] for rule in format_.rules(config) if rule.ours == "pos_embed"]
        if not rows or rows == [config.position_prefix + config.grid[0] * config.grid[1]]:
            return config
    return format_.config(header, size)


def _origin(path: Path, sidecar: Sidecar | None, row: Checkpoint | None) -> str:
    """One line for people: where the weights came from; of a file whose name says nothing, with its folder's."""
    if sidecar:
        return sidecar.source
    if row:
        return f"{row.name}: {row.source}, trained on {row.trained_on}"
    return f"{path.resolve().parent.name}/{path.name}" if path.name.split(".")[0] in GENERIC else path.name


def _assumed(untold: Sequence[str], config: ViTConfig) -> tuple[str, ...]:
    """What to say of the fields that nothing told."""
    shown = {field: f"{field} {getattr(config, field)}" for field in untold}
    if "num_heads" in shown:
        shown["num_heads"] = f"{config.num_heads} heads of width {config.embed_dim // config.num_heads}"
    return (f"assumed {', '.join(shown.values())}: the file does not tell",) if shown else ()


def _others(file: WeightsFile) -> tuple[str, ...]:
    """What to say of a training checkpoint that holds several models, such as an average beside the last weights."""
    beside = [name for name in file.metadata.get("other_tensors", ()) if name in WRAPPERS]
    if not file.wrappers or not beside:
        return ()
    return (f"the file holds several models: {file.wrappers[-1]} was read, {', '.join(beside)} left out",)


def _check(format_: ModuleType, header: Mapping[str, Tensor], config: ViTConfig, where: str) -> None:
    """Do names and shapes fit the configuration, each of them? Nothing is allocated."""
    with torch.device("meta"):
        expected = VisionTransformer(config).state_dict()
    ours = decode(header, format_.rules(config), where)
    for name, tensor in ours.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, the configuration needs {tuple(expected[name].shape)}."
            )


T = TypeVar("T")


def _guarded(format_: ModuleType, path: Path, read: Callable[[], T]) -> T:
    """What a format reads off names and shapes; it may count on tensors that a foreign or cut file does not have."""
    try:
        return read()
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{path}: tensor {error} is missing; not a whole {format_.NAME} Vision Transformer.") from None
    except (IndexError, ValueError, RuntimeError, TypeError, ZeroDivisionError):
        raise UserError(f"{path}: its tensors have other shapes than a {format_.NAME} Vision Transformer's.") from None


def file_sha256(path: Path) -> str:
    """The checksum of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _row_of(path: Path, format_: str, header: Mapping[str, Tensor]) -> tuple[Checkpoint | None, str]:
    """The row of the zoo with the file's checksum, else the one of the file's stem whose tensors have these shapes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in header.items()}
    known = [row for row in ROWS if row.sha256 and row.format == format_ and manifest(row) == shapes]
    if known:
        digest = file_sha256(path)
        for row in known:
            if digest in row.sha256:
                return row, "its checksum"
    if path.stem not in GENERIC:
        for row in rows_of_stem(path.stem):
            if row.format == format_ and manifest(row) == shapes:
                return row, "its name and shapes"
    return None, ""
