"""What the layouts of the official JAX code share: prefixes, Flax's module names and numbering, and its axes.

Source: VIT_SPEC 2.1 and 2.4.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from vitkit.config import UserError
from vitkit.converters.engine import Rule, same
from vitkit.models.vit import ViTConfig

__all__ = [
    "BLOCK",
    "IGNORE",
    "OFFICIAL_POSITIONS",
    "blocks",
    "conv",
    "dense",
    "depth_of",
    "heads",
    "mlp",
    "norm",
    "out",
    "plain_names",
    "readings",
    "refuse_twins",
]

BLOCK = "Transformer/encoderblock_"
OFFICIAL_POSITIONS = "Transformer/posembed_input/pos_embedding"  # of vision_transformer; big_vision moved the table
ANCHOR = "embedding/kernel"  # every image model of these layouts has it, and right below its prefix
PREFIXES = ("", "params/", "opt/target/", "params/img/", "img/")
# Beside the image model: the optimiser's state, counters, and the other parts of a contrastive or language model.
IGNORE = (r"(opt|opt_state|state|extra|params|txt|llm)/.*", r"step|epoch|t|b")
NUMBERED = re.compile(r"([A-Z][A-Za-z0-9]*)_(\d{1,4})")  # a module without a name of its own: its class and a counter


def readings(names: Iterable[str]) -> list[dict[str, str]]:
    """One reading for each prefix that an image model is stored under: its tensors' names to their plain names.

    Plain names have no prefix and Linen's numbering, in which each class of a parent's modules counts from 0; older files
    count modules of all classes together. Flax renumbers in the same way (`convert_pre_linen`).
    """
    names = set(names)
    found = []
    for prefix in PREFIXES:
        if prefix + ANCHOR in names:
            inside = [
                n for n in names if n.startswith(prefix) and not any(re.fullmatch(p, n[len(prefix) :]) for p in IGNORE)
            ]
            found.append(dict(zip(inside, _linen([name[len(prefix) :] for name in inside]), strict=True)))
    return found


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Every name of a file to its plain name; what lies outside the image model keeps its own.

    Raises:
        UserError: several image models, or two tensors of one plain name.
    """
    names = list(names)
    found = readings(names)
    if len(found) != 1:
        anchors = ", ".join(name for reading in found for name, plain in reading.items() if plain == ANCHOR)
        raise UserError(
            f"the file holds {len(found)} image models ({anchors}); expected one. Write out the one that is meant."
        )
    plain = {name: found[0].get(name, name) for name in names}
    refuse_twins(plain)
    return plain


def refuse_twins(plain: Mapping[str, str]) -> None:
    """Raise where two tensors of a file come to the same name.

    Raises:
        UserError: naming both.
    """
    first: dict[str, str] = {}
    for name, target in plain.items():
        if target in first:
            raise UserError(f"{first[target]} and {name} are two spellings of the same tensor; which of them is meant?")
        first[target] = name


def _linen(names: Sequence[str]) -> list[str]:
    counters: dict[tuple[str, str], set[int]] = defaultdict(set)  # (parent, class) -> numbers that are taken
    for name in names:
        for _, parent, kind, number in _numbered(name):
            counters[parent, kind].add(number)
    ranks = {key: {number: rank for rank, number in enumerate(sorted(taken))} for key, taken in counters.items()}
    renamed = []
    for name in names:
        parts = name.split("/")
        for place, parent, kind, number in _numbered(name):
            parts[place] = f"{kind}_{ranks[parent, kind][number]}"
        renamed.append("/".join(parts))
    return renamed


def _numbered(name: str) -> list[tuple[int, str, str, int]]:
    """(place, parent, class, number) of every numbered module on the path to a tensor."""
    parts = name.split("/")[:-1]
    found = [(place, NUMBERED.fullmatch(part)) for place, part in enumerate(parts)]
    return [(place, "/".join(parts[:place]), m[1], int(m[2])) for place, m in found if m]


def depth_of(names: Iterable[str]) -> int:
    """Number of blocks."""
    return len({match[1] for name in names if (match := re.match(rf"{BLOCK}(\d+)/", name))})


