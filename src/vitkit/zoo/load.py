"""From what the user names to a model: a bundle folder, a checkpoint file, or a row of the zoo."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vitkit import converters
from vitkit.bundle import Bundle, is_bundle, read_bundle_config
from vitkit.config import UserError, did_you_mean, override
from vitkit.converters.engine import decode
from vitkit.data.pixels import Preprocess
from vitkit.models.positions import resample_positions
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights import fill, read_tensors
from vitkit.zoo.rows import ROWS, Checkpoint

__all__ = ["adapt_channels", "load_model", "resize"]

MODEL_FIELDS = frozenset(f.name for f in dataclasses.fields(ViTConfig))
PREPROCESS_FIELDS = frozenset(f.name for f in dataclasses.fields(Preprocess))
SUFFIXES = (".safetensors", ".npz")


def load_model(name: str | Path, **overrides: Any) -> Bundle:
    """Load what the user names. Local paths win over names of the zoo.

    Args:
        name: a bundle folder, a ``.safetensors`` or ``.npz`` file, or a zoo name.
        overrides: fields of `ViTConfig` or `Preprocess` that the weights cannot tell; ``image_size`` is the size to run
            at, ``source_image_size`` the size that the stored positions are for.

    Raises:
        UserError: nothing of that name, an unknown override, or weights that do not fit.
    """
    source_image_size = overrides.pop("source_image_size", None)
    if isinstance(source_image_size, int):
        source_image_size = (source_image_size, source_image_size)
    known = MODEL_FIELDS | PREPROCESS_FIELDS | {"source_image_size"}
    for key in overrides:
        if key not in known:
            raise UserError(f"unknown override {key!r}.{did_you_mean(key, known)} Known: {', '.join(sorted(known))}.")
    path = Path(name)
    if path.is_dir():
        if (path / "config.json").is_file():
            read_bundle_config(path)  # says what is wrong with it
        if not is_bundle(path):
            inner = path / "model"
            hint = f" Did you mean {inner}?" if is_bundle(inner) else ""
            raise UserError(f"{path} is not a vitkit bundle (no config.json of format 'vitkit-bundle').{hint}")
        if source_image_size is not None:
            raise UserError(
                "source_image_size is for bare checkpoints; a bundle says itself what its positions are for."
            )
        bundle = Bundle.read(path)
    elif path.is_file():
        bundle = _read_checkpoint(path, source_image_size, overrides)
    else:
        names = [row.name for row in ROWS]
        if str(name) in names:
            raise UserError(
                f"{name} is a known checkpoint, but no file of that name is here. Get it from its publisher "
                f"({next(row.source for row in ROWS if row.name == str(name))}) and give the file's path."
            )
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            f"no model {str(name)!r}: no such file or folder, and not a known name ({', '.join(names)})."
            f"{did_you_mean(path.name, [*names, *near])}"
        )
    return _apply(bundle, overrides)


def _read_checkpoint(path: Path, source_image_size: tuple[int, int] | None, overrides: Mapping[str, Any]) -> Bundle:
    state = _read_state(path)
    names = frozenset(state)
    found = [module for module in _formats() if module.matches(names)]
    if len(found) != 1:
        listed = ", ".join(sorted(names)[:4])
        raise UserError(
            f"{path}: {'no' if not found else 'more than one'} known layout has tensors of these names ({listed}, ...). "
            f"Known: {', '.join(module.NAME for module in _formats())}."
        )
    module = found[0]
    state = module.normalise(state)
    row = _row_of(path, state, module.NAME)
    config = _config(module, state, source_image_size, None if row else overrides.get("image_size"), path)
    notes = []
    told = {**(row.model if row else {}), **{k: v for k, v in overrides.items() if k in MODEL_FIELDS - {"image_size"}}}
    if "num_heads" not in told and module.NAME == "timm":
        if config.embed_dim % 64:
            raise UserError(
                f"{path}: the number of heads is not in the file and {config.embed_dim} / 64 is not whole: say num_heads=..."
            )
        notes.append(f"assumed {config.num_heads} heads of width 64: the file does not tell")
    config = override(config, told, str(path))
    tensors = decode(state, module.rules(config), str(path))
    model = VisionTransformer(config)
    fill(model, tensors, str(path))
    if model.head is not None and not model.head.weight.any():
        notes.append("the head is all zeros: these weights give features, not classes")
    preprocess = Preprocess(**row.preprocess) if row else None  # type: ignore[arg-type]
    return Bundle(
        model=model.eval(),
        preprocess_record=preprocess,
        source=f"{row.name}: {row.source}, trained on {row.trained_on}" if row else str(path.name),
        licence=row.licence if row else "unknown",
        notes=tuple(notes),
    )


def _config(
    module: ModuleType,
    state: Mapping[str, Tensor],
    source: tuple[int, int] | None,
    image_size: int | tuple[int, int] | None,
    path: Path,
) -> ViTConfig:
    """Read the configuration off a checkpoint. Stored positions that equal the grid to run at are of that grid."""
    try:
        if source is None and image_size is not None:
            config: ViTConfig = module.config(state, image_size)
            rows = [state[rule.theirs[0]].shape[1] for rule in module.rules(config) if rule.ours == "pos_embed"]
            if rows == [config.prefix_tokens + config.grid[0] * config.grid[1]]:
                return config
        config = module.config(state, source)
    except KeyError as error:
        raise UserError(f"{path}: tensor {error} is missing; not a whole {module.NAME} Vision Transformer.") from None
    except (IndexError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: its tensors have other shapes than a {module.NAME} Vision Transformer's.") from None
    return config


def _read_state(path: Path) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return read_tensors(path)
    if suffix == ".npz":
        import numpy as np

        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise UserError(f"{path} is not a whole .npz file of arrays: {error}.") from None
        except Exception as error:  # zipfile and zlib raise their own types on damaged archives
            raise UserError(f"{path} is damaged: {error}. Fetch it again.") from None
    raise UserError(f"{path}: weights are read from {' and '.join(SUFFIXES)} files, and bundles from folders.")


def _formats() -> list[ModuleType]:
    names = [module.name for module in pkgutil.iter_modules(converters.__path__) if module.name != "engine"]
    modules = [importlib.import_module(f"vitkit.converters.{name}") for name in sorted(names)]
    return [module for module in modules if hasattr(module, "matches")]


def _row_of(path: Path, state: Mapping[str, Tensor], format_: str) -> Checkpoint | None:
    """The row with the file's checksum, else one of the file's stem whose parameter count is the file's."""
    parameters = sum(tensor.numel() for tensor in state.values())
    candidates = [row for row in ROWS if (row.parameters, row.format) == (parameters, format_)]
    if not candidates:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    by_digest = [row for row in candidates if digest in row.sha256]
    return next(iter(by_digest or [row for row in candidates if row.name == path.stem]), None)


