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
from vitkit.models.draws import Draws, uniform
from vitkit.models.hybrid import STEM_NUMERICS, ResNetStem, stem_grid
from vitkit.models.initialise import initialise
from vitkit.models.positions import POSITION_RULES, join_axes, relative_index, relative_rows, sincos2d

__all__ = ["HYBRIDS", "SIZES", "Attention", "Block", "Features", "MapPool", "Mlp", "ViTConfig", "VisionTransformer"]

# name -> embed_dim, depth, mlp_dim, num_heads. Ti and S: arXiv 2106.10270 table 2; B, L, H: arXiv 2010.11929 table 1.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
}
# ResNet and nominal patch size -> units per stage, and the patch size on its output (VIT_SPEC 1.1). The stem of R+Ti/16 divides
# by 4, so that its patches are of 32 pixels in spite of the name (VIT_SPEC 0.3).
HYBRIDS: dict[tuple[str, str], tuple[tuple[int, ...], int]] = {
    ("R", "16"): ((), 8),
    ("R26", "32"): ((2, 2, 2, 2), 1),
    ("R50", "16"): ((3, 4, 9), 1),
    ("R50", "32"): ((3, 4, 6, 3), 1),
}

DROP_PATH = 1_000_000  # and the branch's number: what its random numbers are for

