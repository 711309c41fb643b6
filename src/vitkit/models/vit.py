"""The plain Vision Transformer, readable top to bottom.

Shape letters: B batch, C channels, H W pixels, h w patch grid, P prefix tokens, N = P + h*w tokens, D embed_dim,
K heads, d head width, M mlp_dim, O outputs. Sizes are (height, width).

Source: arXiv 2010.11929, section 3.1; numerics of the official code as in VIT_SPEC section 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.config import UserError, did_you_mean
from vitkit.models.positions import POSITION_RULES, sincos2d

__all__ = ["SIZES", "Attention", "Block", "Features", "Mlp", "ViTConfig", "VisionTransformer"]

# name -> embed_dim, depth, mlp_dim, num_heads. Ti and S: arXiv 2106.10270 table 2; B, L, H: arXiv 2010.11929 table 1.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
}


@dataclass(frozen=True)
class ViTConfig:
    """Everything that decides what the model computes. Frozen, JSON-able, every field is read."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072  # absolute, never a ratio
    patch_size: tuple[int, int] = (16, 16)
    image_size: tuple[int, int] = (224, 224)  # pixels that do not fill a patch at the lower and right edge are dropped
    in_channels: int = 3
    num_classes: int = 1000  # 0: no head, the model returns its representation
    cls_token: bool = True
    pool: str = "cls"  # cls | mean (of the patch tokens, after the norm) | none (the head is applied to every token)
    representation_size: int = 0  # width of the tanh layer before the head ("pre_logits"); 0: none
    position: str = "learned"  # learned (1-D, one row per token, the cls token has one) | sincos2d (fixed) | none
    position_rule: str = "bilinear_align_corners"  # how positions are resampled to another grid
    gelu: str = "tanh"  # tanh (the official code) | erf (timm, Hugging Face)
    norm_eps: float = 1e-6
    layer_scale: float | None = None  # initial value of the per-channel branch scale; None: no such parameters
    drop_path: float = 0.0  # stochastic depth of the last block, rising linearly from 0; kept branches are rescaled
    dropout: float = 0.0  # after every dense layer but q, k, v and after adding positions
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("patch_size", "image_size"):
            value = getattr(self, name)
            pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
            if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
                raise UserError(f"{name} must be one or two positive integers (height, width), got {value!r}.")
            object.__setattr__(self, name, pair)
        choices = {
            "pool": ("cls", "mean", "none"),
            "position": ("learned", "sincos2d", "none"),
            "position_rule": tuple(POSITION_RULES),
            "gelu": ("tanh", "erf"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name} is {value!r}; known: {', '.join(known)}.{did_you_mean(str(value), known)}")
        for name in ("embed_dim", "depth", "num_heads", "mlp_dim", "in_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.embed_dim % self.num_heads:
            raise UserError(f"embed_dim {self.embed_dim} does not divide into {self.num_heads} heads.")
        if self.pool == "cls" and not self.cls_token:
            raise UserError("pool='cls' needs cls_token=True.")
        if min(self.grid) < 1:
            raise UserError(f"image_size {self.image_size} is smaller than one patch of {self.patch_size}.")
        for name in ("drop_path", "dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}.")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), the patch grid."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def prefix_tokens(self) -> int:
        """P, the number of tokens before the patches."""
        return int(self.cls_token)

    @property
    def feature_dim(self) -> int:
        """Width of the representation that the head reads."""
        return self.representation_size or self.embed_dim

    @classmethod
    def named(cls, name: str, **changes: object) -> ViTConfig:
        """Return the official size ``"B/16"`` (Ti S B L H with any patch size), with changes.

        Raises:
            UserError: unknown size or not of the form ``SIZE/PATCH``.
        """
        size, _, patch = name.partition("/")
        if size not in SIZES or not patch.isdigit():
            raise UserError(f"unknown model {name!r}; expected SIZE/PATCH with SIZE one of {', '.join(SIZES)}.")
        embed_dim, depth, mlp_dim, num_heads = SIZES[size]
        base = cls(
            embed_dim=embed_dim, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads, patch_size=(int(patch), int(patch))
        )
        return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


class Features(NamedTuple):
    """Tokens after the final norm."""

    prefix: Tensor  # (B, P, D)
    patches: Tensor  # (B, h, w, D)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        D = config.embed_dim
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.fused = True  # which kernel computes it, never what is computed; set from outside (train, engines)
        self.qkv = nn.Linear(D, 3 * D)  # rows [q; k; v], each head-major
        self.proj = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, K, N, d)
        dropout = self.attention_dropout if self.training else 0.0
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        else:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, K, N, N)
            weights = logits.softmax(dim=-1, dtype=torch.float32)
            x = F.dropout(weights, dropout).to(v.dtype) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    """Two dense layers with a GELU between, (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)
        self.approximate = "tanh" if config.gelu == "tanh" else "none"
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(F.gelu(self.fc1(x), approximate=self.approximate)))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        D = config.embed_dim
        self.norm1 = nn.LayerNorm(D, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(D, eps=config.norm_eps)
        self.mlp = Mlp(config)
        scaled = config.layer_scale is not None
        self.layer_scale1 = nn.Parameter(torch.empty(D)) if scaled else None
        self.layer_scale2 = nn.Parameter(torch.empty(D)) if scaled else None
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._branch(self.attn(self.norm1(x)), self.layer_scale1)
        return x + self._branch(self.mlp(self.norm2(x)), self.layer_scale2)

    def _branch(self, y: Tensor, scale: Tensor | None) -> Tensor:
        y = self.dropout(y)
        if scale is not None:
            y = y * scale
        if self.training and self.drop_path > 0:  # one draw per image
            keep = 1 - self.drop_path
            y = y * torch.empty(y.shape[0], 1, 1, device=y.device, dtype=y.dtype).bernoulli_(keep).div_(keep)
        return y


class VisionTransformer(nn.Module):
    """Images (B, C, H, W), float and preprocessed, to logits (B, O).

    ``forward`` is ``forward_head(forward_features(images))``; `represent` gives what the head reads.
    The constructor leaves parameters as PyTorch makes them; call `init_weights` to train from scratch.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        D = config.embed_dim
        h, w = config.grid
        self.patch_embed = nn.Conv2d(config.in_channels, D, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, D)) if config.cls_token else None
        self.pos_embed = (
            nn.Parameter(torch.empty(1, config.prefix_tokens + h * w, D)) if config.position == "learned" else None
        )
        if config.position == "sincos2d":
            self.register_buffer("pos_fixed", sincos2d((h, w), D), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config, rate) for rate in rates)  # type: ignore[assignment]
        self.norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.pre_logits = nn.Linear(D, config.representation_size) if config.representation_size else None
        self.head = nn.Linear(config.feature_dim, config.num_classes) if config.num_classes else None

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Features:
        """Images (B, C, H, W) to the tokens after the final norm."""
        config = self.config
        if images.shape[1:] != (config.in_channels, *config.image_size):
            raise UserError(
                f"the model takes images of (C, H, W) = {(config.in_channels, *config.image_size)}, "
                f"got {tuple(images.shape[1:])}; load it with image_size=(H, W) to run at another size."
            )
        P = config.prefix_tokens
        x = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, h*w, D)
        if config.position == "sincos2d":  # patches only, the cls token has no position
            x = x + self.pos_fixed
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, N, D)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Features(x[:, :P], x[:, P:].unflatten(1, config.grid))

    def represent(self, features: Features) -> Tensor:
        """Pooled representation (B, D or R), the input of the head; (B, N, D or R) for pool='none'."""
        if self.config.pool == "cls":
            x = features.prefix[:, 0]
        elif self.config.pool == "mean":
            x = features.patches.mean(dim=(1, 2))
        else:
            x = torch.cat([features.prefix, features.patches.flatten(1, 2)], dim=1)
        return x if self.pre_logits is None else torch.tanh(self.pre_logits(x))

    def forward_head(self, features: Features) -> Tensor:
        """Features to logits (B, O), or to the representation where there is no head."""
        x = self.represent(features)
        return x if self.head is None else self.head(x)

    @torch.no_grad()
    def init_weights(self, seed: int, head_bias: float = 0.0) -> None:
        """Initialise every parameter as the reference does (VIT_SPEC 1.5): zero head, q, k, v each as its own matrix."""
        rng = torch.Generator().manual_seed(seed)

        def lecun(weight: Tensor) -> None:  # truncated at 2 sigma; the divisor restores the variance 1 / fan_in
            std = math.sqrt(1 / weight[0].numel()) / 0.87962566103423978
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=rng)

        def xavier(weight: Tensor, fan_out: int) -> None:
            limit = math.sqrt(6 / (weight.shape[1] + fan_out))
            nn.init.uniform_(weight, -limit, limit, generator=rng)

        lecun(self.patch_embed.weight)
        self.patch_embed.bias.zero_()  # type: ignore[union-attr]
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token)
        if self.pos_embed is not None:
            nn.init.normal_(self.pos_embed, std=0.02, generator=rng)
        for block in self.blocks:
            xavier(block.attn.qkv.weight, fan_out=self.config.embed_dim)  # not 3 D: three separate matrices
            nn.init.zeros_(block.attn.qkv.bias)
            xavier(block.attn.proj.weight, fan_out=self.config.embed_dim)
            nn.init.zeros_(block.attn.proj.bias)
            for layer in (block.mlp.fc1, block.mlp.fc2):
                xavier(layer.weight, fan_out=layer.out_features)
                nn.init.normal_(layer.bias, std=1e-6, generator=rng)
            for scale in (block.layer_scale1, block.layer_scale2):
                if scale is not None and self.config.layer_scale is not None:
                    nn.init.constant_(scale, self.config.layer_scale)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if self.pre_logits is not None:
            lecun(self.pre_logits.weight)
            nn.init.zeros_(self.pre_logits.bias)
        self.reset_head(head_bias)

    @torch.no_grad()
    def reset_head(self, bias: float = 0.0) -> None:
        """Zero the head's kernel and set its bias, as at the start of pre-training and of fine-tuning."""
        if self.head is not None:
            nn.init.zeros_(self.head.weight)
            nn.init.constant_(self.head.bias, bias)
