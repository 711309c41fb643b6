"""Builds transformers' models with weights that make attention choose, runs them, and reads and writes them our way."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from converters.parity_huggingface import Row
from peers import peer
from vitkit.config import override
from vitkit.converters.engine import decode, encode, split_ignored
from vitkit.converters.formats import formats
from vitkit.models.vit import VisionTransformer
from vitkit.weights.fill import fill
from vitkit.zoo.adapt import resize

__all__ = ["build", "expected", "files_of", "images", "quiet", "read", "state_of", "tokens", "write"]


@contextmanager
def quiet() -> Iterator[ModuleType]:
    """transformers, whose warnings and progress are not ours to judge."""
    library = peer("transformers")
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield library


def build(row: Row, seed: int = 0) -> nn.Module:
    """The row's model, in eval mode. Queries and keys are enlarged so that attention is far from uniform."""
    with quiet() as library:
        class_ = getattr(library, row.model)
        config = class_.config_class(**row.arguments)
        config._attn_implementation = "eager"  # it gives its attention weights
        torch.manual_seed(seed)  # what the redraw below leaves alone: nothing
        model = class_(config).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=rng)
            if tensor.ndim < 2 and name.endswith("weight"):  # norms
                tensor.copy_(1 + 0.3 * noise)
            elif tensor.ndim < 2:
                tensor.copy_(0.5 * noise if "lambda" in name or "class_embedding" in name else 0.2 * noise)
            elif ("embedding" in name and "patch" not in name) or "token" in name:
                tensor.copy_(0.7 * noise)
            else:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
                if any(part in name for part in ("q_proj", "k_proj", "in_proj_weight")):
                    tensor.mul_(2.5)
    return model


def images(row: Row, batch: int = 2) -> Tensor:
    rng = torch.Generator().manual_seed(7)
    channels = row.arguments.get("num_channels", 3)
    return torch.randn(batch, channels, *row.image_size, generator=rng)


def _run(row: Row, model: Any, pixels: Tensor) -> Any:
    arguments: dict[str, Any] = {"output_attentions": True}
    own = row.arguments.get("image_size") or row.arguments["vision_config"]["image_size"]
    if tuple(row.image_size) != (tuple(own) if isinstance(own, list) else (own, own)) and "Dinov2" not in row.model:
        arguments["interpolate_pos_encoding"] = True
    if "MAE" in row.model:  # nothing is masked, and the patches stay in order
        h, w = (n // model.config.patch_size for n in row.image_size)
        arguments["noise"] = torch.arange(h * w).float().expand(len(pixels), -1)
    if row.model.endswith(("MaskedImageModeling", "PreTraining")):
        model = getattr(model, "vit", model)
    if row.model in ("CLIPModel", "SiglipModel"):
        return model.get_image_features(pixels, **arguments)
    return model(pixels, **arguments)


def expected(row: Row, model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(the model's output, the mean over images, layers, heads and queries of the largest attention weight times N)."""
    with quiet(), torch.no_grad():
        out = _run(row, model, pixels)
    for name in ("logits", "image_embeds", "pooler_output"):
        if (value := getattr(out, name, None)) is not None:
            break
    else:
        value = out.last_hidden_state[:, 0]
    weights = torch.stack(list(out.attentions))
    return value, weights.amax(dim=-1).mean() * weights.shape[-1]


def tokens(row: Row, model: nn.Module, pixels: Tensor) -> Tensor | None:
    """All tokens (B, N, D) after the last norm, where the model gives them."""
    with quiet(), torch.no_grad():
        out = _run(row, getattr(model, "base_model", model), pixels)
    return None if row.model.startswith("CLIP") else getattr(out, "last_hidden_state", None)


def state_of(model: nn.Module, folder: Path, spelling: str) -> dict[str, Tensor]:
    """Tensors named as in memory (new), or as transformers saves them for the hub (old)."""
    if spelling == "new":
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with quiet():
        model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def files_of(model: nn.Module) -> dict[str, Any]:
    """The parsed files that transformers keeps beside the weights."""
    return {"config.json": json.loads(model.config.to_json_string())}


def read(
    state: Mapping[str, Tensor], files: Mapping[str, Any], image_size: tuple[int, int] | None = None
) -> tuple[VisionTransformer, ModuleType, list[str]]:
    """(our model, the one format that knows these names, what it leaves out)."""
    (module,) = [module for module in formats() if module.matches(frozenset(state))]
    normalised, ignored = split_ignored(module.normalise(state), module.IGNORE)
    told = dict(module.read_sidecars(files).model)
    config = override(module.config(normalised, told.pop("image_size", None)), told, "config.json")
    model = VisionTransformer(config).eval()
    fill(model, decode(normalised, module.rules(config), "file"), "file")
    return resize(model, image_size or config.image_size), module, ignored


def write(model: VisionTransformer, module: ModuleType, folder: Path) -> Any:
    """Write a folder as the format says, and let transformers' own strict loader build the model from it."""
    config, state = module.prepare(model.config, model.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(encode(state, module.rules(config)), folder / module.FILE, metadata={"format": "pt"})
    sidecars = module.write_sidecars(config, None, None)
    for name, value in sidecars.items():
        (folder / name).write_text(json.dumps(value))
    with quiet() as library:
        class_ = getattr(library, sidecars["config.json"]["architectures"][0])
        theirs, info = class_.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, attn_implementation="eager"
        )
    assert not any(info.values()), info
    return theirs.eval()
