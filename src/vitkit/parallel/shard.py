"""A model on several ranks: each has all of it and gradients are summed, or each holds a part (FSDP2).

What only ranks need is imported where they need it: it takes as long to import as half of torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitkit.config import UserError
from vitkit.parallel.world import World

__all__ = ["KINDS", "fill", "full", "full_weights", "is_sharded", "shard", "sum_gradients", "syncs"]

KINDS = ("ddp", "fsdp2")  # every rank has the whole model | every rank has a part of each tensor
BUCKET_BYTES = 25 * 2**20  # of gradients that are sent in one message; PyTorch's own default


def shard(model: nn.Module, blocks: Iterable[nn.Module], world: World) -> None:
    """Leave on each rank its part of every tensor, in place; ``blocks`` are gathered one at a time as they are needed.

    All ranks must have the same weights. Gradients are summed over ranks, not averaged.

    Raises:
        UserError: a PyTorch that cannot.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UserError(
            f"parts of a model on each rank need torch 2.9 or newer, and {torch.__version__} is installed: take ddp."
        )
    kind = next(model.parameters()).device.type
    mesh = init_device_mesh(kind, (world.size,))
    inner = list(blocks)
    for module in (*inner, model):
        fully_shard(module, mesh=mesh)
    if hasattr(model, "both_logits"):  # the other way, beside forward, into a Vision Transformer
        register_fsdp_forward_method(model, "both_logits")
    for module in (*inner, model):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def is_sharded(model: nn.Module) -> bool:
    """Does each rank have a part of it only?"""
    return any(_is_part(parameter) for parameter in model.parameters())


def _is_part(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor


def syncs(model: nn.Module, last: bool) -> None:
    """Tell a sharded model whether the next backward pass is the last of a step, whose end sums gradients over ranks."""
    if is_sharded(model):
        model.set_requires_gradient_sync(last)  # type: ignore[operator]


def sum_gradients(model: nn.Module, world: World) -> None:
    """Sum the gradients of a model that every rank has all of; the sharded ones are summed by their backward pass.

    After the backward passes and in a fixed order: a rank can then still take a step back, which it cannot while another
    one waits in the middle of it.
    """
    if world.size == 1 or is_sharded(model):
        return
    for bucket in _buckets(p.grad for p in model.parameters() if p.grad is not None):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        for gradient, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor that ranks share; another one as it is. Every rank must ask."""
    return tensor.full_tensor() if _is_part(tensor) else tensor  # type: ignore[attr-defined]


def full_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """`full` of each."""
    return {name: full(tensor) for name, tensor in weights.items()}


@torch.no_grad()
def fill(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into one that may be this rank's part of it; the ranks do not talk to each other."""
    if _is_part(target):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        part = distribute_tensor(source.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(part.to_local())
    else:
        target.copy_(source)
