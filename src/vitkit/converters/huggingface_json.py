"""transformers' ``config.json`` as its families of Vision Transformers use it, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitkit.config import UserError, did_you_mean
from vitkit.converters.settings import setting, size_setting
from vitkit.models.vit import ViTConfig

__all__ = [
    "HIDDEN_ACT",
    "checked_type",
    "class_names",
    "labels",
    "require",
    "square_or_pair",
    "told_fields",
]

# hidden_act -> ours. The names of one function are transformers' several ways to compute it (transformers.activations).
GELUS = {
    **dict.fromkeys(("gelu", "gelu_python"), "erf"),
    **dict.fromkeys(("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_new", "gelu_fast", "gelu_accurate"), "tanh"),
    "quick_gelu": "quick",
}
HIDDEN_ACT = {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}


def checked_type(values: Any, known: Sequence[str], where: str = "config.json") -> str:
    """The ``model_type``, one of ``known``.

    Raises:
        UserError: another type: the tensors may have familiar names, but another function is computed with them.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} holds no settings; transformers writes an object of names and values there.")
    type_ = setting(values, "model_type", str, known[0], where)
    if type_ not in known:
        raise UserError(
            f"{where}: model_type is {type_!r}, which vitkit does not compute; the tensors' names are those of "
            f"{', '.join(known)}.{did_you_mean(type_, known)}"
        )
    return type_


def told_fields(values: Mapping[str, Any], defaults: Mapping[str, Any], where: str = "config.json") -> dict[str, Any]:
    """Fields of `ViTConfig` that names and shapes do not tell; settings left out have the family's ``defaults``.

    Raises:
        UserError: an activation that the model does not have, heads of another width, or a value of the wrong kind.
    """
    act = setting(values, "hidden_act", str, defaults["hidden_act"], where)
    if act not in GELUS:
        raise UserError(f"{where}: hidden_act is {act!r}; known: {', '.join(GELUS)}.{did_you_mean(act, GELUS)}")
    heads = setting(values, "num_attention_heads", int, defaults["num_attention_heads"], where)
    width = setting(values, "hidden_size", int, None, where)
    head_dim = setting(values, "head_dim", int, None, where)
    if head_dim is not None and width != heads * head_dim:
        raise UserError(f"{where}: head_dim is {head_dim}, and {heads} heads of it are not the width {width}.")
    return {
        "num_heads": heads,
        "gelu": GELUS[act],
        "norm_eps": float(setting(values, "layer_norm_eps", (int, float), defaults["layer_norm_eps"], where)),
        "image_size": size_setting(values, "image_size", defaults["image_size"], where),
    }


def class_names(values: Mapping[str, Any], where: str = "config.json") -> tuple[str, ...] | None:
    """The names of ``id2label`` in the order of their numbers; None for a model without classes and for LABEL_0, LABEL_1, ...

    Raises:
        UserError: numbers are missing.
    """
    architectures = setting(values, "architectures", (list, tuple), (), where)
    if architectures and not any("ImageClassification" in str(name) for name in architectures):
        return None
    table = setting(values, "id2label", Mapping, {}, where)
    by_number = {str(number): str(name) for number, name in table.items()}
    if set(by_number) != {str(i) for i in range(len(by_number))}:
        raise UserError(f"{where}: id2label does not number its {len(by_number)} classes from 0 without gaps.")
    names = tuple(by_number[str(i)] for i in range(len(by_number)))
    return None if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names


def labels(config: ViTConfig, classes: Sequence[str] | None) -> dict[str, Any]:
    """``id2label`` and ``label2id``, which also say how many classes there are.

    Raises:
        UserError: the names are not as many as the model's classes.
    """
    names = [f"LABEL_{i}" for i in range(config.num_classes)] if classes is None else list(classes)
    if len(names) != config.num_classes:
        raise UserError(f"{len(names)} class names for a model of {config.num_classes} classes.")
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def square_or_pair(size: tuple[int, int]) -> int | list[int]:
    """A size as transformers writes it: one number where both are the same."""
    return size[0] if size[0] == size[1] else list(size)


def require(config: ViTConfig, family: str, **fields: object) -> None:
    """Check that a configuration has these values.

    Raises:
        UserError: it has another, which the family cannot express.
    """
    for name, wanted in fields.items():
        if getattr(config, name) != wanted:
            raise UserError(f"{family} cannot express {name}={getattr(config, name)!r}, its models have {wanted!r}.")
