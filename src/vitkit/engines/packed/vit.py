"""A Vision Transformer for inference on a CPU: the model's own tensors in the forms that compute fastest.

Weights are packed once, activations and sums are part of the product before them, what scales a tensor by constants is part of
its weights (queries, layer scale), patches are cut out and multiplied, kernels of a stem are standardised ahead, and where the
head reads only the class token the last block computes only that. Everything else is the model's own code.

Shape letters as in `vitkit.models.vit`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitkit.engines.native.blocks import NativeBlock, NativeProduct, native_missing
from vitkit.engines.packed.private_ops import Product
from vitkit.models.hybrid import ResNetStem, StdConv
from vitkit.models.vit import Attention, Block, Features, MapPool, Mlp, VisionTransformer

__all__ = ["PackedViT", "attend"]

QUICK = 1.702  # x * sigmoid(1.702 x)
PLAIN_TOKENS = 1024  # above, all logits of a head at once are too many to stay in a processor's caches


Added = Callable[[Tensor], Tensor]


class Norm(NamedTuple):
    """A LayerNorm's numbers."""

    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


def _norm(module: nn.LayerNorm) -> Norm:
    return Norm(tuple(module.normalized_shape), module.weight.detach(), module.bias.detach(), module.eps)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, added: Added | None = None) -> Tensor:
    """Attention of scaled queries (B, n, D) to keys and values (B, N, D), image by image, to (B, n, D).

    ``added`` makes of an image's queries (1, K, n, d) what is added to its logits (1, K, n, N).
    """
    rows = []
    for parts in zip(*(torch.split(part, 1) for part in (q, k, v)), strict=True):
        q_, k_, v_ = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in parts)  # each (1, K, N, d)
        more = None if added is None else added(q_)
        if k_.shape[2] > PLAIN_TOKENS:
            x = F.scaled_dot_product_attention(q_, k_, v_, attn_mask=more, scale=1.0)
        else:
            logits = q_ @ k_.transpose(-2, -1)  # (1, K, n, N)
            x = (logits if more is None else logits + more).softmax(dim=-1) @ v_
        rows.append(x.transpose(1, 2).flatten(2))
    return rows[0] if len(rows) == 1 else torch.cat(rows)


class PackedMlp:
    """`Mlp`, its last layer's output scaled."""

    def __init__(self, mlp: Mlp, scale: Tensor | None, dtype: torch.dtype, rows: int) -> None:
        weight, bias = mlp.fc1.weight.detach(), mlp.fc1.bias.detach()
        out = mlp.fc2.weight.detach() if scale is None else mlp.fc2.weight.detach() * scale[:, None]
        self.gate: Product | None = None
        self.after = "silu" if mlp.gated or mlp.gelu == "quick" else f"gelu_{mlp.gelu}"
        if mlp.gated:
            (gate, weight), (gate_bias, bias) = weight.chunk(2), bias.chunk(2)
            self.gate, self.after = Product(gate, gate_bias, dtype, rows=rows), "none"
        elif mlp.gelu == "quick":  # x * sigmoid(c x) = silu(c x) / c
            weight, bias, out = weight * QUICK, bias * QUICK, out / QUICK
        self.fc1 = Product(weight, bias, dtype, rows=rows)
        self.fc2 = Product(out, _scaled(mlp.fc2.bias, scale), dtype, rows=rows)

    def hidden(self, x: Tensor) -> Tensor:
        """What the last layer reads, (B, N, M)."""
        if self.gate is None:
            return self.fc1(x, self.after)
        return self.fc1.times(x, self.gate(x, "silu"))


def _scaled(bias: Tensor | None, scale: Tensor | None) -> Tensor | None:
    return bias if bias is None or scale is None else bias * scale


