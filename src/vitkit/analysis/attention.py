"""What tokens attend to: weights recomputed from recorded queries and keys, maps of them over the patches, and measures.

The forward is the model's own, with whatever kernel; only the layers asked for are recomputed, one at a time, in float32.
Shape letters as in `vit`; layers and heads count from 0, or from the end where negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vitkit.analysis.record import evaluating, record
from vitkit.config import UserError, did_you_mean
from vitkit.models.hybrid import stem_stride
from vitkit.models.vit import Attention, Features, MapPool, VisionTransformer, ViTConfig

__all__ = [
    "READINGS",
    "attention_distance",
    "attention_entropy",
    "attention_maps",
    "attention_weights",
    "chosen",
    "patch_pixels",
    "pool_maps",
    "pool_weights",
    "reading",
    "reading_kind",
    "recorded_features",
    "recorded_weights",
]

READINGS = ("cls", "mean", "cls_mean", "map")  # ways in which a pooled vector reads the final tokens


def chosen(wanted: Sequence[int] | None, count: int, what: str) -> tuple[int, ...]:
    """Numbers from 0, in the order asked for, of layers or heads; negative ones count from the end, None takes all.

    Raises:
        UserError: one that does not exist, or none at all.
    """
    if wanted is None:
        return tuple(range(count))
    if not len(wanted):
        raise UserError(f"no {what} was asked for: name at least one of 0 to {count - 1}, or leave it out for all.")
    for number in wanted:
        if number not in range(-count, count):
            raise UserError(
                f"there is no {what} {number}: the model has {count}, numbered 0 to {count - 1} (or -1 for the last)."
            )
    return tuple(int(number) % count for number in wanted)


def attention_weights(attention: Attention, qkv: Tensor) -> Tensor:
    """The weights (B, K, N, N), query by key, that the layer gave to its tokens; in float32 whatever it was computed in.

    Args:
        attention: the layer.
        qkv: (B, N, 3 D), the recorded output of ``attention.qkv``.
    """
    B, N, _ = qkv.shape
    with torch.autocast(qkv.device.type, enabled=False):
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
    keys = pool.kv(patches.to(pool.kv.weight.dtype))[..., :D]
    k = keys.reshape(B, N, pool.num_heads, -1).transpose(1, 2).float()  # (B, K, N, d)
    with torch.autocast(patches.device.type, enabled=False):
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)[:, :, 0]


def recorded_features(
    model: VisionTransformer, images: Tensor, layers: Sequence[int] | None = None
) -> tuple[Features, Iterator[tuple[int, Tensor]]]:
    """(the tokens after the final norm, what `recorded_weights` gives), of one forward.

    Raises:
        UserError: a layer that does not exist, or images of another size than the model's.
    """
    order = chosen(layers, model.config.depth, "layer")
    with evaluating(model), torch.no_grad(), record(model, *(_name(layer) for layer in order), outputs=True) as seen:
        features = model.forward_features(images)
    return features, _recomputed(model, seen, order)


def recorded_weights(
    model: VisionTransformer, images: Tensor, layers: Sequence[int] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Run the model once, then give (layer, its weights (B, K, N, N) in float32), one layer at a time in the order asked for.

    Between two layers nothing is kept here but queries, keys and values of those that are still to come, so that a loop
    that keeps no weights needs memory for two layers' at most.

    Args:
        model: evaluated as in eval mode, whatever mode it is in.
        images: (B, C, H, W), preprocessed.
        layers: numbers from 0, negative ones from the end; None takes all.

    Raises:
        UserError: a layer that does not exist, or images of another size than the model's; both at the call.
    """
    return recorded_features(model, images, layers)[1]


def _name(layer: int) -> str:
    return f"blocks.{layer}.attn.qkv"


def _recomputed(
    model: VisionTransformer, seen: dict[str, Tensor], order: tuple[int, ...]
) -> Iterator[tuple[int, Tensor]]:
    weights = torch.no_grad()(attention_weights)
    for place, layer in enumerate(order):
        again = layer in order[place + 1 :]
        yield layer, weights(model.blocks[layer].attn, seen[_name(layer)] if again else seen.pop(_name(layer)))


def reading_kind(model: VisionTransformer, pool: str | None = None) -> str:
    """How the pooled vector reads the final tokens: one of `READINGS`.

    Args:
        model: which says so itself.
        pool: read as if the model pooled so; for models whose output is not pooled, or to look through another token.

    Raises:
        UserError: the model does not pool and ``pool`` is not said, or the model lacks what ``pool`` needs.
    """
    config = model.config
    if pool is None and config.pool == "none":
        ways = "pool='cls' or pool='mean'" if config.cls_token else "pool='mean'"
        raise UserError(
            "this model gives an output for every token (pool='none'), so that there is no one view of the image to "
            f"show. Say how its tokens should be read: {ways}."
        )
    kind = config.pool if pool is None else pool
    if kind not in READINGS:
        raise UserError(f"pool is {kind!r}; known: {', '.join(READINGS)}.{did_you_mean(str(kind), READINGS)}")
    if kind in ("cls", "cls_mean") and not config.cls_token:
        raise UserError(
            f"this model has no class token, which pool={kind!r} reads; its own pooling is {config.pool!r}. "
            "Say pool='mean', or leave it out for the model's own."
        )
    if kind == "map" and model.map_pool is None:
        raise UserError(f"this model has no attention pooling, which pool='map' reads; its own is {config.pool!r}.")
    return kind