def norm(ours: str, theirs: str) -> list[Rule]:
    """A LayerNorm or GroupNorm."""
    return [same(f"{ours}.weight", f"{theirs}/scale"), same(f"{ours}.bias", f"{theirs}/bias")]


def dense(ours: str, theirs: str) -> list[Rule]:
    """A dense layer; its kernel is (in, out) there."""
    kernel = Rule(f"{ours}.weight", (f"{theirs}/kernel",), lambda parts: parts[0].t(), lambda tensor: [tensor.t()])
    return [kernel, same(f"{ours}.bias", f"{theirs}/bias")]


def conv(ours: str, theirs: str) -> Rule:
    """The kernel of a convolution; (height, width, in, out) there."""
    return Rule(
        f"{ours}.weight",
        (f"{theirs}/kernel",),
        lambda parts: parts[0].permute(3, 2, 0, 1),
        lambda tensor: [tensor.permute(2, 3, 1, 0)],
    )


def heads(ours: str, attention: str, parts: tuple[str, ...], config: ViTConfig) -> list[Rule]:
    """One dense layer of ours with the rows of several of theirs, whose outputs are split into heads."""
    D, K = config.embed_dim, config.num_heads
    d = D // K
    return [
        Rule(
            f"{ours}.weight",
            tuple(f"{attention}/{part}/kernel" for part in parts),
            lambda kernels: torch.cat([_of_shape(kernel, (D, K, d)).reshape(D, D).t() for kernel in kernels]),
            lambda tensor: [part.t().reshape(D, K, d) for part in tensor.chunk(len(parts))],
        ),
        Rule(
            f"{ours}.bias",
            tuple(f"{attention}/{part}/bias" for part in parts),
            lambda biases: torch.cat([_of_shape(bias, (K, d)).reshape(D) for bias in biases]),
            lambda tensor: [part.reshape(K, d) for part in tensor.chunk(len(parts))],
        ),
    ]


def out(ours: str, attention: str, config: ViTConfig) -> list[Rule]:
    """The dense layer that reads all heads."""
    D, K = config.embed_dim, config.num_heads
    kernel = Rule(
        f"{ours}.weight",
        (f"{attention}/out/kernel",),
        lambda kernels: _of_shape(kernels[0], (K, D // K, D)).reshape(D, D).t(),
        lambda tensor: [tensor.t().reshape(K, D // K, D)],
    )
    return [kernel, same(f"{ours}.bias", f"{attention}/out/bias")]


def mlp(ours: str, theirs: str, config: ViTConfig) -> list[Rule]:
    """The two dense layers of a block.

    Raises:
        UserError: a gated MLP, which these layouts do not have.
    """
    if config.mlp != "gelu":
        raise UserError(f"the format has no place for an MLP of kind {config.mlp!r}; it cannot express this model.")
    return [*dense(f"{ours}.fc1", f"{theirs}/Dense_0"), *dense(f"{ours}.fc2", f"{theirs}/Dense_1")]


def blocks(config: ViTConfig) -> list[Rule]:
    """All blocks and the norm after them."""
    table = norm("norm", "Transformer/encoder_norm")
    for layer in range(config.depth):
        ours, theirs = f"blocks.{layer}", f"{BLOCK}{layer}"
        attention = f"{theirs}/MultiHeadDotProductAttention_0"
        table += [
            *norm(f"{ours}.norm1", f"{theirs}/LayerNorm_0"),
            *heads(f"{ours}.attn.qkv", attention, ("query", "key", "value"), config),
            *out(f"{ours}.attn.proj", attention, config),
            *norm(f"{ours}.norm2", f"{theirs}/LayerNorm_1"),
            *mlp(f"{ours}.mlp", f"{theirs}/MlpBlock_0", config),
        ]
    return table


def _of_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor itself; a reshape alone would take another number of heads for ours."""
    if tensor.shape != shape:
        raise RuntimeError(
            f"{tuple(tensor.shape)} is not {shape}"
        )  # as of a torch operation: `decode` says it to the user
    return tensor