class PackedBlock:
    """`Block`. With ``rows`` only the first ``rows`` tokens come out: no other token's output is computed."""

    def __init__(self, block: Block, dtype: torch.dtype, tokens: int, rows: int | None = None) -> None:
        attn: Attention = block.attn
        self.rows = rows
        self.num_heads = attn.num_heads
        D = attn.proj.out_features
        weight = attn.qkv.weight.detach().clone()
        bias = None if attn.qkv.bias is None else attn.qkv.bias.detach().clone()
        scale = (D // attn.num_heads) ** -0.5
        weight[:D] *= scale
        if bias is not None:
            bias[:D] *= scale
        few = rows or tokens
        if rows is None:
            self.qkv = Product(weight, bias, dtype, rows=tokens)
        else:
            self.q = Product(weight[:D], None if bias is None else bias[:D], dtype, rows=few)
            self.kv = Product(weight[D:], None if bias is None else bias[D:], dtype, rows=tokens)
        self.relative = None if attn.relative is None else attn.relative.detach().to(dtype)
        if attn.relative is not None:
            self.index = attn.get_buffer("relative_index")[:rows]
        scale1, scale2 = block.layer_scale1, block.layer_scale2
        proj = attn.proj.weight.detach() if scale1 is None else attn.proj.weight.detach() * scale1[:, None]
        self.proj = Product(proj, _scaled(attn.proj.bias, scale1), dtype, rows=few)
        self.norm1, self.norm2 = _norm(block.norm1), _norm(block.norm2)
        self.mlp = PackedMlp(block.mlp, scale2, dtype, few)

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) to tokens (B, N or ``rows``, D)."""
        y = self.norm1(x)
        if self.rows is None:
            q, k, v = self.qkv(y).chunk(3, dim=2)  # each (B, N, D)
        else:
            x, first = x[:, : self.rows].contiguous(), y[:, : self.rows].contiguous()
            q = self.q(first)
            k, v = self.kv(y).chunk(2, dim=2)
        x = self.proj.plus(attend(q, k, v, self.num_heads, None if self.relative is None else self._added), x)
        return self.mlp.fc2.plus(self.mlp.hidden(self.norm2(x)), x)

    def _added(self, q: Tensor) -> Tensor:
        """`vitkit.models.vit.Attention.position_logits`."""
        assert self.relative is not None
        return (q @ self.relative.T).gather(-1, self.index.expand(*q.shape[:2], -1, -1))


class PackedMapPool:
    """`MapPool`."""

    def __init__(self, pool: MapPool, dtype: torch.dtype, tokens: int) -> None:
        self.num_heads, self.dtype = pool.num_heads, dtype
        D = pool.proj.out_features
        with torch.no_grad():
            q = pool.q(pool.probe) * (D // pool.num_heads) ** -0.5
        self.q = q.detach().to(dtype)  # (1, 1, D)
        self.kv = Product(pool.kv.weight, pool.kv.bias, dtype, rows=tokens)
        self.proj = Product(pool.proj.weight, pool.proj.bias, torch.float32, rows=1)
        self.norm = _norm(pool.norm)
        self.mlp = PackedMlp(pool.mlp, None, torch.float32, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Patches (1, h*w, D) to (1, D), float32."""
        k, v = self.kv(x.to(self.dtype)).chunk(2, dim=2)
        y = self.proj(attend(self.q, k, v, self.num_heads).float())
        return self.mlp.fc2.plus(self.mlp.hidden(self.norm(y)), y)[:, 0]


def _packed_stem(stem: ResNetStem) -> nn.Module:
    """The stem with kernels that are standardised once."""
    copied = copy.deepcopy(stem)
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, StdConv):
                module.standardised = partial(Tensor.detach, module.standardised())  # type: ignore[method-assign]
    return copied


