"""PyTorch programs: what `torch.export` traces of a model, a `.pt2` file that runs without vitkit's code."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitkit.config import UserError
from vitkit.exporters.graph import STORED, Ends
from vitkit.models.vit import VisionTransformer

__all__ = ["DTYPES", "open_program", "write_program"]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}  # of the products of dense layers; fp32 has none
MOST_BATCH = 65_536
PICKLED = (".pt", ".pkl", ".pth")  # members of an archive that only unpickling reads


def write_program(model: VisionTransformer, path: Path | str, *, stored: str = "fp32", ends: Ends) -> None:
    """Trace a model and write it as ``path``: ``images`` (B, H, W, C) to logits, features and, with a head, probabilities.

    Args:
        stored: of the dense layers' weights and products; all else is float32.
        ends: what the program does beside the model, see `vitkit.exporters.graph`.

    Raises:
        UserError: no such precision.
    """
    if stored not in STORED:
        raise UserError(
            f"a PyTorch program computes in {', '.join(STORED)}, not in {stored}. Use --to onnx or openvino."
        )
    H, W = model.config.image_size
    kind = torch.uint8 if ends.whole else torch.float32
    example = torch.zeros(2, H, W, model.config.in_channels, dtype=kind)
    program = _Program(model, ends, DTYPES.get(stored)).eval().requires_grad_(False)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of its own workings
        batch = torch.export.Dim("batch", min=1, max=MOST_BATCH)
        traced = torch.export.export(program, (example,), dynamic_shapes=({0: batch},))
        traced.example_inputs = None  # they would be pickled
        torch.export.save(traced, Path(path))


def open_program(path: Path) -> nn.Module:
    """Read a program that `write_program` wrote.

    Raises:
        UserError: it is none, or holds something pickled, which is never read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [
                each.filename for each in archive.infolist() if each.file_size and each.filename.endswith(PICKLED)
            ]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no PyTorch program: {error}. Export the model again.") from None
    if pickled:
        raise UserError(f"{path} holds pickled data ({pickled[0]}), which can run any code; it is not read.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = torch.export.load(path).module(check_guards=False)
    return made


class _Program(nn.Module):
    """The model between its ends."""

    factor: Tensor
    summand: Tensor

    def __init__(self, model: VisionTransformer, ends: Ends, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model = model if dtype is None else _reduced(model, dtype)
        self.ends = ends
        factor, summand = ends.scale()
        self.register_buffer("factor", torch.from_numpy(factor))
        self.register_buffer("summand", torch.from_numpy(summand))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = images.permute(0, 3, 1, 2).float() * self.factor + self.summand
        logits, features = self.model.outputs(self.model.forward_features(x))
        if not self.model.config.num_classes:
            return logits, features
        scaled = logits / self.ends.temperature
        return logits, features, scaled.sigmoid() if self.ends.sigmoid else scaled.softmax(-1)


class _ReducedLinear(nn.Module):
    """A dense layer whose product is in fewer bits, float32 in and out."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.to(self.weight.dtype), self.weight).float()
        return y if self.bias is None else y + self.bias


def _reduced(model: VisionTransformer, dtype: torch.dtype) -> VisionTransformer:
    """A copy with every dense layer reduced."""
    import copy

    made: Any = copy.deepcopy(model)
    for name, layer in list(made.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(made.get_submodule(parent) if parent else made, last, _ReducedLinear(layer, dtype))
    return made
