"""What 8 bits cost in accuracy: classes and logits beside fp32, on images that did not calibrate.

    python benchmarks/int8.py [--model M] [--data DATA] [--engines tuned,openvino,onnxruntime]

By default DeiT-Tiny and the sample of ImageNet of $VITKIT_SHARED/data. A quarter of the images, by their content, calibrates; the
others are scored. Everything is kept in a cache folder of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.audit import digest
from vitkit.data.official import load_view
from vitkit.data.pixels import to_planes
from vitkit.data.sources import read_source
from vitkit.engines.book import make_engine
from vitkit.engines.calibration import calibrate, split, write_calibration
from vitkit.jobs.load import load

SHARED = Path(os.environ.get("VITKIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=SHARED / "deit_tiny" / "deit_tiny_patch16_224.safetensors")
    parser.add_argument("--data", default=SHARED / "imagenet_sample")
    parser.add_argument("--engines", default="tuned,openvino,onnxruntime")
    given = parser.parse_args()
    bundle = load(given.model)
    record = bundle.require_preprocess()
    samples = next(iter(read_source(given.data).splits.values()))
    images = np.stack([to_planes(load_view(sample.source, record)) for sample in samples])
    ours, scored = split([digest(sample) for sample in samples])
    labels = np.array([sample.label for sample in samples])[scored]
    wanted = make_engine(bundle, "eager", "fp32")(images[scored]).logits
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VITKIT_CACHE"] = folder
        bundle.place = None
        began = time.perf_counter()
        found = calibrate(bundle, images[ours], Console())
        print(f"calibrated in {time.perf_counter() - began:.1f} s; {found.method}", *found.notes, sep="\n")
        write_calibration(bundle, found)
        print("\n| engine | error of logits | same first class | accuracy | fp32 |\n|---|---|---|---|---|")
        for name in given.engines.split(","):
            try:
                logits = make_engine(bundle, name, "int8")(images[scored]).logits
            except UserError as error:
                print(f"| {name} | {error} | | | |")
                continue
            error = np.linalg.norm(logits - wanted) / np.linalg.norm(wanted)
            first, before = logits.argmax(1), wanted.argmax(1)
            same, right, was = (np.mean(x) for x in (first == before, first == labels, before == labels))
            print(f"| {name} | {error:.3f} | {same:.1%} | {right:.1%} | {was:.1%} |", flush=True)


if __name__ == "__main__":
    main()
