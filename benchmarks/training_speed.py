"""Training images per second by precision and attention kernel, interleaved, median of rounds: the evidence behind
`train.best_precision`.

    python benchmarks/training_speed.py [--size 224] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from vitkit.data.loader import Batch
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.objectives.classify import Classify
from vitkit.train import TrainConfig, start, step_once

VARIANTS = (("fp32", True), ("fp32", False), ("bf16", True), ("bf16", False))
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    size = arguments.size
    batch = Batch(torch.randn(BATCH, 3, size, size), torch.randint(0, 17, (BATCH,)))
    states = {}
    for precision, fused in VARIANTS:
        model = VisionTransformer(ViTConfig.named("Ti/16", image_size=(size, size), num_classes=17))
        model.init_weights(0)
        config = TrainConfig(1000, BATCH, BATCH, 0, 1000, 0, precision, fused)
        states[precision, fused] = (start(model, config), config)
    rates: dict[tuple[str, bool], list[float]] = {variant: [] for variant in VARIANTS}
    for round_ in range(arguments.rounds + 1):
        for variant, (state, config) in states.items():
            begin = time.perf_counter()
            step_once(state, config, Classify(), batch)
            if round_:  # the first round warms up
                rates[variant].append(BATCH / (time.perf_counter() - begin))
    base = statistics.median(rates["fp32", True])
    print(f"Ti/16, {size} px, batch {BATCH}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for (precision, fused), found in rates.items():
        rate = statistics.median(found)
        kernel = "fused attention" if fused else "plain products"
        print(f"{precision}  {kernel:15}  {rate:6.1f} images/s  {rate / base:.2f} x")


if __name__ == "__main__":
    main()
