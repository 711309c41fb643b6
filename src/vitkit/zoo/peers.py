"""Comparison with an independent implementation of the same model, where its library is installed.

The product needs none of these libraries. Each reads the file itself where it has code for its layout and the model runs at the
size it is stored for; else it gets, by its own strict loader, what our converter writes, which proves the model but not the
reading.
"""

from __future__ import annotations

import dataclasses
import importlib
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from vitkit.bundle import Bundle
from vitkit.config import UserError, read_json
from vitkit.converters import timm, torchvision
from vitkit.converters.engine import encode
from vitkit.zoo.recognise import Recognised
from vitkit.zoo.write import differences, write_checkpoint

__all__ = ["Compared", "NotComparedError", "compare_with_peer"]


class NotComparedError(Exception):
    """Why there is nothing to compare with; a fact to print, not an error."""


@dataclass(frozen=True)
class Compared:
    """Outputs of two implementations on noise images."""

    library: str  # with its version
    model: str
    difference: float  # max |difference|
    scale: float  # max |output|
    own_reading: bool  # the library read the file by its own code


def compare_with_peer(bundle: Bundle, found: Recognised | None) -> Compared:
    """Compare the outputs of a model with those of the library that the checkpoint is from, else of timm.

    Raises:
        NotComparedError: the library is not installed, or has no such model.
    """
    layout = found.format.NAME if found else ""
    run = _hugging_face if layout.startswith("huggingface") else _torchvision if layout == "torchvision" else _timm
    config = bundle.config
    images = torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(0))
    try:
        library, model, theirs, own_reading = run(bundle, found)
    except UserError as error:
        raise NotComparedError(str(error)) from None
    with torch.inference_mode():
        ours, other = bundle.model(images), theirs(images)
    return Compared(library, model, (ours - other).abs().max().item(), ours.abs().max().item(), own_reading)


def _import(name: str) -> ModuleType:
    """A library that may be absent, or broken: either way there is nothing to compare with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise NotComparedError(f"{name} is not installed ({error})") from None
    except Exception as error:  # a torchvision of another torch fails in ways of its own
        raise NotComparedError(f"{name} is installed but cannot be imported ({error})") from None


# library, model, what it computes, whether it read the file itself
Peer = tuple[str, str, Callable[[Tensor], Tensor], bool]


def _as_stored(bundle: Bundle, found: Recognised | None) -> bool:
    """Is the model that of the file, neither resized nor told otherwise?"""
    return found is not None and found.config == dataclasses.replace(bundle.config, head_bias=found.config.head_bias)


def _timm(bundle: Bundle, found: Recognised | None) -> Peer:
    library = _import("timm")
    own = dict(bundle.model.state_dict())
    config, state = timm.prepare(bundle.config, own)
    told: dict[str, Any] = timm.write_sidecars(config, bundle.preprocess_record, None)["config.json"]
    model = library.create_model(
        told["architecture"], pretrained=False, num_classes=config.num_classes, **told["model_args"]
    )
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = config.norm_eps  # which a file of timm's cannot say
    model.eval()
    own_reading = found is not None and _as_stored(bundle, found) and _read_by_timm(model, found)
    if not own_reading:
        model.load_state_dict(encode(state, timm.rules(config)), strict=True)
    return f"timm {library.__version__}", told["architecture"], model, own_reading


def _read_by_timm(model: Any, found: Recognised) -> bool:
    """Let timm read the file by its own code; False where it has none for all of the model's tensors."""
    if any(name.endswith("head.proj.bias") for name in found.file.header):
        return False  # of OpenCLIP; timm leaves it out without a word
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    try:
        if found.file.path.suffix == ".npz":
            model.load_pretrained(str(found.file.path))
        else:
            adapt = _import("timm.models.vision_transformer").checkpoint_filter_fn
            model.load_state_dict(adapt(found.file.read(), model), strict=True)
    except (RuntimeError, KeyError, AssertionError, AttributeError, TypeError, ValueError, IndexError):
        return False
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def _torchvision(bundle: Bundle, found: Recognised | None) -> Peer:
    assert found is not None
    library = _import("torchvision.models.vision_transformer")
    c = bundle.config
    tensors = encode(dict(bundle.model.state_dict()), torchvision.rules(c))
    fixed = torchvision.untold(c)
    if other := [text for name, text in differences(torchvision, c, tensors).items() if name not in fixed]:
        raise NotComparedError(f"torchvision has no such model: {'; '.join(other)}")
    if c.image_size[0] != c.image_size[1] or c.in_channels != 3 or not c.num_classes:
        raise NotComparedError("torchvision's models take square RGB images and have a head of classes")
    model = library.VisionTransformer(
        c.image_size[0], c.patch_size[0], c.depth, c.num_heads, c.embed_dim, c.mlp_dim,
        num_classes=c.num_classes, representation_size=c.representation_size or None,
    )  # fmt: skip
    own_reading = True
    try:
        model.load_state_dict(found.file.read() if _as_stored(bundle, found) else {}, strict=True)
    except RuntimeError:
        own_reading = False
        model.load_state_dict(tensors, strict=True)
    return f"torchvision {_import('torchvision').__version__}", "VisionTransformer", model.eval(), own_reading


def _hugging_face(bundle: Bundle, found: Recognised | None) -> Peer:
    library = _import("transformers")
    library.logging.set_verbosity_error()  # it would print its own lines between ours
    library.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(bundle, Path(folder), "huggingface")
        name = read_json(Path(folder) / "config.json")["architectures"][0]
        try:
            class_ = getattr(library, name)  # imports the model's module, and with it torchvision
        except (ImportError, RuntimeError, AttributeError) as error:
            raise NotComparedError(f"transformers is installed, but its {name} cannot be imported ({error})") from None
        own_reading = found is not None and _as_stored(bundle, found) and _is_their_folder(found)
        model, wrong = _from_pretrained(class_, found.file.path.parent if found and own_reading else Path(folder))
        if own_reading and wrong:
            own_reading = False
            model, wrong = _from_pretrained(class_, Path(folder))
    if wrong:
        raise NotComparedError(f"transformers' {name} did not take all tensors: {', '.join(wrong[:3])}")
    config = bundle.config

    def run(images: Tensor) -> Tensor:
        outputs = model.eval()(pixel_values=images)
        for name in ("logits", "image_embeds", "pooler_output"):  # what a class of theirs gives as its answer
            if getattr(outputs, name, None) is not None:
                answer: Tensor = outputs[name]
                return answer
        tokens: Tensor = outputs.last_hidden_state
        return tokens.mean(1) if config.pool == "mean" else tokens[:, 0]

    return f"transformers {library.__version__}", name, run, own_reading


def _is_their_folder(found: Recognised) -> bool:
    """Is the file one that transformers would read here, of safe content and with its config.json?"""
    there = found.file.path.name in ("model.safetensors", "model.safetensors.index.json")
    return there and found.sidecar is None and (found.file.path.parent / "config.json").is_file()


def _from_pretrained(class_: Any, folder: Path) -> tuple[Any, list[str]]:
    """(model in float32, tensors of it that the folder does not have)."""
    try:
        model, loading = class_.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return None, [str(error)]
    return model, sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in loading[kind])
