"""`vitkit.load`: a model ready to use, from whatever the user names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitkit.bundle import Bundle
from vitkit.engines.book import AUTO, check_choice, make_engine
from vitkit.zoo.load import load_model

__all__ = ["load"]


def load(model: str | Path, *, engine: str = AUTO, precision: str = AUTO, **overrides: Any) -> Bundle:
    """Load a bundle folder, a checkpoint file or an exported artefact, which has everything but ``.model``'s modules.

    Args:
        model: a bundle folder, or a ``.safetensors`` or ``.npz`` file.
        engine: what computes, a name of `vitkit.engines.book.ENGINES`; ``auto`` chooses.
        precision: ``fp32``, ``bf16`` or ``int8`` of matrix products; ``auto`` loses no accuracy.
        overrides: fields of the model or preprocessing configuration that the weights cannot tell, for example
            ``num_heads=4``, ``image_size=(96, 160)``, ``mean=(0.5, 0.5, 0.5)``.

    Returns:
        The bundle: ``.model``, ``.preprocess(image)``, ``.classes``, ``.config``, ``.predict(images)``, ``.save(path)``.

    Raises:
        UserError: nothing of that name, an unknown override, weights that do not fit, or an engine that cannot be used.
    """
    check_choice(engine, precision)
    bundle = load_model(model, exported=True, **overrides)
    bundle.run_by(lambda it: make_engine(it, engine, precision))
    return bundle
