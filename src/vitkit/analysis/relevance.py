"""Which patches speak for a class: attention weighted by its gradient, with whatever kernel the model computes attention.

One forward and one backward give what passes between the layers; the weights and their gradients are made from it one layer at a
time. Heads give sum_k A[q, k] v[k] to the projection, so that of the gradient G of that sum, dA[q, k] = G[q] . v[k].
Source: Chefer, Gur and Wolf, ICCV 2021, arXiv 2103.15679, equations 5 and 6 (self-attention).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vitkit.analysis.attention import attention_weights, pool_weights
from vitkit.analysis.record import evaluating, record
from vitkit.config import UserError
from vitkit.models.vit import Features, VisionTransformer

__all__ = ["check_classes", "relevance"]

INSTEAD = "Use attention rollout (--method rollout), which asks for no class"


def check_classes(model: VisionTransformer) -> None:
    """Check that the model gives one logit per class, which a class-specific map explains.

    Raises:
        UserError: it has no head, one that gives an embedding, or one for every token.
    """
    config = model.config
    if not config.num_classes:
        raise UserError(f"this model has no head, so that there is no class to explain. {INSTEAD}.")
    if not config.head_bias:
        raise UserError(
            "this model's head gives an embedding shared with text, not classes, so that there is no class to explain. "
            f"{INSTEAD}."
        )
    if config.pool == "none":
        raise UserError(
            "this model classifies every token (pool='none'), so that no one answer for the image can be explained. "
            "Look at the attention of its layers (--method attention)."
        )


def relevance(model: VisionTransformer, images: Tensor, targets: Tensor) -> Tensor:
    """How much each patch speaks for a class of each image, (B, h, w) float32, not negative, in no unit.

    Explained is the logit; of a multi-label model alike. From R = I, every layer adds its attention, weighted by the gradient
    where that is positive and averaged over heads: R <- R + mean(relu(dA * A)) R. The rows of the tokens that the answer was
    read from are added in proportion to what each adds to the logit where that is positive; attention pooling takes part as a
    last layer. A map is 0 everywhere where nothing speaks for the class. The model computes as it predicts (no dropout) and is
    left as it was, without gradients. Memory is that of the forward's activations of all ``images`` and one layer's weights.

    Args:
        model: on the device of the images.
        images: (B, C, H, W) float, preprocessed.
        targets: (B,) int64, the class to explain of each.

    Raises:
        UserError: the model gives no classes, or has not that one.
    """
    config, depth = model.config, len(model.blocks)
    check_classes(model)
    if len(targets) != len(images):
        raise UserError(f"{len(images)} images and {len(targets)} classes to explain: say one for each image.")
    wrong = [target for target in targets.tolist() if not 0 <= target < config.num_classes]
    if wrong:
        raise UserError(
            f"there is no class {wrong[0]}: the model has {config.num_classes}, numbered 0 to {config.num_classes - 1}."
        )
    pool = model.map_pool
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        with (
            record(model, "blocks.*.attn.qkv", *(["map_pool.kv"] if pool else []), outputs=True) as made,
            record(model, "blocks.*.attn.proj", *(["map_pool.proj"] if pool else [])) as mixed,
        ):
            logits, features = _run(model, images)
        names = [f"blocks.{index}.attn.proj" for index in range(depth)] + (["map_pool.proj"] if pool else [])
        score = logits.gather(1, _constant(targets).to(logits.device)[:, None]).sum()
        wanted = [*(mixed.pop(name) for name in names), *features]
        gradients = list(torch.autograd.grad(score, wanted, allow_unused=True, materialize_grads=True))
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        patches, prefix = gradients.pop(), gradients.pop()
        if pool is None:
            rows = _contributions(features, Features(prefix, patches))
        else:
            weights = pool_weights(pool, features.patches.flatten(1, 2).detach())[:, :, None]  # (B, K, 1, h*w)
            values = made.pop("map_pool.kv").chunk(2, dim=-1)[1]
            rows = _weighted(weights, gradients.pop(), values)[:, 0]
            rows = torch.cat([rows.new_zeros(len(rows), config.prefix_tokens), rows], dim=1)
        for index in reversed(range(depth)):
            qkv = made.pop(f"blocks.{index}.attn.qkv").detach()
            weights = attention_weights(model.blocks[index].attn, qkv)
            step = _weighted(weights, gradients.pop(), qkv.chunk(3, dim=-1)[2])
            rows = rows + (rows[:, None] @ step)[:, 0]
        return rows[:, config.prefix_tokens :].reshape(-1, *config.grid)


def _weighted(weights: Tensor, gradient: Tensor, values: Tensor) -> Tensor:
    """mean over heads of relu(dA * A), (B, Q, N), of weights (B, K, Q, N), overwritten, gradient (B, Q, D) and values (B, N, D)."""
    K = weights.shape[1]
    G, v = (
        x.detach().float().reshape(*x.shape[:2], K, -1).transpose(1, 2) for x in (gradient, values)
    )  # (B, K, Q or N, d)
    return weights.mul_(G @ v.transpose(-2, -1)).relu_().mean(dim=1)


def _contributions(features: Features, gradients: Features) -> Tensor:
    """What each final token adds to the logit where that is positive, (B, N), rows of sum 1.

    Of a class token this is 1. The mean of the patches reads all alike and would lose the class: such rows were no better than
    random orders in insertion, these were (docs/results/analysis.md).
    """
    parts = [(x * g).sum(-1).float().flatten(1) for x, g in zip(features, gradients, strict=True)]
    read = [g.abs().sum(-1).flatten(1) > 0 for g in gradients]
    rows = torch.cat(parts, dim=1).detach().relu()
    plain = torch.cat(read, dim=1).float()  # no token speaks for the class: all that were read, alike
    rows = torch.where(rows.sum(1, keepdim=True) > 0, rows, plain)
    return rows / rows.sum(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


class _Scored(nn.Module):
    """Images to logits and the final tokens that they were made of."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Features]:
        features = self.model.forward_features(images)
        return self.model.forward_head(features), features


def _run(model: VisionTransformer, images: Tensor) -> tuple[Tensor, Features]:
    """Logits and final tokens, differentiable from the first block on, with parameters that are constants."""

    tensors = [*model.named_parameters(), *model.named_buffers()]
    state = {f"model.{name}": _constant(tensor) for name, tensor in tensors}
    handle = model.blocks[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].detach().requires_grad_(),))
    try:
        logits, features = functional_call(_Scored(model), state, (_constant(images),))
    finally:
        handle.remove()
    return logits, features


def _constant(tensor: Tensor) -> Tensor:
    """The tensor without a gradient; what was made in inference mode cannot take part in a backward, a copy can."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