# Files may claim anything; what is larger is no Vision Transformer, and only looking at it would take time and memory.
MOST = {
    "embed_dim": 65_536, "depth": 1_000, "num_heads": 4_096, "mlp_dim": 1_000_000, "in_channels": 4_096,
    "num_classes": 10_000_000, "registers": 10_000, "representation_size": 1_000_000, "image_size": 65_536,
}  # fmt: skip


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
    registers: int = 0  # learned tokens between the cls token and the patches (arXiv 2309.16588)
    distilled: bool = (
        False  # the first register is DeiT's distillation token: a head of its own, logits are the mean of two
    )
    # cls | mean | map (attention pooling), both of the patch tokens | cls_mean (cls token, then the mean of the patches:
    # 2 D wide, transformers' DINOv2 classifiers) | none (the head is applied to every token)
    pool: str = "cls"
    norm_after_pool: bool = False  # the last norm reads the pooled vector, not the tokens (timm's fc_norm)
    representation_size: int = 0  # width of the tanh layer before the head ("pre_logits"); 0: none
    # learned (1-D) | learned2d (rows and columns, half the width each) | sincos2d (fixed) | relative (a learned vector per
    # 1-D offset of query and key, in every attention) | none
    position: str = "learned"
    # stem: added once before the blocks | layers: a table of its own before every block | shared: one table before every block
    position_at: str = "stem"
    prefix_positions: str = "all"  # which prefix tokens have rows in the learned 1-D table: all | cls | none
    position_rule: str = "bilinear_align_corners"  # how positions are resampled to another grid
    stem: tuple[int, ...] | None = (
        None  # a ResNet before the patches, residual units per stage; (): its root only; None: no ResNet
    )
    stem_numerics: str = "official"  # epsilons of the stem's norms and kernels: official | timm
    mlp: str = "gelu"  # gelu | swiglu (silu(a) * b of two halves of the first layer, arXiv 2002.05202)
    gelu: str = (
        "tanh"  # tanh (the official code) | erf (timm, Hugging Face) | quick (x * sigmoid(1.702 x), OpenAI's CLIP)
    )
    norm_eps: float = 1e-6
    pre_norm: bool = False  # a norm before the first block (CLIP)
    patch_bias: bool = True
    qkv_bias: bool = True
    head_bias: bool = True  # False: the head is a projection into an embedding (CLIP), not classes
    layer_scale: float | None = None  # initial value of the per-channel branch scale; None: no such parameters
    drop_path: float = 0.0  # stochastic depth of the last block, rising linearly from 0; kept branches are rescaled
    dropout: float = 0.0  # after every dense layer but q, k, v and after adding positions
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("patch_size", "image_size"):
            value = getattr(self, name)
            pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
            if len(pair) != 2 or not all(type(n) is int and 0 < n <= MOST["image_size"] for n in pair):
                raise UserError(
                    f"{name} must be one or two positive integers (height, width) of at most {MOST['image_size']}, "
                    f"got {value!r:.80}."
                )
            object.__setattr__(self, name, pair)
        if self.stem is not None:
            units = tuple(self.stem) if isinstance(self.stem, tuple | list) else (None,)
            if len(units) > 4 or not all(type(n) is int and 0 < n <= MOST["depth"] for n in units):
                raise UserError(f"stem must be up to four positive numbers of units per stage, got {self.stem!r}.")
            object.__setattr__(self, "stem", units)
        choices = {
            "pool": ("cls", "mean", "map", "cls_mean", "none"),
            "position": ("learned", "learned2d", "sincos2d", "relative", "none"),
            "position_at": ("stem", "layers", "shared"),
            "prefix_positions": ("all", "cls", "none"),
            "position_rule": tuple(POSITION_RULES),
            "stem_numerics": tuple(STEM_NUMERICS),
            "mlp": ("gelu", "swiglu"),
            "gelu": ("tanh", "erf", "quick"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name} is {value!r}; known: {', '.join(known)}.{did_you_mean(str(value), known)}")
        for name in ("embed_dim", "depth", "num_heads", "mlp_dim", "in_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("num_classes", "representation_size", "registers"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.embed_dim % self.num_heads:
            raise UserError(f"embed_dim {self.embed_dim} does not divide into {self.num_heads} heads.")
        if self.pool in ("cls", "cls_mean") and not self.cls_token:
            raise UserError(f"pool={self.pool!r} needs cls_token=True.")
        if self.distilled and (self.pool != "cls" or not self.registers or self.representation_size):
            raise UserError("distilled=True needs pool='cls', at least one register and no representation_size.")
        if self.norm_after_pool and self.pool not in ("cls", "mean"):
            raise UserError(f"norm_after_pool=True needs pool='cls' or 'mean', not {self.pool!r}.")
        for position, factor in (("learned2d", 2), ("sincos2d", 4)):
            if self.position == position and self.embed_dim % factor:
                raise UserError(
                    f"{position} positions need an embed_dim that is a multiple of {factor}, got {self.embed_dim}."
                )
        if min(self.grid) < 1:
            raise UserError(f"image_size {self.image_size} is smaller than one patch of {self.patch_size}.")
        places = {"learned": 3, "learned2d": 3, "sincos2d": 1}.get(self.position, 1)
        if self.position_at not in choices["position_at"][:places]:
            raise UserError(
                f"position_at is {self.position_at!r}, which is for learned positions (learned, learned2d); position is "
                f"{self.position!r}. Say position_at=stem."
            )
        for name in ("drop_path", "dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}.")

    def _check_kinds(self) -> None:
        """Numbers that files may hold are of the kind and the order of size that a model can have."""
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if kind == "bool" and not isinstance(value, bool):
                raise UserError(f"{field.name} must be true or false, got {value!r:.80}.")
            if kind == "int" and not (type(value) is int and value <= MOST[field.name]):
                raise UserError(f"{field.name} must be an integer of at most {MOST[field.name]}, got {value!r:.80}.")
            number = type(value) in (int, float) and math.isfinite(value)
            if kind.startswith("float") and not number and not (value is None and "None" in kind):
                raise UserError(f"{field.name} must be a finite number, got {value!r:.80}.")
            if kind == "str" and not isinstance(value, str):
                raise UserError(f"{field.name} must be a word, got {value!r:.80}.")
        if self.norm_eps <= 0:
            raise UserError(f"norm_eps must be above 0, got {self.norm_eps}.")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), the patch grid."""
        H, W = self.image_size if self.stem is None else stem_grid(self.image_size, self.stem)
        return H // self.patch_size[0], W // self.patch_size[1]

    @property
    def prefix_tokens(self) -> int:
        """P, the number of tokens before the patches."""
        return int(self.cls_token) + self.registers

    @property
    def position_prefix(self) -> int:
        """How many rows of the learned 1-D position table come before those of the patches."""
        return {"all": self.prefix_tokens, "cls": int(self.cls_token), "none": 0}[self.prefix_positions]

    @property
    def position_tables(self) -> int:
        """How many tables of learned positions there are."""
        return self.depth if self.position_at == "layers" else 1

    @property
    def pooled_dim(self) -> int:
        """Width of what pooling gives."""
        return 2 * self.embed_dim if self.pool == "cls_mean" else self.embed_dim

    @property
    def feature_dim(self) -> int:
        """Width of the representation that the head reads."""
        return self.representation_size or self.pooled_dim

    @classmethod
    def named(cls, name: str, **changes: object) -> ViTConfig:
        """Return the official size ``"B/16"`` (Ti S B L H with any patch size) or hybrid ``"R50+B/16"``, with changes.

        Raises:
            UserError: unknown size or hybrid, or not of the form ``SIZE/PATCH``.
        """
        left, _, patch = name.partition("/")
        resnet, plus, size = left.rpartition("+")
        if size not in SIZES or not patch.isdecimal():
            raise UserError(f"unknown model {name!r}; expected SIZE/PATCH with SIZE one of {', '.join(SIZES)}.")
        if plus and (resnet, patch) not in HYBRIDS:
            known = ", ".join(f"{stem}+{size}/{patch}" for stem, patch in HYBRIDS)
            raise UserError(f"unknown hybrid {name!r}; known before size {size}: {known}.")
        stem, side = HYBRIDS[resnet, patch] if plus else (None, int(patch))
        embed_dim, depth, mlp_dim, num_heads = SIZES[size]
        base = cls(
            embed_dim=embed_dim, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads, patch_size=(side, side), stem=stem
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
        self.qkv = nn.Linear(D, 3 * D, bias=config.qkv_bias)  # rows [q; k; v], each head-major
        self.proj = nn.Linear(D, D)
        self.relative: nn.Parameter | None = None
        if config.position == "relative":  # of all heads
            index = relative_index(config.grid, config.prefix_tokens)
            self.relative = nn.Parameter(torch.empty(relative_rows(config.grid), D // config.num_heads))
            self.register_buffer("relative_index", index, persistent=False)

    def position_logits(self, q: Tensor) -> Tensor | None:
        """What relative positions add to the logits (B, K, N, N) of scaled queries (B, K, N, d); None where there are none.

        Source: arXiv 2010.11929, appendix D.4.
        """
        if self.relative is None:
            return None
        index = self.get_buffer("relative_index").expand(*q.shape[:2], -1, -1)
        return (q @ self.relative.T.to(q.dtype)).gather(-1, index)  # (B, K, N, offsets) -> (B, K, N, N)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, K, N, d)
        # Plain products would copy each operand of another layout for itself, forward and backward.
        q, k, v = qkv if self.fused else qkv.contiguous()  # each (B, K, N, d)
        dropout = self.attention_dropout if self.training else 0.0
        if self.fused:
            added = None if self.relative is None else self.position_logits(q * q.shape[-1] ** -0.5)
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=added, dropout_p=dropout)
        else:
            q = q * q.shape[-1] ** -0.5
            logits = q @ k.transpose(-2, -1)  # (B, K, N, N)
            if (added := self.position_logits(q)) is not None:
                logits = logits + added
            # The kernel computes in float32 whatever it reads and writes; autocast would add two copies of (N, N) around it.
            with torch.autocast(x.device.type, enabled=False):
                weights = logits.softmax(dim=-1)
            x = F.dropout(weights, dropout) @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    """Two dense layers with a GELU, or a SwiGLU gate, between; (B, N, D) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_dim * (2 if self.gated else 1))
        self.fc2 = nn.Linear(config.mlp_dim, config.embed_dim)
        self.gelu = config.gelu
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)  # each (B, N, M)
            x = F.silu(gate) * x
        elif self.gelu == "quick":
            x = x * torch.sigmoid(1.702 * x)
        else:
            x = F.gelu(x, approximate="tanh" if self.gelu == "tanh" else "none")
        return self.fc2(self.dropout(x))


