"""Position embeddings and patch kernels: the fixed sin-cos table, and resampling of learned ones to another size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vitkit.config import UserError, did_you_mean

__all__ = [
    "POSITION_RULES",
    "join_axes",
    "relative_index",
    "relative_rows",
    "resample_axis",
    "resample_patches",
    "resample_positions",
    "sincos2d",
    "square_grid",
]

# rule -> arguments of F.interpolate. Published weights differ here, and the results differ much: each checkpoint names its own.
POSITION_RULES: dict[str, dict[str, object]] = {
    # The official JAX code zooms linearly between corner-aligned points (VIT_SPEC 3; scipy's zero-edge bug left out).
    "bilinear_align_corners": {"mode": "bilinear", "align_corners": True},
    "bilinear": {"mode": "bilinear", "align_corners": False},  # timm reading .npz: half-pixel centres, no antialias
    "bilinear_antialias": {"mode": "bilinear", "align_corners": False, "antialias": True},  # FlexiViT
    "bicubic": {"mode": "bicubic", "align_corners": False},  # Hugging Face
    "bicubic_antialias": {"mode": "bicubic", "align_corners": False, "antialias": True},  # timm state dicts
    "bicubic_align_corners": {"mode": "bicubic", "align_corners": True},  # torchvision's interpolate_embeddings
    # DINO and DINOv2 as published: bicubic, sampled as if the new grid were OFFSET patches larger
    "bicubic_offset": {"mode": "bicubic", "align_corners": False},
}
OFFSET = 0.1


def square_grid(tokens: int, where: str) -> tuple[int, int]:
    """Return the square (h, w) grid of ``tokens`` patches.

    Raises:
        UserError: not a square; the caller must say ``source_image_size``.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(
            f"{where}: {tokens} patch positions are not a square grid. Say the size they were trained at: "
            "source_image_size=(H, W)."
        )
    return side, side


def resample_positions(
    table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix_tokens: int, rule: str
) -> Tensor:
    """Resample a learned position table to another patch grid; prefix rows are kept as they are.

    Args:
        table: (T, P + h*w, D) of T tables, prefix rows first, then patches row by row.
        old: (h, w) grid of ``table``.
        new: (h, w) grid to make.
        prefix_tokens: P, said by the caller and never guessed.
        rule: a name in `POSITION_RULES`.

    Returns:
        (T, P + h'*w', D) in the dtype of ``table``; the same tensor if the grid is the same.

    Raises:
        UserError: unknown rule, or a table whose length does not fit ``old`` and ``prefix_tokens``.

    Source: arXiv 2010.11929, section 3.2; rules compared in VIT_SPEC section 3.
    """
    if rule not in POSITION_RULES:
        raise UserError(
            f"unknown position rule {rule!r}.{did_you_mean(rule, POSITION_RULES)} Known: {', '.join(POSITION_RULES)}."
        )
    if table.shape[1] != prefix_tokens + old[0] * old[1]:
        raise UserError(
            f"a position table of {table.shape[1]} rows is not {prefix_tokens} prefix tokens + a {old[0]}x{old[1]} grid."
        )
    if old == new:
        return table
    prefix, patches = table[:, :prefix_tokens], table[:, prefix_tokens:]
    grid = patches.float().reshape(len(table), *old, -1).permute(0, 3, 1, 2)  # (T, D, h, w)
    patches = _resize(grid, old, new, rule).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([prefix, patches.to(table.dtype)], dim=1)


def _resize(grid: Tensor, old: tuple[int, int], new: tuple[int, int], rule: str) -> Tensor:
    if rule == "bicubic_offset":
        scale = tuple((n + OFFSET) / o for n, o in zip(new, old, strict=True))
        return F.interpolate(grid, scale_factor=scale, **POSITION_RULES[rule])  # type: ignore[arg-type]
    return F.interpolate(grid, size=new, **POSITION_RULES[rule])  # type: ignore[arg-type]


def resample_axis(table: Tensor, new: int, rule: str) -> Tensor:
    """Resample tables (T, n, D/2) of learned 2-D positions along their axis to (T, new, D/2), by the same rules."""
    old = table.shape[1]
    return resample_positions(table, (old, 1), (new, 1), 0, rule)


