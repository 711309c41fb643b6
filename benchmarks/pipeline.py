"""From JPEG files on disk to classes: `vit predict` beside timm's inference loop and the transformers pipeline.

    python benchmarks/pipeline.py [--quick] [--rounds 15] [--processes 7] [--sides 'timm-*,vitkit-*'] [-o runs/pipeline]
    python benchmarks/pipeline.py --markdown runs/pipeline/pipeline.csv

The 272 test photos of Flowers-17 and DeiT-Tiny's 1,000 classes ($VITKIT_SHARED/data). Twice: as whole processes, from the
command to its end, imports and all, engines and compiled graphs in their caches since a first run that is not counted; and in
steady state, a process of its own a side that has its model loaded and goes through all photos when told. Sides take turns in an
order drawn anew each round; ratios are of one round's two times, medians of rounds. timm is what its inference script does:
`create_dataset`, `create_loader` with its transforms, prefetcher and two workers, softmax and top class of each batch (of 32; the
script's 256 would leave the model waiting for nearly all photos); transformers is `pipeline("image-classification")` with batches
of 8 over the paths, on the folder that `vit convert --to huggingface` writes. `same` counts photos that get the class that timm in
fp32 gives.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from inference import chosen
from turns import Side, SideError, machine, peak_mb, serve

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
WEIGHTS = SHARED / "deit_tiny" / "deit_tiny_patch16_224.safetensors"
BASE = "timm-fp32"
CROP = 0.875  # of the short side, DeiT's own; timm would take 0.9
SIDES = (
    BASE, "timm-autocast-bf16", "transformers-fp32", "transformers-bf16", "vitkit-eager-fp32", "vitkit-eager-bf16",
    "vitkit-tuned-fp32", "vitkit-tuned-bf16", "vitkit-tuned-int8", "vitkit-openvino-fp32", "vitkit-openvino-bf16",
    "vitkit-openvino-int8", "vitkit-onnxruntime-fp32", "vitkit-onnxruntime-int8",
)  # fmt: skip
FIELDS = ("what", "round", "side", "rate", "seconds", "mb", "same")
Pass = Callable[[], dict[str, str]]  # goes through all photos: file name -> class


def photos(work: Path) -> list[Path]:
    """The photos of a prepared folder."""
    return sorted((work / "photos").rglob("*.jpg"))


def labels(work: Path) -> list[str]:
    named = json.loads((work / "huggingface" / "config.json").read_text())["id2label"]
    return [named[str(index)] for index in range(len(named))]


def prepare(work: Path, every: int) -> None:
    """Each ``every``-th test photo, and the model in the formats that sides read."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "photos").exists():
        partial = work / "photos.partial"
        with tarfile.open(SHARED / "flowers17" / "test.tar") as tar:
            members = [member for member in tar.getmembers() if member.name.endswith(".jpg")]
            tar.extractall(partial, members[::every], filter="data")
        partial.replace(work / "photos")
    for what, name in (("huggingface", "huggingface"), ("vitkit", "model")):
        if not (work / name).exists():
            command = [sys.executable, "-m", "vitkit", "convert", str(WEIGHTS), str(work / name), "--to", what]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if importlib.util.find_spec("vitkit.engines.calibration"):
        calibrate_model(work)


