"""`vit demo`: the main job on an embedded default: digits as PNG files, fine-tune, predict."""

from __future__ import annotations

import random
from pathlib import Path

from vitkit.config import UserError, write_file
from vitkit.console import Console
from vitkit.data.sources import read_source
from vitkit.jobs.finetune import FinetuneResult, finetune
from vitkit.jobs.predict import predict

__all__ = ["demo"]

SHOWN = 8  # test images predicted at the end


def demo(out: str | Path = "runs/demo", *, seed: int = 0, console: Console | None = None) -> FinetuneResult:
    """Write scikit-learn's digits as PNG files in class folders, fine-tune on them, predict on some.

    Raises:
        UserError: the folder ``out`` is there already or cannot be written.
    """
    console = console or Console()
    root = Path(out)
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root} already exists; name another folder with --out.")
    data, run = root / "digits", root / "run"
    source = read_source("digits")
    for samples in source.splits.values():
        for sample in samples:
            assert isinstance(sample.source, bytes)
            write_file(data / sample.name, sample.source)
    console.say(f"wrote {sum(map(len, source.splits.values()))} digits as PNG files to {data}")
    command = f"vit finetune {data} --out {run} --seed {seed}"
    console.say(f"$ {command}")
    result = finetune(data, out=run, seed=seed, command=command, console=console)
    files = [data / sample.name for sample in source.splits["test"]]
    chosen = sorted(random.Random(seed).sample(files, SHOWN))
    console.say(f"$ vit predict {run / 'model'} {chosen[0]} ...")
    for path, prediction in predict(run / "model", chosen, console=console).predictions:
        console.say(f"  {path}: {prediction.classes[0]} ({100 * prediction.probabilities[0]:.1f} %)")
    console.say(f"report: {result.report}")
    console.say(f"bundle: {result.bundle}")
    return result
