"""What a row of the zoo says, and the sizes, preprocessings and names that rows of several publishers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from vitkit.data.pixels import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocess
from vitkit.models.hybrid import ROOT_CHANNELS
from vitkit.models.positions import relative_rows
from vitkit.models.vit import SIZES, ViTConfig

__all__ = [
    "CLASS_COUNTS",
    "CLIP_MEAN",
    "CLIP_STD",
    "HALF",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ZOO_SIZES",
    "Checkpoint",
    "count_parameters",
    "preprocessing",
    "sized",
]

STD_OF = {IMAGENET_MEAN: IMAGENET_STD, CLIP_MEAN: CLIP_STD, HALF: HALF}
# Class sets by name. 21843: the released ImageNet-21k of 2011 with all its nodes.
CLASS_COUNTS = {
    "imagenet1k": 1000, "imagenet12k": 11821, "imagenet21k": 21843, "imagenet21k_miil": 11221,
    "cifar100": 100, "oxford_iiit_pet": 37, "resisc45": 45, "kitti": 4,
}  # fmt: skip
# The official sizes, and those of later publishers: embed_dim, depth, mlp_dim, num_heads.
# g, G, So400m: big_vision's presets (VIT_SPEC 1.1); g-swiglu: DINOv2's; the rest: timm's names.
ZOO_SIZES = {
    **SIZES,
    "M": (512, 12, 2048, 8),
    "So400m": (1152, 27, 4304, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "g-swiglu": (1536, 40, 4096, 24),
    "G": (1664, 48, 8192, 16),
    "wee": (256, 14, 1280, 4),
    "little": (320, 14, 1792, 5),
    "mediumd": (512, 20, 2048, 8),
    "betwixt": (640, 12, 2560, 10),
    "plus": (896, 12, 3584, 14),
    "so150m": (896, 18, 2304, 14),
    "so150m2": (832, 21, 2176, 13),
}


def sized(size: str, patch: int, image: int, **changes: object) -> ViTConfig:
    """The configuration of a named size for square patches and images, with changes."""
    embed_dim, depth, mlp_dim, num_heads = ZOO_SIZES[size]
    base = ViTConfig(
        embed_dim=embed_dim,
        depth=depth,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        patch_size=(patch, patch),
        image_size=(image, image),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def preprocessing(
    image: int, mean: tuple[float, float, float], crop: float, interpolation: str = "bicubic", squash: bool = False
) -> Preprocess:
    """A square image of side ``image``: the centre ``crop`` of the covering resize, or of the whole image squashed."""
    return Preprocess(
        image_size=(image, image),
        fit="crop" if not squash else "squash" if crop == 1.0 else "squash_crop",
        crop_fraction=crop,
        interpolation=interpolation,
        mean=mean,
        std=STD_OF[mean],
    )


@dataclass(frozen=True)
class Checkpoint:
    """A published file: where it is, what it computes, how its images are prepared, and on what terms it may be used."""

    name: str  # what people type; unique
    format: str  # a module of vitkit.converters
    model: ViTConfig  # of the tensors in the file: its image_size is the size that the stored positions are for
    preprocess: Preprocess  # as the publisher evaluates; its image_size is the size to run at
    licence: str  # of the weights, as the publisher states it
    source: str  # publisher and paper
    trained_on: str
    url: str = ""  # of the file; or
    repo: str = ""  # a repository of the Hugging Face hub, with
    files: tuple[str, ...] = ()  # the weights' file names there, the preferred one first
    classes: str | None = None  # key of CLASS_COUNTS; None: the model gives features or an embedding
    top1: float | None = None  # on ImageNet-1k's validation images, a fraction, where published
    top1_source: str = ""
    sha256: tuple[str, ...] = ()  # of files known to be this checkpoint
    digest: str = ""  # the start of a digest that the publisher states: "sha256:a1311bcf", "md5:8cad7c"
    patch_size: tuple[int, int] | None = None  # to run with, where it is not the stored one
    aliases: tuple[str, ...] = ()
    note: str = ""  # what the reader should know besides

    @cached_property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return count_parameters(self.model)

    @property
    def address(self) -> str:
        """Where the file is had."""
        return self.url or f"https://huggingface.co/{self.repo}/resolve/main/{self.files[0]}"

    @property
    def file(self) -> str:
        """The weights' own file name, the preferred one where there are several."""
        return PurePosixPath(urlsplit(self.url).path).name if self.url else self.files[0]

    @property
    def run(self) -> Mapping[str, tuple[int, int]]:
        """Overrides of the stored model that make it the one the publisher evaluates: other image or patch size."""
        changes = {}
        if self.preprocess.image_size != self.model.image_size:
            changes["image_size"] = self.preprocess.image_size
        if self.patch_size is not None:
            changes["patch_size"] = self.patch_size
        return changes

    @property
    def architecture(self) -> str:
        """For people: ``B/16``, ``R50+L/32``, ``M/16 reg4``."""
        model = self.model
        width = (model.embed_dim, model.depth, model.mlp_dim, model.num_heads)
        size = next((name.removesuffix("-swiglu") for name, known in ZOO_SIZES.items() if known == width), "?")
        side = (self.patch_size or model.patch_size)[0]
        if model.stem:  # three convolutions a unit make the ResNet's depth, and its stride is part of the patch
            size, side = f"R{3 * sum(model.stem) + 2}+{size}", side * 4 * 2 ** (len(model.stem) - 1)
        elif model.stem is not None:
            size, side = f"R+{size}", 16  # so called, though its patches are of 32 pixels
        kind = "" if not model.registers else " distilled" if model.distilled else f" reg{model.registers}"
        return f"{size}/{side}{kind}"


def count_parameters(config: ViTConfig) -> int:
    """Number of parameters of ``VisionTransformer(config)``, without making one."""
    D, M = config.embed_dim, config.mlp_dim
    norm, gates = 2 * D, 2 if config.mlp == "swiglu" else 1
    mlp = D * M * gates + M * gates + M * D + D
    stem, channels = (0, config.in_channels) if config.stem is None else _count_stem(config)
    h, w = config.grid
    total = stem + channels * config.patch_size[0] * config.patch_size[1] * D + D * config.patch_bias
    total += config.prefix_tokens * D
    relative = relative_rows((h, w)) * (D // config.num_heads)
    total += {
        "learned": config.position_tables * (config.position_prefix + h * w) * D,
        "learned2d": config.position_tables * (h + w) * D // 2,
        "relative": config.depth * relative,
    }.get(config.position, 0)
    attention = 3 * D * D + 3 * D * config.qkv_bias + D * D + D
    total += config.depth * (2 * norm + attention + mlp + (2 * D if config.layer_scale is not None else 0))
    total += norm + norm * config.pre_norm
    if config.pool == "map":
        total += D + 4 * (D * D + D) + norm + mlp
    R = config.representation_size
    total += (config.pooled_dim + 1) * R
    heads = 2 if config.distilled else 1
    return total + heads * (config.feature_dim + config.head_bias) * config.num_classes


def _count_stem(config: ViTConfig) -> tuple[int, int]:
    """(parameters, output channels) of the ResNet before the patches."""
    channels = ROOT_CHANNELS
    total = 7 * 7 * config.in_channels * channels + 2 * channels
    for stage, units in enumerate(config.stem or ()):
        f = ROOT_CHANNELS * 2**stage
        for unit in range(units):
            total += channels * f + 9 * f * f + 4 * f * f + 2 * (f + f + 4 * f)
            if unit == 0:
                total += channels * 4 * f + 2 * 4 * f
            channels = 4 * f
    return total, channels
