"""Attention weights of chosen layers, recomputed from recorded queries and keys."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vitkit.config import UserError
from vitkit.models.vit import Attention, MapPool

__all__ = ["attention_weights", "chosen", "pool_weights"]


def chosen(wanted: Sequence[int] | None, count: int, what: str) -> tuple[int, ...]:
    """Numbers from 0, in the order asked for, of layers or heads; negative ones count from the end, None takes all.

    Raises:
        UserError: one that does not exist.
    """
    if wanted is None:
        return tuple(range(count))
    for number in wanted:
        if not -count <= number < count:
            raise UserError(
                f"there is no {what} {number}: the model has {count}, numbered 0 to {count - 1} (or -1 for the last)."
            )
    return tuple(number % count for number in wanted)


def attention_weights(attention: Attention, qkv: Tensor) -> Tensor:
    """The weights (B, K, N, N), query by key, that the layer gave to its tokens; in float32 whatever it was computed in.

    Args:
        attention: the layer.
        qkv: (B, N, 3 D), the recorded output of ``attention.qkv``.
    """
    B, N, _ = qkv.shape
    q, k, _ = qkv.reshape(B, N, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).float()  # each (B, K, N, d)
    q = q * q.shape[-1] ** -0.5
    logits = q @ k.transpose(-2, -1)
    if (added := attention.position_logits(q)) is not None:
        logits = logits + added
    return logits.softmax(dim=-1)


def pool_weights(pool: MapPool, patches: Tensor) -> Tensor:
    """The weights (B, K, h*w) that attention pooling gave to the patches (B, h*w, D), its recorded input."""
    B, N, D = patches.shape
    q = pool.q(pool.probe).reshape(1, pool.num_heads, 1, -1).float()  # (1, K, 1, d)
    k = pool.kv(patches)[..., :D].reshape(B, N, pool.num_heads, -1).transpose(1, 2).float()  # (B, K, N, d)
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]
