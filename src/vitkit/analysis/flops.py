"""Arithmetic of a model, counted as the paper counts it: multiply-adds of matrix products and convolutions alone.

Softmax, norms and activations are left out. Source: VIT_SPEC 10, which reproduces table 6 of arXiv 2010.11929.
"""

from __future__ import annotations

from vitkit.models.hybrid import ROOT_CHANNELS, stem_grid
from vitkit.models.positions import relative_rows
from vitkit.models.vit import ViTConfig

__all__ = ["forward_macs", "training_exaflops"]


def forward_macs(config: ViTConfig) -> int:
    """Multiply-adds of one image's forward pass, at the configuration's image size."""
    D, M = config.embed_dim, config.mlp_dim
    h, w = config.grid
    T = config.prefix_tokens + h * w
    stem, channels = _stem(config)
    embedding = h * w * config.patch_size[0] * config.patch_size[1] * channels * D
    mlp = T * D * M * (3 if config.mlp == "swiglu" else 2)
    block = 4 * T * D * D + 2 * T * T * D + mlp
    if config.position == "relative":  # each head's queries with its vector of every offset
        block += T * relative_rows((h, w)) * D
    pooling = 0
    if config.pool == "map":  # one query; the MLP of the pooling is never gated
        pooling = 2 * D * D + 2 * h * w * D * D + 2 * h * w * D + 2 * D * M
    R, O = config.representation_size, config.num_classes
    heads = config.feature_dim * O * (2 if config.distilled else 1)
    rows = T if config.pool == "none" else 1
    return stem + embedding + config.depth * block + pooling + rows * (config.pooled_dim * R + heads)


def _stem(config: ViTConfig) -> tuple[int, int]:
    """(multiply-adds, channels) of what comes before the patch embedding."""
    if config.stem is None:
        return 0, config.in_channels
    H, W = (-(-n // 2) for n in config.image_size)
    macs = H * W * 7 * 7 * config.in_channels * ROOT_CHANNELS
    h, w = stem_grid(config.image_size, ())
    channels = ROOT_CHANNELS
    for stage, units in enumerate(config.stem):
        width = ROOT_CHANNELS * 2**stage
        for unit in range(units):
            before = h * w
            if stage and not unit:
                h, w = -(-h // 2), -(-w // 2)
            macs += before * channels * width + h * w * (9 * width * width + 4 * width * width)
            if channels != 4 * width or before != h * w:
                macs += h * w * channels * 4 * width
            channels = 4 * width
    return macs, channels


def training_exaflops(config: ViTConfig, images: float) -> float:
    """10^18 floating point operations of training on so many images: 6 for each multiply-add, forward and backward."""
    return 6 * forward_macs(config) * images / 1e18
