"""`vitkit.load`: a model ready to use, from whatever the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitkit.bundle import Bundle
from vitkit.engines.eager import EagerEngine
from vitkit.zoo.load import load_model

__all__ = ["load"]


def load(model: str | Path, **overrides: Any) -> Bundle:
    """Load a bundle folder or a checkpoint file.

    Args:
        model: a bundle folder, or a ``.safetensors`` or ``.npz`` file.
        overrides: fields of the model or preprocessing configuration that the weights cannot tell, for example
            ``num_heads=4``, ``image_size=(96, 160)``, ``mean=(0.5, 0.5, 0.5)``.

    Returns:
        The bundle: ``.model``, ``.preprocess(image)``, ``.classes``, ``.config``, ``.predict(images)``, ``.save(path)``.

    Raises:
        UserError: nothing of that name, an unknown override, or weights that do not fit.
    """
    bundle = load_model(model, **overrides)
    bundle.run = EagerEngine(bundle.model)
    return bundle