class MapPool(nn.Module):
    """Multi-head attention pooling: a learned query reads the patch tokens, then an MLP; (B, h*w, D) -> (B, D).

    Source: arXiv 2106.04560, section 3 (big_vision's MAPHead, VIT_SPEC 1.3).
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        D = config.embed_dim
        self.num_heads = config.num_heads
        self.probe = nn.Parameter(torch.empty(1, 1, D))
        self.q = nn.Linear(D, D)
        self.kv = nn.Linear(D, 2 * D)  # rows [k; v]
        self.proj = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.mlp = Mlp(dataclasses.replace(config, dropout=0.0))  # no dropout in the reference's head

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q = self.q(self.probe).reshape(1, 1, self.num_heads, -1).transpose(1, 2).expand(B, -1, -1, -1)  # (B, K, 1, d)
        k, v = self.kv(x).reshape(B, N, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, K, N, d)
        y = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, 1, D))
        return (y + self.mlp(self.norm(y)))[:, 0]


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ViTConfig, drop_path: float, index: int = 0) -> None:
        super().__init__()
        D = config.embed_dim
        self.index = index  # 0 .. depth - 1
        self.draws: Draws | None = None  # set from outside before a training step (train); None: torch's own generator
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
        x = x + self._branch(self.attn(self.norm1(x)), self.layer_scale1, 2 * self.index)
        return x + self._branch(self.mlp(self.norm2(x)), self.layer_scale2, 2 * self.index + 1)

    def _branch(self, y: Tensor, scale: Tensor | None, number: int) -> Tensor:
        y = self.dropout(y)
        if scale is not None:
            y = y * scale
        if self.training and self.drop_path > 0:  # one draw per image
            kept = self.kept(y.shape[0], number, y.device)
            y = y * kept[..., None].to(y.dtype).div(1 - self.drop_path)
        return y

    def kept(self, images: int, number: int, device: torch.device) -> Tensor:
        """Which images' branch ``number`` (of all blocks) stochastic depth keeps in this step, (B, 1) bool."""
        keep = 1 - self.drop_path
        if self.draws is None:
            return torch.rand(images, 1, device=device) < keep
        return uniform(self.draws.seed, self.draws.step, DROP_PATH + number, self.draws.places, 1) < keep


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
        self.stem = None if config.stem is None else ResNetStem(config.in_channels, config.stem, config.stem_numerics)
        channels = config.in_channels if self.stem is None else self.stem.out_channels
        self.patch_embed = nn.Conv2d(channels, D, config.patch_size, stride=config.patch_size, bias=config.patch_bias)
        self.cls_token = nn.Parameter(torch.empty(1, 1, D)) if config.cls_token else None
        self.registers = nn.Parameter(torch.empty(1, config.registers, D)) if config.registers else None
        if config.position == "learned":
            self.pos_embed = nn.Parameter(torch.empty(config.position_tables, config.position_prefix + h * w, D))
        elif config.position == "learned2d":
            self.pos_x, self.pos_y = (nn.Parameter(torch.empty(config.position_tables, n, D // 2)) for n in (w, h))
        elif config.position == "sincos2d":
            self.register_buffer("pos_fixed", sincos2d((h, w), D), persistent=False)
        self.norm_pre = nn.LayerNorm(D, eps=config.norm_eps) if config.pre_norm else None
        self.dropout = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config, rate, index) for index, rate in enumerate(rates))  # type: ignore[assignment]
        self.norm = nn.LayerNorm(D, eps=config.norm_eps)
        self.map_pool = MapPool(config) if config.pool == "map" else None
        R = config.representation_size
        self.pre_logits = nn.Linear(config.pooled_dim, R) if R else None
        self.head = self._new_head() if config.num_classes else None
        self.head_dist = self._new_head() if config.num_classes and config.distilled else None

    def _new_head(self) -> nn.Linear:
        return nn.Linear(self.config.feature_dim, self.config.num_classes, bias=self.config.head_bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Features:
        """Images (B, C, H, W) to the tokens after the final norm."""
        config = self.config
        self.require_images(images)
        P = config.prefix_tokens
        x = images if self.stem is None else self.stem(images)
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # (B, h*w, D)
        x = self.dropout(self.place(x))
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for index, block in enumerate(self.blocks):
            if index and config.position_at != "stem":
                x = x + self.positions(index)
            x = block(x)
        if not config.norm_after_pool:
            x = self.norm(x)
        return Features(x[:, :P], x[:, P:].unflatten(1, config.grid))

    def require_images(self, images: Tensor) -> None:
        """Check that images (B, C, H, W) are of the size that the model takes.

        Raises:
            UserError: they are not.
        """
        config = self.config
        if images.shape[1:] != (config.in_channels, *config.image_size):
            raise UserError(
                f"the model takes images of (C, H, W) = {(config.in_channels, *config.image_size)}, "
                f"got {tuple(images.shape[1:])}; load it with image_size=(H, W) to run at another size."
            )

    def place(self, x: Tensor) -> Tensor:
        """Patches (B, h*w, D) to all tokens with their positions (B, N, D)."""
        config = self.config
        B, Q = x.shape[0], config.position_prefix
        if config.position == "sincos2d":  # patches only
            x = x + self.get_buffer("pos_fixed")
        elif config.position == "learned2d":
            x = x + join_axes(self.pos_x[:1], self.pos_y[:1])
        tokens = [token.expand(B, -1, -1) for token in (self.cls_token, self.registers) if token is not None]
        if config.position != "learned":
            return torch.cat([*tokens, x], dim=1)
        if config.prefix_tokens == Q:
            return torch.cat([*tokens, x], dim=1) + self.pos_embed[:1]
        x = torch.cat([*tokens[:Q], x], dim=1) + self.pos_embed[:1]
        return torch.cat([x[:, :Q], *tokens[Q:], x[:, Q:]], dim=1)  # Q is 0 or 1: the registers come without positions

    def positions(self, index: int) -> Tensor:
        """What is added to all tokens before block ``index``, (1, N, D); zeros for prefix tokens that have no positions.

        Of models with learned or fixed positions.
        """
        config = self.config
        one = slice(index, index + 1) if config.position_at == "layers" else slice(1)
        P, Q = config.prefix_tokens, config.position_prefix if config.position == "learned" else 0
        if config.position == "learned":
            table = self.pos_embed[one]
        elif config.position == "learned2d":
            table = join_axes(self.pos_x[one], self.pos_y[one])
        else:
            table = self.get_buffer("pos_fixed")
        return torch.cat([table[:, :Q], table.new_zeros(1, P - Q, table.shape[2]), table[:, Q:]], dim=1)

    def represent(self, features: Features) -> Tensor:
        """Pooled representation (B, `feature_dim`), the input of the head; (B, N, D or R) for pool='none'."""
        x = self._pool(features, token=0)
        return x if self.pre_logits is None else torch.tanh(self.pre_logits(x))

    def _pool(self, features: Features, token: int) -> Tensor:
        if self.config.pool == "cls":
            x = features.prefix[:, token]
        elif self.config.pool == "mean":
            x = features.patches.mean(dim=(1, 2))
        elif self.config.pool == "cls_mean":
            x = torch.cat([features.prefix[:, token], features.patches.mean(dim=(1, 2))], dim=-1)
        elif self.map_pool is not None:
            x = self.map_pool(features.patches.flatten(1, 2))
        else:
            x = torch.cat([features.prefix, features.patches.flatten(1, 2)], dim=1)
        return self.norm(x) if self.config.norm_after_pool else x

    def forward_head(self, features: Features) -> Tensor:
        """Features to logits (B, O), or to the representation where there is no head."""
        return self.outputs(features)[0]

    def outputs(self, features: Features) -> tuple[Tensor, Tensor]:
        """(what `forward_head` gives, what `represent` gives)."""
        x = self.represent(features)
        if self.head is None:
            return x, x
        if self.head_dist is None:
            return self.head(x), x
        own, taught = self.both_heads(features)
        return (own + taught) / 2, x

    def both_heads(self, features: Features) -> tuple[Tensor, Tensor]:
        """Logits (B, O) of a distilled model's head and of its second one, that learns from a teacher."""
        assert self.head is not None
        assert self.head_dist is not None
        return self.head(self.represent(features)), self.head_dist(self._pool(features, token=1))

    def both_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`both_heads` of images (B, C, H, W)."""
        return self.both_heads(self.forward_features(images))

    def init_weights(self, seed: int, head_bias: float = 0.0, scheme: str = "official") -> None:
        """Initialise every parameter by a scheme of `initialise.SCHEMES`, with a zero head of bias ``head_bias``."""
        initialise(self, seed, scheme)
        self.reset_head(head_bias)

    @torch.no_grad()
    def reset_head(self, bias: float = 0.0) -> None:
        """Zero the head's kernel and set its bias, as at the start of pre-training and of fine-tuning."""
        for head in (self.head, self.head_dist):
            if head is not None:
                nn.init.zeros_(head.weight)
                if head.bias is not None:
                    nn.init.constant_(head.bias, bias)
