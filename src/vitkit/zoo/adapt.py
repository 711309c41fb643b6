"""The same weights for images of another size, patches of another size, or another number of channels."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.models.positions import resample_axis, resample_patches, resample_positions
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.fill import fill

__all__ = ["adapt_channels", "rebuild", "resize"]


def rebuild(config: ViTConfig, state: dict[str, Tensor], where: str) -> VisionTransformer:
    """A model of ``config`` that owns the tensors of ``state``; in eval mode.

    Raises:
        UserError: as `fill`.
    """
    with torch.device("meta"):
        model = VisionTransformer(config)
    fill(model, state, where)
    return model.eval()


@torch.no_grad()
def resize(
    model: VisionTransformer, image_size: int | tuple[int, int], patch_size: int | tuple[int, int] | None = None
) -> VisionTransformer:
    """The same model at another image or patch size; in eval mode.

    Positions are resampled by the model's own rule, patch kernels as FlexiViT does (`resample_patches`).
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    patch = model.config.patch_size if patch_size is None else patch_size
    old = model.config
    new = dataclasses.replace(old, image_size=size, patch_size=patch)  # type: ignore[arg-type]
    if new == old:
        return model
    if old.position == "relative" and new.grid != old.grid:
        raise UserError(
            f"this model has relative positions of a {old.grid[0]}x{old.grid[1]} grid, whose offsets, in raster order, mean "
            f"nothing on a grid of {new.grid[0]}x{new.grid[1]}. Run it at {old.image_size[0]}x{old.image_size[1]} pixels."
        )
    _check_memory(new)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["patch_embed.weight"] = resample_patches(state["patch_embed.weight"], new.patch_size)
    if old.position == "learned":
        state["pos_embed"] = resample_positions(
            state["pos_embed"], old.grid, new.grid, old.position_prefix, old.position_rule
        )
    elif old.position == "learned2d":
        for name, length in zip(("pos_y", "pos_x"), new.grid, strict=True):
            state[name] = resample_axis(state[name], length, old.position_rule)
    return rebuild(new, state, "resizing")


def _check_memory(config: ViTConfig) -> None:
    import psutil

    h, w = config.grid
    need = (
        12 * h * w * config.embed_dim + 4 * math.prod(config.patch_size) * config.embed_dim
    )  # table, grid, interpolated
    free = psutil.virtual_memory().available
    if need > free:
        raise UserError(
            f"image_size {config.image_size} makes {h * w} patches; their positions alone need {need / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free. Choose a smaller size."
        )


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
    first = "patch_embed.weight" if model.stem is None else "stem.conv_root.weight"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kernel = state[first]  # (D, 3, patch height, patch width)
    if channels == 1:
        state[first] = kernel.sum(dim=1, keepdim=True)
    else:
        state[first] = kernel.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    return rebuild(dataclasses.replace(model.config, in_channels=channels), state, "adapting channels")
