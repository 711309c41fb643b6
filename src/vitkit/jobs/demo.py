"""`vit demo`: the main job on an embedded default: digits as PNG files, fine-tune, predict; then the paper's claim as a picture."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

from vitkit.config import UserError, write_file, write_json
from vitkit.console import Console
from vitkit.data.samples import Source
from vitkit.data.sources import read_source
from vitkit.jobs.finetune import FinetuneResult, finetune
from vitkit.jobs.predict import predict
from vitkit.pretraining.starts import SHOTS, STEPS, compare_starts, draw_starts
from vitkit.zoo.load import load_model

__all__ = ["demo"]

SHOWN = 8  # test images predicted at the end
MODEL = "box"  # said, so that the demo is the same whatever checkpoints this machine has
CLAIM = "few-images"  # the picture's files
CLAIM_SIZE = 16  # pixels that its digits, which have 8, are enlarged to


def demo(out: str | Path = "runs/demo", *, seed: int = 0, console: Console | None = None) -> FinetuneResult:
    """Write scikit-learn's digits as PNG files in class folders, fine-tune on them, predict on some, and draw what pre-training
    is worth when there are few images.

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
    command = f"vit finetune {data} --model {MODEL} --out {run} --seed {seed}"
    console.say(f"$ {command}")
    result = finetune(data, model=MODEL, out=run, seed=seed, command=command, console=console)
    files = [data / sample.name for sample in source.splits["test"]]
    chosen = sorted(random.Random(seed).sample(files, SHOWN))
    console.say(f"$ vit predict {run / 'model'} {chosen[0]} ...")
    for path, prediction in predict(run / "model", chosen, console=console).predictions:
        console.say(f"  {path}: {prediction.classes[0]} ({100 * prediction.probabilities[0]:.1f} %)")
    picture = _claim(read_source(data), root / CLAIM, seed, console)
    console.say(f"report: {result.report}")
    console.say(f"bundle: {result.bundle}")
    if picture:
        console.say(f"picture: {picture}")
    return result


def _claim(source: Source, stem: Path, seed: int, console: Console) -> Path | None:
    """Accuracy by images of each class, from random weights and from the box: the figures as text, and as a picture where there
    is matplotlib.
    """
    console.say(
        f"the paper's claim: the same fine-tuning, {STEPS} steps, from random weights and from {MODEL}: test top-1"
    )
    points = compare_starts(load_model(MODEL), MODEL, source, SHOTS, CLAIM_SIZE, seed, console)
    write_json(stem.with_suffix(".json"), [point._asdict() for point in points])
    if find_spec("matplotlib") is None:
        console.say("no picture of it: that needs matplotlib (pip install 'vitkit[figures]')")
        return None
    return draw_starts(points, "digits", stem)[1]
