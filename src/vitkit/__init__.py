"""vitkit: the Vision Transformer as a product. Names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "UserError": "vitkit.config",
    "VisionTransformer": "vitkit.models.vit",
    "ViTConfig": "vitkit.models.vit",
    "analyze": "vitkit.jobs.analyze",
    "audit": "vitkit.jobs.audit",
    "benchmark": "vitkit.jobs.benchmark",
    "compare": "vitkit.jobs.compare",
    "convert": "vitkit.jobs.convert",
    "demo": "vitkit.jobs.demo",
    "doctor": "vitkit.jobs.doctor",
    "evaluate": "vitkit.jobs.evaluate",
    "explain": "vitkit.jobs.explain",
    "export": "vitkit.jobs.export",
    "finetune": "vitkit.jobs.finetune",
    "list_datasets": "vitkit.jobs.datasets",
    "list_models": "vitkit.jobs.models",
    "list_recipes": "vitkit.jobs.recipes",
    "load": "vitkit.jobs.load",
    "paper": "vitkit.jobs.paper",
    "predict": "vitkit.jobs.predict",
    "pretrain": "vitkit.jobs.pretrain",
    "results": "vitkit.jobs.results",
    "serve": "vitkit.jobs.serve",
    "verify": "vitkit.jobs.verify",
}

__all__ = [
    "UserError",
    "ViTConfig",
    "VisionTransformer",
    "analyze",
    "audit",
    "benchmark",
    "compare",
    "convert",
    "demo",
    "doctor",
    "evaluate",
    "explain",
    "export",
    "finetune",
    "list_datasets",
    "list_models",
    "list_recipes",
    "load",
    "paper",
    "predict",
    "pretrain",
    "results",
    "serve",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vitkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