class PackedViT:
    """Images (B, C, H, W) to (logits (B, O), features (B, D)), float32; ``dtype`` is that of products.

    A stem, the last norm and all that comes after it are in float32, softmax and norms compute in it; tokens between blocks are of
    ``dtype``, but of float32 where blocks are `native`. Blocks that are no `Block` (of 8-bit products) are taken as they are.
    """

    def __init__(self, model: VisionTransformer, dtype: torch.dtype) -> None:
        config = model.config
        h, w = config.grid
        N = config.prefix_tokens + h * w
        self.model, self.dtype = model, dtype
        self.without = native_missing(config, dtype)  # why not native
        self.native = not self.without
        kept = torch.float32 if self.native else dtype
        self.stem = None if model.stem is None else _packed_stem(model.stem)
        weight, bias = model.patch_embed.weight.flatten(1), model.patch_embed.bias
        self.patches = NativeProduct(weight, bias, dtype) if self.native else Product(weight, bias, dtype, rows=h * w)
        with torch.no_grad():  # positions are added, so that placing zeros gives them
            self.placed = model.place(torch.zeros(1, h * w, config.embed_dim)).to(kept)
            later = range(1, config.depth) if config.position_at != "stem" else ()
            self.later = {index: model.positions(index).detach().to(kept) for index in later}
        self.norm_pre = None if model.norm_pre is None else _norm(model.norm_pre)
        # How many tokens are read by what comes after the blocks.
        self.read = N if config.pool != "cls" else 2 if config.distilled else 1
        counts = [N] * (config.depth - 1) + [self.read]  # of tokens that come out of each block
        self.blocks = [self._packed(block, N, count) for block, count in zip(model.blocks, counts, strict=True)]
        self.norm = None if config.norm_after_pool else _norm(model.norm)
        self.map_pool = None if model.map_pool is None else PackedMapPool(model.map_pool, dtype, h * w)

    def _packed(self, block: nn.Module, tokens: int, rows: int) -> Callable[[Tensor], Tensor]:
        if not isinstance(block, Block):
            return block
        if self.native:
            return NativeBlock(block, self.dtype, rows)
        return PackedBlock(block, self.dtype, tokens, rows if rows < tokens else None)

    def tokens(self, images: Tensor) -> Tensor:
        """Images to the tokens that `outputs` reads, (B, N or fewer, D), float32."""
        self.model.require_images(images)
        x = self._enter(self._cut(images if self.stem is None else self.stem(images)))
        if self.norm_pre is not None:
            x = self.norm_pre(x)
        for index, block in enumerate(self.blocks):
            if index in self.later:
                x = x + self.later[index]
            x = block(x)
        x = x[:, : self.read].float()
        return x if self.norm is None else self.norm(x)

    def _cut(self, x: Tensor) -> Tensor:
        """Images, or what the stem makes of them, (B, C, H, W) to patches (B, h*w, C*p*q) of `dtype`."""
        (h, w), (p, q) = self.model.config.grid, self.model.config.patch_size
        B, C = x.shape[:2]
        cut = torch.empty((B, h, w, C, p, q), dtype=self.dtype)
        cut.copy_(x[:, :, : h * p, : w * q].reshape(B, C, h, p, w, q).permute(0, 2, 4, 1, 3, 5))
        return cut.view(B, h * w, C * p * q)

    def _enter(self, patches: Tensor) -> Tensor:
        """Patches to tokens with their positions, (B, N, D)."""
        x = self.placed.repeat(len(patches), 1, 1)
        P = self.model.config.prefix_tokens
        if isinstance(self.patches, NativeProduct):
            for row, into in zip(patches, x, strict=True):
                self.patches(row, into[P:])
        else:
            x[:, P:] = self.patches.plus(patches, x[:, P:].contiguous())
        return x

    def outputs(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of one image (1, N or fewer, D) to logits (1, O) and features (1, D)."""
        model, P = self.model, self.model.config.prefix_tokens
        if model.config.pool == "cls":  # no patches
            return model.outputs(Features(tokens, tokens[:, :0]))
        features = Features(tokens[:, :P], tokens[:, P:].reshape(len(tokens), *model.config.grid, -1))
        if self.map_pool is None:
            return model.outputs(features)
        x = self.map_pool(tokens[:, P:])
        if model.pre_logits is not None:
            x = torch.tanh(model.pre_logits(x))
        return (x if model.head is None else model.head(x)), x
