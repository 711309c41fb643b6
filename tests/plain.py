"""The Vision Transformer once more, in numpy and double precision: one image, one head, one token at a time where it can be.

Written from VIT_SPEC 1 and the papers, sharing nothing with the package but the names of tensors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vitkit.models.vit import ViTConfig

Array = np.ndarray[Any, np.dtype[np.float64]]
erf = np.vectorize(math.erf)


def layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * scale + bias


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x: Array, kind: str) -> Array:
    if kind == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if kind == "erf":
        return 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return x / (1 + np.exp(-1.702 * x))


class Plain:
    """A configuration and its weights by our names."""

    def __init__(self, config: ViTConfig, state: dict[str, Any]) -> None:
        self.config = config
        self.state = {name: tensor.double().numpy() for name, tensor in state.items()}

    def dense(self, x: Array, name: str) -> Array:
        y = x @ self.state[f"{name}.weight"].T
        return y + self.state[f"{name}.bias"] if f"{name}.bias" in self.state else y

    def norm(self, x: Array, name: str) -> Array:
        return layer_norm(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.config.norm_eps)

    def mlp(self, x: Array, name: str) -> Array:
        y = self.dense(x, f"{name}.fc1")
        if self.config.mlp == "swiglu":
            M = self.config.mlp_dim
            a, b = y[..., :M], y[..., M:]
            y = a / (1 + np.exp(-a)) * b
        else:
            y = gelu(y, self.config.gelu)
        return self.dense(y, f"{name}.fc2")

    def attend(self, q: Array, k: Array, v: Array, relative: Array | None = None) -> Array:
        pairs = zip(self.weights(q, k, relative), self.heads(), strict=True)
        return np.concatenate([weights @ v[:, s] for weights, s in pairs], axis=-1)

    def heads(self) -> list[slice]:
        d = self.config.embed_dim // self.config.num_heads
        return [slice(i * d, (i + 1) * d) for i in range(self.config.num_heads)]

    def weights(self, q: Array, k: Array, relative: Array | None) -> list[Array]:
        """(Q, N) of each head."""
        found = []
        for s in self.heads():
            logits = q[:, s] @ k[:, s].T
            if relative is not None:
                for i in range(len(q)):
                    for j in range(len(k)):
                        logits[i, j] += q[i, s] @ relative[self.offset_row(i, j)]
            found.append(softmax(logits / math.sqrt(s.stop - s.start)))
        return found

    def offset_row(self, i: int, j: int) -> int:
        """Of relative positions, for tokens i (query) and j (key): offsets -(n-1) .. n-1 of patches, then the prefix."""
        P, n = self.config.prefix_tokens, self.config.grid[0] * self.config.grid[1]
        if i >= P and j >= P:
            return list(range(-(n - 1), n)).index(i - j)
        names = [("prefix", "patch"), ("patch", "prefix"), ("prefix", "prefix")]
        return 2 * n - 1 + names.index(("patch" if i >= P else "prefix", "patch" if j >= P else "prefix"))

    def patches(self, image: Array) -> Array:
        (p, q), (h, w) = self.config.patch_size, self.config.grid
        kernel = self.state["patch_embed.weight"]
        rows = []
        for i in range(h):
            for j in range(w):
                rows.append(np.tensordot(kernel, image[:, i * p : (i + 1) * p, j * q : (j + 1) * q], 3))
        return np.stack(rows) + self.state.get("patch_embed.bias", 0.0)

    def tokens(self, image: Array) -> Array:
        config, state = self.config, self.state
        x, D = self.patches(image), config.embed_dim
        prefix = [*state.get("cls_token", np.zeros((1, 0, D)))[0], *state.get("registers", np.zeros((1, 0, D)))[0]]
        return np.stack([*prefix, *x]) + self.positions(len(prefix), 0)

    def positions(self, prefix: int, number: int) -> Array:
        """What table ``number`` adds to the prefix tokens and the patches."""
        config, state = self.config, self.state
        (h, w), D = config.grid, config.embed_dim
        first, x = np.zeros((prefix, D)), np.zeros((h * w, D))
        if config.position == "learned":
            table = state["pos_embed"][number]
            rows = {"all": prefix, "cls": int(config.cls_token), "none": 0}[config.prefix_positions]
            first[:rows], x = table[:rows], table[rows:]
        elif config.position == "learned2d":
            place = [(i, j) for i in range(h) for j in range(w)]
            x = np.stack([np.concatenate([state["pos_x"][number, j], state["pos_y"][number, i]]) for i, j in place])
        elif config.position == "sincos2d":
            omega = [10000 ** (-k / (D // 4 - 1)) for k in range(D // 4)]
            rows = []
            for i in range(h):
                for j in range(w):
                    rows.append([f(n * o) for n in (j, i) for f in (math.sin, math.cos) for o in omega])
            x = np.array(rows)
        return np.concatenate([first, x])

    def logits(self, image: Array) -> Array:
        config = self.config
        x = self.tokens(image)
        if config.pre_norm:
            x = self.norm(x, "norm_pre")
        for layer in range(config.depth):
            name = f"blocks.{layer}"
            if layer and config.position_at != "stem":
                x = x + self.positions(config.prefix_tokens, layer if config.position_at == "layers" else 0)
            q, k, v = np.split(self.dense(self.norm(x, f"{name}.norm1"), f"{name}.attn.qkv"), 3, axis=-1)
            y = self.dense(self.attend(q, k, v, self.state.get(f"{name}.attn.relative")), f"{name}.attn.proj")
            x = x + y * self.state.get(f"{name}.layer_scale1", 1.0)
            y = self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp")
            x = x + y * self.state.get(f"{name}.layer_scale2", 1.0)
        if not config.norm_after_pool:
            x = self.norm(x, "norm")
        pooled = self.pool(x)
        if config.norm_after_pool:
            pooled = [self.norm(y, "norm") for y in pooled]
        if config.representation_size:
            pooled = [np.tanh(self.dense(y, "pre_logits")) for y in pooled]
        heads = ("head", "head_dist")[: len(pooled)]
        if not config.num_classes:
            return pooled[0]
        return sum(self.dense(y, head) for y, head in zip(pooled, heads, strict=True)) / len(pooled)

    def pool(self, x: Array) -> list[Array]:
        config = self.config
        if config.pool == "map":
            probe = self.dense(self.state["map_pool.probe"][0], "map_pool.q")  # (1, D)
            k, v = np.split(self.dense(x[config.prefix_tokens :], "map_pool.kv"), 2, axis=-1)
            y = self.dense(self.attend(probe, k, v), "map_pool.proj")
            return [(y + self.mlp(self.norm(y, "map_pool.norm"), "map_pool.mlp"))[0]]
        mean = x[int(config.cls_token) + config.registers :].mean(axis=0)
        if config.pool in ("mean", "cls_mean"):
            return [mean if config.pool == "mean" else np.concatenate([x[0], mean])]
        return [x] if config.pool == "none" else [x[0], x[1]] if config.distilled else [x[0]]