def calibrate_model(work: Path) -> None:
    """Ranges for int8 of 64 training photos, none of which is classified here."""
    from sides import calibrate_once
    from vitkit.data.official import load_view
    from vitkit.data.pixels import to_planes
    from vitkit.jobs.load import load

    folder = work / "training"
    with tarfile.open(SHARED / "flowers17" / "train.tar") as tar:
        members = [member for member in tar.getmembers() if member.name.endswith(".jpg")]
        tar.extractall(folder, members[:: len(members) // 64][:64], filter="data")
    record = load(work / "model").require_preprocess()
    calibrate_once(work / "model", [to_planes(load_view(path, record)) for path in sorted(folder.rglob("*.jpg"))])


def timm_pass(precision: str, work: Path) -> Pass:
    from sides import mend_torchvision

    mend_torchvision()
    import torch
    from safetensors.torch import load_file
    from timm import create_model
    from timm.data import create_dataset, create_loader, resolve_data_config

    model = create_model("deit_tiny_patch16_224")
    model.load_state_dict(load_file(WEIGHTS))
    model.eval()
    dataset = create_dataset("", root=str(work / "photos"), split="validation")
    settings = resolve_data_config({"crop_pct": CROP}, model=model)
    device = torch.device("cpu")
    loader = create_loader(dataset, batch_size=32, num_workers=2, device=device, use_prefetcher=True, **settings)
    names, classes = dataset.filenames(basename=True), labels(work)

    @torch.inference_mode()
    def all_photos() -> dict[str, str]:
        found: list[int] = []
        for images, _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
                output = model(images)
            _, indices = output.softmax(-1).topk(1)
            found += indices[:, 0].tolist()
        return {name: classes[index] for name, index in zip(names, found, strict=True)}

    return all_photos


def transformers_pass(precision: str, work: Path) -> Pass:
    from sides import mend_torchvision

    mend_torchvision()
    import torch
    from transformers import pipeline

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    classify = pipeline(
        "image-classification", model=str(work / "huggingface"), batch_size=8, dtype=dtype, device="cpu"
    )
    paths = photos(work)

    def all_photos() -> dict[str, str]:
        found = classify([str(path) for path in paths], top_k=1)
        return {path.name: answer[0]["label"] for path, answer in zip(paths, found, strict=True)}

    return all_photos


def vitkit_pass(engine: str, precision: str, work: Path) -> Pass:
    import io

    import vitkit
    from vitkit.console import Console

    bundle = vitkit.load(work / "model", engine=engine, precision=precision)

    def all_photos() -> dict[str, str]:
        quiet = Console(io.StringIO(), io.StringIO())
        found = vitkit.predict(bundle, [work / "photos"], console=quiet).predictions
        return {Path(path).name: prediction.answer for path, prediction in found}

    return all_photos


def opened(name: str, work: Path) -> Pass:
    library, *rest = name.split("-")
    makers: dict[str, Callable[..., Pass]] = {
        "timm": partial(timm_pass, rest[0]),
        "transformers": partial(transformers_pass, rest[0]),
        "vitkit": partial(vitkit_pass, *rest),
    }
    return makers[library](work)


class Serving:
    """Steady state of one side."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.work = name, work
        self.all_photos: Pass | None = None

    def __call__(self, _: dict[str, Any]) -> dict[str, Any]:
        if self.all_photos is None:
            if self.name.startswith("vitkit-"):
                check(*self.name.split("-")[1:])
            self.all_photos = opened(self.name, self.work)
        began = time.perf_counter()
        found = self.all_photos()
        spent = time.perf_counter() - began
        return {"rate": len(found) / spent, "seconds": spent, "mb": peak_mb(), "found": found}


def check(engine: str, precision: str) -> None:
    from vitkit.engines.book import ENGINES, missing, precisions

    if engine not in ENGINES:
        raise SideError("this vitkit has no such engine")
    if reason := missing(engine):
        raise SideError(reason)
    if precision not in precisions(engine):
        raise SideError(f"the engine has no {precision}")


def once(name: str, work: Path, out: Path) -> None:
    """A peer's whole process."""
    found = opened(name, work)()
    with open(out, "w", newline="") as file:
        csv.writer(file).writerows([("path", "prediction"), *found.items()])


def whole_process(name: str, work: Path) -> dict[str, Any]:
    """One process from its start to its end."""
    out = work / "answers" / f"{name}.csv"
    out.parent.mkdir(exist_ok=True)
    if name.startswith("vitkit-"):
        _, engine, precision = name.split("-")
        command = ["-m", "vitkit", "predict", work / "model", work / "photos", "-o", out]
        command += ["--engine", engine, "--precision", precision]
    else:
        command = [__file__, "--once", name, "--work", work, "-o", out]
    began = time.perf_counter()
    with open(work / "logs" / f"{name}-whole.txt", "w") as log:
        process = subprocess.Popen([sys.executable, *map(str, command)], stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    spent = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SideError(f"the process ended with {process.returncode}; see {log.name}")
    with open(out, newline="") as file:
        found = {Path(row["path"]).name: row["prediction"] for row in csv.DictReader(file)}
    return {"rate": len(found) / spent, "seconds": spent, "mb": used.ru_maxrss * 1024 / 1e6, "found": found}


def run(given: argparse.Namespace) -> Path:
    work, out = Path(given.work).resolve(), Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    os.environ["VITKIT_CACHE"] = str(work / "cache")
    prepare(work, given.every)
    wanted = chosen(SIDES, given.sides)
    command = [sys.executable, __file__, "--work", str(work), "--serve"]
    steady = {name: Side(name, [*command, name], work / "logs") for name in wanted}
    left_out: dict[str, str] = {}
    truth: dict[str, str] = {}
    path = out / "pipeline.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()

        def row(what: str, number: int, name: str, ask: Callable[[], dict[str, Any]]) -> None:
            try:
                told = ask()
            except SideError as error:
                left_out[name] = str(error)
                return
            found = told.pop("found")
            if name == BASE:
                truth.update(found)
            same = sum(truth.get(photo) == answer for photo, answer in found.items())
            if number:  # the first fills caches and warms up
                writer.writerow({"what": what, "round": number, "side": name, "same": same, **told})
                file.flush()

        def turns(what: str, rounds: int, ask: Callable[[str], dict[str, Any]]) -> None:
            draw, began = random.Random(what), time.perf_counter()
            for number in range(rounds + 1):
                names = [name for name in wanted if name not in left_out]
                for name in draw.sample(names, len(names)) if number else names:
                    row(what, number, name, partial(ask, name))
            print(f"{what}: {rounds} rounds in {time.perf_counter() - began:.0f} s", flush=True)

        try:
            turns("steady state", given.rounds, lambda name: steady[name].ask())
        finally:
            for side in steady.values():
                side.close()
        turns("whole process", given.processes, lambda name: whole_process(name, work))
    facts = {**machine(), "photos": len(truth), "left_out": left_out}
    (out / "machine.json").write_text(json.dumps(facts, indent=2) + "\n")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    return path


def summarise(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Per kind of run and side: median images/s and median ratio to the base's of the same round."""
    rates: dict[tuple[str, str], dict[str, float]] = {}
    last: dict[tuple[str, str], Mapping[str, str]] = {}
    for row in rows:
        rates.setdefault((row["what"], row["side"]), {})[row["round"]] = float(row["rate"])
        last[row["what"], row["side"]] = row
    found = []
    for (what, side), rounds in rates.items():
        ratios = {
            f"against_{other}": statistics.median(rate / rates[what, base][number] for number, rate in rounds.items())
            for other, base in (("timm", BASE), ("transformers", "transformers-fp32"))
            if (what, base) in rates
        }
        row = last[what, side]
        found.append({
            "what": what, "side": side, "rate": statistics.median(rounds.values()), **ratios, "rounds": len(rounds),
            "mb": float(row["mb"]), "same": int(row["same"]),
        })  # fmt: skip
    return found


def markdown(found: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for what in dict.fromkeys(row["what"] for row in found):
        lines += [f"{what[0].upper()}{what[1:]}:", ""]
        lines += [
            "| side | images/s | x timm fp32 | x transformers | peak memory, MB | same class |",
            "|---|---|---|---|---|---|",
        ]
        by = {row["side"]: row for row in found if row["what"] == what}
        for side in (name for name in SIDES if name in by):
            row = by[side]
            hugging = f"{row['against_transformers']:.2f}" if "against_transformers" in row else ""
            lines.append(
                f"| {side} | {row['rate']:.1f} | {row['against_timm']:.2f} | {hugging} | {row['mb']:.0f} | {row['same']} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 rounds and 1 process a side, 34 photos")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processes", type=int, default=7)
    parser.add_argument("--sides", default="*", help="patterns, comma-separated; !PATTERN leaves out")
    parser.add_argument("--work", default="runs/pipeline-models", help="photos, models and caches; kept")
    parser.add_argument("-o", "--out", default="runs/pipeline")
    parser.add_argument("--markdown", metavar="CSV", type=Path, help="measure nothing, print the tables")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--once", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.every = 1
    if given.quick:
        given.rounds, given.processes, given.every, given.work = 2, 1, 8, f"{given.work}-quick"
    if given.serve:
        serve(Serving(given.serve, Path(given.work)))
    elif given.once:
        once(given.once, Path(given.work), Path(given.out))
    else:
        with open(given.markdown or run(given), newline="") as file:
            print(markdown(summarise(list(csv.DictReader(file)))))


if __name__ == "__main__":
    main()