def reading(model: VisionTransformer, seen: Tensor | Features, pool: str | None = None) -> Tensor:
    """How much the pooled vector reads of each final token: (B, N) float32, rows of sum 1.

    The class token for "cls" (and, where the model has a second head, half of it from the distillation token), every patch
    alike for "mean", half and half for "cls_mean", and for "map" the weights of attention pooling, the mean of its heads.

    Args:
        model: the model.
        seen: images (B, C, H, W), or what ``model.forward_features`` made of them, which saves a forward.
        pool: as in `reading_kind`.

    Raises:
        UserError: as `reading_kind`.
    """
    kind, config = reading_kind(model, pool), model.config
    P, (h, w) = config.prefix_tokens, config.grid
    like = seen.patches if isinstance(seen, Features) else seen
    weights = torch.zeros(len(like), P + h * w, device=like.device)
    if kind == "map":
        assert model.map_pool is not None
        weights[:, P:] = _pool_weights(model, seen).mean(dim=1)
    elif kind == "mean":
        weights[:, P:] = 1 / (h * w)
    elif kind == "cls_mean":
        weights[:, 0] = 0.5
        weights[:, P:] = 0.5 / (h * w)
    elif model.head_dist is not None and pool is None:
        weights[:, :2] = 0.5  # logits are the mean of two heads
    else:
        weights[:, 0] = 1
    return weights


@torch.no_grad()
def _pool_weights(model: VisionTransformer, seen: Tensor | Features) -> Tensor:
    assert model.map_pool is not None
    if not isinstance(seen, Features):
        with evaluating(model):
            seen = model.forward_features(seen)
    return pool_weights(model.map_pool, seen.patches.flatten(1, 2))


def attention_maps(
    model: VisionTransformer,
    images: Tensor,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    pool: str | None = None,
) -> Tensor:
    """What the tokens that the pooled vector reads look at, layer by layer: (B, layers, heads, h, w) float32.

    Rows of the weights, summed by the `reading`; columns of prefix tokens are dropped and not made up for. Of a model that
    reads its class token these are the class token's rows, of one that reads the mean of its patches the mean of theirs.

    Args:
        model: the model.
        images: (B, C, H, W), preprocessed.
        layers, heads: as in `recorded_weights`; None takes all.
        pool: as in `reading_kind`.

    Raises:
        UserError: a layer or head that does not exist, or as `reading_kind`.
    """
    config = model.config
    reading_kind(model, pool)  # before any time is spent
    wanted = list(chosen(heads, config.num_heads, "head"))
    features, recorded = recorded_features(model, images, layers)
    read = reading(model, features, pool)[:, None, None]  # (B, 1, 1, N)
    with torch.autocast(images.device.type, enabled=False):
        maps = [(read @ weights)[:, wanted, 0, config.prefix_tokens :] for _, weights in recorded]
    return torch.stack(maps, dim=1).reshape(len(images), len(maps), len(wanted), *config.grid)


def pool_maps(model: VisionTransformer, images: Tensor, heads: Sequence[int] | None = None) -> Tensor:
    """What attention pooling itself looks at: (B, heads, h, w) float32, each map of sum 1.

    Raises:
        UserError: the model pools in another way, or a head that does not exist.
    """
    if model.map_pool is None:
        raise UserError(
            f"this model has no attention pooling (pool='map') to show; its own is {model.config.pool!r}. "
            "Its layers' attention can be shown."
        )
    wanted = list(chosen(heads, model.map_pool.num_heads, "head"))
    return _pool_weights(model, images)[:, wanted].reshape(len(images), len(wanted), *model.config.grid)


def patch_pixels(config: ViTConfig) -> tuple[int, int]:
    """(height, width) in pixels of the image between two patches; a hybrid's stem counts."""
    stride = 1 if config.stem is None else stem_stride(config.stem)
    return stride * config.patch_size[0], stride * config.patch_size[1]


def attention_distance(
    weights: Tensor, grid: tuple[int, int], patch_size: tuple[int, int], prefix_tokens: int, renormalise: bool = False
) -> Tensor:
    """How far patches look: mean over query patches of the distance to each patch times its weight; (B, K), in pixels.

    Uniform attention of patches alone gives 116.49 on a grid of 14 x 14 patches of 16 pixels.

    Args:
        weights: (B, K, N, N), query by key.
        grid: (h, w).
        patch_size: pixels between the centres of neighbours (height, width); `patch_pixels` of a model.
        prefix_tokens: P; their rows and columns are dropped.
        renormalise: let each query's weights of patches sum to 1 again; else what looks at prefix tokens counts as distance 0.

    Raises:
        UserError: weights of another number of tokens than P + h*w.

    Source: arXiv 2010.11929, section 4.5 and appendix D.7; VIT_SPEC 8, "Algorithms".
    """
    h, w = grid
    if weights.shape[-1] != prefix_tokens + h * w:
        raise UserError(
            f"weights of {weights.shape[-1]} tokens are not those of {prefix_tokens} prefix tokens and a {h}x{w} grid."
        )
    weights = weights[..., prefix_tokens:, prefix_tokens:].float()
    if renormalise:  # a row may have underflowed to zeros: it looks at no patch, and so nowhere far
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    place = torch.arange(h * w, device=weights.device)
    y, x = place // w * float(patch_size[0]), place % w * float(patch_size[1])
    distances = torch.hypot(y[:, None] - y, x[:, None] - x)  # (h*w, h*w)
    return (weights * distances).sum(dim=-1).mean(dim=-1)


def attention_entropy(weights: Tensor, normalised: bool = False) -> Tensor:
    """How spread attention is: mean over query tokens of the entropy of their weights (B, K, N, N); (B, K), in nats.

    Args:
        weights: query by key.
        normalised: divide by that of uniform attention, so that 1 is uniform and 0 looks at one token.
    """
    entropy = torch.special.entr(weights.float()).sum(dim=-1).mean(dim=-1)
    return entropy / max(math.log(weights.shape[-1]), 1e-12) if normalised else entropy
