"""Make the backbone that ships out of two finished runs. Done once: the released bundle is not made anew.

    vit pretrain box_16 data=TINY_IMAGENET --out FIRST
    vit pretrain box data=TINY_IMAGENET start=FIRST/model --out RUN
    python tools/release_box.py RUN --first FIRST --commit COMMIT --data TINY_IMAGENET --image-size 32

COMMIT is the one whose code trained it: its source must have the fingerprint that the runs stored, and the script checks that.
Weights are rounded to bfloat16, scored before and after on the validation images of DATA, and written to src/vitkit/zoo/box/, with
the losses of FIRST's first 200 steps, so that anybody can see whether the recipe repeats them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console, percent
from vitkit.datasets.book import read_data
from vitkit.evals.scoring import score_samples
from vitkit.zoo.adapt import resize
from vitkit.zoo.box import NAME, PLACE

ROOT = Path(__file__).resolve().parents[1]
LICENCE = "ImageNet's terms: non-commercial research and education only"
MOST_BYTES = 12_000_000
FIRST = 200  # steps whose losses are kept
FILES = ("model.safetensors", "config.json", "training.json")


def source_sign(commit: str) -> str:
    """The fingerprint of vitkit's source at a commit, by that commit's own rule."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        code = "from vitkit.report import code_fingerprint; print(code_fingerprint())"
        found = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": f"{folder}/src"}, check=True, capture_output=True
        )
    return found.stdout.decode().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--first", type=Path, required=True, help="the run of box_16 that it went on from")
    parser.add_argument("--commit", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image-size", type=int, help="to run at, where that is not the size it was trained at")
    given = parser.parse_args()
    if (PLACE / FILES[0]).exists():
        raise SystemExit(f"{PLACE / FILES[0]} is there already: the box is made once.")
    commit = subprocess.run(["git", "rev-parse", given.commit], cwd=ROOT, check=True, capture_output=True, text=True)
    sign, reports = source_sign(given.commit), {}
    start = {"start": str((given.first / "model").resolve())}
    for run, recipe, settings in ((given.first, f"{NAME}_16", {}), (given.run, NAME, start)):
        reports[recipe] = report = json.loads((run / "report.json").read_text())
        if (report["recipe"]["name"], report["recipe"]["settings"]) != (recipe, settings):
            raise SystemExit(f"{run} is not a run of the recipe {recipe} with {settings}: {report['recipe']}")
        if sign != report["code"]:
            raise SystemExit(f"the source at {given.commit} is {sign}, {run} was made by {report['code']}.")
    hexes = commit.stdout.strip()
    plan = report["plan"]
    bundle = Bundle.read(given.run / "model")
    if given.image_size:
        record = dataclasses.replace(bundle.require_preprocess(), image_size=(given.image_size, given.image_size))
        bundle = dataclasses.replace(bundle, model=resize(bundle.model, given.image_size), preprocess_record=record)
    bundle.source = (
        f"vitkit's own, vit pretrain {NAME} on Tiny-ImageNet at 32 pixels, seed {plan['seed']}, commit {hexes[:12]}"
    )
    bundle.licence = LICENCE
    losses = [json.loads(line) for line in (given.first / "metrics.jsonl").read_text().splitlines()]
    bundle.training = {
        "commit": hexes, "code": sign, "seed": plan["seed"], "data": report["data"], "images": report["counts"]["train"],
        "versions": {name: text for name, text in report["versions"].items() if name != "platform"},
        "runs": [
            {"recipe": name, "title": report["recipe"]["title"], "plan": report["plan"], "seconds": report["seconds"]}
            for name, report in reports.items()
        ],
        "first_losses": [line["loss"] for line in losses if "loss" in line][:FIRST],
    }  # fmt: skip
    test, console, top1 = read_data(given.data).splits["val"], Console(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("fp32", "bf16"):
            bundle.save(Path(folder) / name, half=name == "bf16")
            scored = score_samples(Bundle.read(Path(folder) / name), test, console, name).scores
            top1[name] = scored.values["top1"]
            low, high = scored.intervals["top1"]
            console.say(f"{name}: top-1 {percent(top1[name])} [{percent(low)}, {percent(high)}] of {scored.n} images")
        bundle.training = {**bundle.training, "validation_top1": top1}
        made = bundle.save(Path(folder) / "released", half=True)
        size = (made / FILES[0]).stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"the weights have {size:,} bytes, at most {MOST_BYTES:,} may ship.")
        for file in FILES:
            shutil.copyfile(made / file, PLACE / file)
    console.say(f"{PLACE}: {size:,} bytes of weights, {sum(p.numel() for p in bundle.model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
