"""Training views per second of one core: the reference's crops, resizing and RandAugment, and the default augmentation.

    python benchmarks/augment.py [--rounds 5]

Images are noise, which costs what photos cost here; decoding is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from vitkit.data.augment import Augment, augment_image
from vitkit.data.mixing import Mixing, draw_mix, mix_batch
from vitkit.data.pixels import Preprocess
from vitkit.data.randaugment import OPERATIONS, apply_operation
from vitkit.data.reference import ReferenceAugment, central_view, reference_view, squashed_view

SECONDS = 0.1  # one round of one measurement


def rate(work: Callable[[], object], rounds: int) -> float:
    """Calls per second, the median of rounds."""
    work()
    found = []
    for _ in range(rounds):
        calls, begin = 0, time.process_time()
        while (spent := time.process_time() - begin) < SECONDS:
            work()
            calls += 1
        found.append(calls / spent)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    print(f"{'':44}{'224 px':>10}{'32 px':>10}   images per second of processor time")
    sources = {
        size: Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for size, shape in ((224, (375, 500)), (32, (32, 32)))
    }
    plain = {size: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in sources}
    rows: dict[str, Callable[[int], object]] = {
        f"RandAugment {name}, magnitude 15": lambda size, name=name: apply_operation(name, plain[size], 15, rng)  # type: ignore[misc]
        for name in OPERATIONS
    }
    views = {
        "inception, flip": ReferenceAugment(),
        "inception, flip, float32 (vit_jax)": ReferenceAugment(cast=False),
        "inception, flip, RandAugment(2, 15)": ReferenceAugment(layers=2, magnitude=15),
        "inception, flip, erase 0.25 with noise": ReferenceAugment(erase=0.25, erase_mode="pixel"),
    }
    for name, augment in views.items():
        rows[name] = lambda size, augment=augment: reference_view(  # type: ignore[misc]
            sources[size], Preprocess((size, size)), augment, rng
        )
    small = {224: 256, 32: 36}
    for crop in ("resmall_crop", "resize_crop"):
        rows[f"{crop}, flip"] = lambda size, crop=crop: reference_view(  # type: ignore[misc]
            sources[size], Preprocess((size, size)), ReferenceAugment(crop=crop, resize=small[size]), rng
        )
    rows["evaluation: resize_small, central_crop"] = lambda size: central_view(sources[size], (size, size), small[size])
    rows["evaluation: squashed"] = lambda size: squashed_view(sources[size], (size, size))
    default = Augment(crop_area=0.3, flip=True)
    rows["the default augmentation (Pillow, bicubic)"] = lambda size: augment_image(
        sources[size], Preprocess((size, size)), default, rng
    )
    for name, work in rows.items():
        print(
            f"{name:44}" + "".join(f"{rate(lambda size=size: work(size), rounds):10,.0f}" for size in sources)  # type: ignore[misc]  # noqa: B023
        )
    targets = torch.eye(64, 1000)
    for name, mixing in (("mixup of 64", Mixing(mixup=0.2)), ("cutmix of 64", Mixing(cutmix=1.0))):
        rates = []
        for size in sources:
            images = torch.rand(64, 3, size, size)
            mix = draw_mix(mixing, (size, size), 0, 0)
            rates.append(64 * rate(lambda images=images, mix=mix: mix_batch(images, targets, mix), rounds))  # type: ignore[misc]
        print(f"{name:44}" + "".join(f"{found:10,.0f}" for found in rates))


if __name__ == "__main__":
    main()