def join_axes(columns: Tensor, rows: Tensor) -> Tensor:
    """Tables of columns (1, w, D/2) and rows (1, h, D/2) as one table (1, h*w, D): each patch has its column's half first.

    Source: arXiv 2010.11929, appendix D.4.
    """
    h, w = rows.shape[1], columns.shape[1]
    parts = [columns.unsqueeze(1).expand(-1, h, -1, -1), rows.unsqueeze(2).expand(-1, -1, w, -1)]  # each (1, h, w, D/2)
    return torch.cat(parts, dim=-1).flatten(1, 2)


def resample_patches(kernel: Tensor, new: tuple[int, int]) -> Tensor:
    """Resample a patch kernel (D, C, p, q) to (D, C, *new) so that enlarged images give the tokens they gave before.

    With B the matrix that resizes a flattened patch bilinearly, the new kernel is pinv(B^T) times the old one: exact where the
    patch grows, least squares where it shrinks. Without antialias also there, as the official code. Computed in float64.

    Source: arXiv 2212.08013, section 3.3 (FlexiViT); big_vision/models/proj/flexi/vit.py.
    """
    old = (kernel.shape[2], kernel.shape[3])
    if old == new:
        return kernel
    basis = torch.eye(old[0] * old[1], dtype=torch.float64, device=kernel.device).reshape(-1, 1, *old)
    resized = F.interpolate(basis, size=new, mode="bilinear", align_corners=False)
    matrix = resized.flatten(1)  # (p*q, p'*q'): row i is the resized i-th pixel, so this is B^T
    flat = kernel.double().flatten(2)  # (D, C, p*q)
    return (flat @ torch.linalg.pinv(matrix).T).reshape(*kernel.shape[:2], *new).to(kernel.dtype)


def sincos2d(grid: tuple[int, int], embed_dim: int) -> Tensor:
    """Return the fixed 2-D sin-cos table (1, h*w, D): [sin x, cos x, sin y, cos y], integer coordinates, x = column.

    Raises:
        UserError: ``embed_dim`` is not a multiple of 4.

    Source: arXiv 2205.01580 (big_vision's order, VIT_SPEC 1.3).
    """
    if embed_dim % 4:
        raise UserError(f"sin-cos positions need an embed_dim that is a multiple of 4, got {embed_dim}.")
    quarter = embed_dim // 4
    with _computed():
        omega = 10000 ** -(torch.arange(quarter, dtype=torch.float64) / max(quarter - 1, 1))
        y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        x_angle = x.reshape(-1, 1) * omega  # (h*w, D/4)
        y_angle = y.reshape(-1, 1) * omega
        table = torch.cat([x_angle.sin(), x_angle.cos(), y_angle.sin(), y_angle.cos()], dim=1)
        return table.float().unsqueeze(0)


PREFIX_OFFSETS = (
    3  # rows of a relative table after those of the patches: prefix to patch, patch to prefix, prefix to prefix
)


def relative_rows(grid: tuple[int, int]) -> int:
    """Rows of a table of relative positions: every offset of two patches in raster order, then those of the prefix tokens."""
    return 2 * grid[0] * grid[1] - 1 + PREFIX_OFFSETS


def relative_index(grid: tuple[int, int], prefix_tokens: int) -> Tensor:
    """(N, N): which row of the table is the offset p_q - p_k of query q and key k.

    The paper does not say how the class token takes part: here it has rows of its own, as query and as key.
    Source: arXiv 2010.11929, appendix D.4.
    """
    count, P = grid[0] * grid[1], prefix_tokens
    with _computed():
        place = torch.arange(count)
        index = torch.empty(P + count, P + count, dtype=torch.int64)
        index[P:, P:] = place[:, None] - place[None, :] + count - 1
        index[:P, P:], index[P:, :P], index[:P, :P] = (2 * count - 1 + n for n in range(PREFIX_OFFSETS))
        return index


def _computed() -> torch.device:
    """For what is computed, not loaded: it has values also where the model is built on the meta device and filled later."""
    device = torch.get_default_device()
    return torch.device("cpu" if device.type == "meta" else device)