def _apply(bundle: Bundle, overrides: Mapping[str, Any]) -> Bundle:
    """Change the size and the settings of a loaded model."""
    changes = {k: v for k, v in overrides.items() if k in MODEL_FIELDS}
    image_size = changes.pop("image_size", None)
    config = override(bundle.config, changes, "override")
    if config != bundle.config:
        model = VisionTransformer(config)
        fill(model, bundle.model.state_dict(), "override")
        bundle.model = model.eval()
    told = {k: v for k, v in overrides.items() if k in PREPROCESS_FIELDS}
    if image_size is not None:
        bundle.model = resize(bundle.model, image_size)
        told["image_size"] = bundle.config.image_size
    if told and bundle.preprocess_record is not None:
        bundle.preprocess_record = override(bundle.preprocess_record, told, "override")
    elif {"mean", "std"} <= set(told):
        bundle.preprocess_record = Preprocess(**{"image_size": bundle.config.image_size, **told})
    elif set(told) - {"image_size"}:
        raise UserError(
            "nothing says how images were prepared for these weights: also say "
            f"{' and '.join(name for name in ('mean', 'std') if name not in told)}."
        )
    return bundle


@torch.no_grad()
def adapt_channels(model: VisionTransformer, channels: int) -> VisionTransformer:
    """An RGB model for images of another number of channels; in eval mode.

    One channel gets the sum of the three first-layer kernels. Otherwise the kernels of red, green and blue repeat over the
    channels, times 3 / channels, so that the sum over like inputs keeps its size.
    Source: `adapt_input_conv` of timm (github.com/huggingface/pytorch-image-models, timm/models/_manipulate.py).

    Raises:
        UserError: the model's own images are not RGB.
    """
    if channels == model.config.in_channels:
        return model
    if model.config.in_channels != 3:
        raise UserError(
            f"the model takes images of {model.config.in_channels} channels; only a model of RGB images can be adapted. "
            f"Say --channels {model.config.in_channels}, or start from another model."
        )
    adapted = VisionTransformer(dataclasses.replace(model.config, in_channels=channels))
    state = dict(model.state_dict())
    kernel = state["patch_embed.weight"]  # (D, 3, patch height, patch width)
    if channels == 1:
        state["patch_embed.weight"] = kernel.sum(dim=1, keepdim=True)
    else:
        state["patch_embed.weight"] = kernel.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    adapted.load_state_dict(state)
    return adapted.eval()


def resize(model: VisionTransformer, image_size: int | tuple[int, int]) -> VisionTransformer:
    """The same model at another image size, positions resampled by the model's own rule; in eval mode."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    config = dataclasses.replace(model.config, image_size=size)
    if config == model.config:
        return model
    resized = VisionTransformer(config)
    state = dict(model.state_dict())
    if "pos_embed" in state:
        state["pos_embed"] = resample_positions(
            state["pos_embed"], model.config.grid, config.grid, config.prefix_tokens, config.position_rule
        )
    resized.load_state_dict(state)
    return resized.eval()
