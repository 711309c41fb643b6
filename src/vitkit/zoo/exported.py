"""An exported artefact as a bundle: all that a bundle says, an engine for answers, and no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import nn

from vitkit.artefact import Artefact, refusal
from vitkit.bundle import Bundle
from vitkit.config import from_dict
from vitkit.models.vit import VisionTransformer, ViTConfig

__all__ = ["NoModules", "exported_bundle"]


class NoModules(nn.Module):
    """Stands where a bundle has its model: the configuration and the number of parameters. Computing it is refused."""

    def __init__(self, config: ViTConfig, parameters: int, folder: Path) -> None:
        super().__init__()
        self.config, self.folder = config, folder
        self.weights = nn.Parameter(torch.empty(parameters, device="meta"), requires_grad=False)

    def forward(self, *_: Any) -> NoReturn:
        raise refusal(self.folder)

    forward_features = forward_head = outputs = forward


def exported_bundle(artefact: Artefact) -> Bundle:
    """The bundle of an artefact, as yet without an engine."""
    config = from_dict(ViTConfig, artefact.model, f"{artefact.folder}: model")
    model = NoModules(config, artefact.parameters, artefact.folder)
    answers = artefact.answers
    return Bundle(
        model=cast(VisionTransformer, model.eval()),
        preprocess_record=artefact.preprocess,
        classes=answers.classes,
        temperature=answers.temperature,
        source=artefact.source,
        licence=artefact.licence,
        training=artefact.training,
        notes=artefact.notes,
        unknown=answers.unknown,
        task=answers.task,
        thresholds=answers.thresholds,
        place=artefact.folder,
        artefact=artefact,
    )
