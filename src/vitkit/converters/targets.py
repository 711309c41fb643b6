"""Which of a library's families can express a configuration."""

from __future__ import annotations

from types import ModuleType

import torch

from vitkit.config import UserError
from vitkit.converters import huggingface_clip, huggingface_dinov2, huggingface_vit
from vitkit.converters.engine import encode
from vitkit.models.vit import VisionTransformer, ViTConfig

__all__ = ["HUGGINGFACE", "family_for"]

HUGGINGFACE = (huggingface_vit, huggingface_dinov2, huggingface_clip)  # the first that can is taken


def family_for(config: ViTConfig) -> ModuleType:
    """The converter that writes a model of this configuration for transformers.

    Nothing is guessed: the model is prepared and written on the meta device, where tensors have no values.

    Raises:
        UserError: no family can express the configuration, with each family's reason.
    """
    with torch.device("meta"):
        state = VisionTransformer(config).state_dict()
    reasons = []
    for module in HUGGINGFACE:
        try:
            prepared, tensors = module.prepare(config, state)
            module.write_sidecars(prepared, None, None)
            encode(tensors, module.rules(prepared))
        except UserError as error:
            reasons.append(str(error))
        else:
            return module
    raise UserError("transformers has no Vision Transformer that computes this:\n- " + "\n- ".join(reasons))
