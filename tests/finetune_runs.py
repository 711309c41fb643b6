"""Quick fine-tuning runs, for the tests of what a run does and says."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import vitkit
from vitkit.console import Console

MEAN_STD = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
QUICK = {"batch_size": 8, "evaluations": 3}


def run(data: Path, out: Path, **options: Any) -> Any:
    """Fine-tune a tiny model from random weights on a few small images, silently."""
    options.setdefault("model", "scratch")
    options.setdefault("epochs", 3)
    options.setdefault("workers", 0)
    options.setdefault("settings", QUICK)
    return vitkit.finetune(data, out=out, console=Console(io.StringIO(), io.StringIO()), **options)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column name."""
    return list(csv.DictReader(path.read_text().splitlines()))
