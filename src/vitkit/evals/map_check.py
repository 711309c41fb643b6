"""Chooses images of a stream, and tells with them whether the maps that are drawn of all matter."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vitkit.analysis.explanation import Explanation, gives_classes
from vitkit.analysis.flops import forward_macs
from vitkit.analysis.maps import Asked, mean_maps
from vitkit.bundle import Bundle
from vitkit.console import Console
from vitkit.evals.evidence import FEW, Evidence, evidence
from vitkit.evals.faithfulness import RANDOMS, forwards
from vitkit.models.vit import VisionTransformer

__all__ = ["MapCheck"]

# Multiply-adds that the check may take where nobody says of how many images: a model of size S at 224 pixels is within. A limit in
# seconds would make the same command give a verdict on one day and none on another.
MOST_MACS = 3e12
CHECK_STEPS = 7  # points of its curves
TOGETHER = 4  # images that the check computes at a time


class MapCheck:
    """Keeps some images, evenly from the first to the last, and tells with them whether the maps matter."""

    def __init__(
        self, bundle: Bundle, model: VisionTransformer, asked: Asked, wanted: int | None, console: Console
    ) -> None:
        self._bundle, self._model, self._asked, self._wanted, self._console = bundle, model, asked, wanted, console
        self._device = next(model.parameters()).device
        self._most = FEW if wanted is None else wanted
        self._seen, self._stride = 0, 1
        self._kept: list[tuple[Tensor, int]] = []  # the model's image and the class of the answer

    def kept(self, one: Explanation) -> Explanation:
        """The same, remembered if it is one of those."""
        if not one.targets or not self._most:
            return one
        if self._seen % self._stride == 0:
            self._kept.append((one.view.pixels, one.targets[0]))
            if len(self._kept) == 2 * self._most:  # nobody knows how many come: from now on every second of those
                self._kept, self._stride = self._kept[::2], 2 * self._stride
        self._seen += 1
        return one

    def run(self) -> tuple[Evidence | None, str]:
        """The evidence, or None and the reason that there is none."""
        if self._wanted == 0:
            return None, "No evidence was computed (--check 0): nothing here says that the maps matter."
        if not gives_classes(self._bundle):
            return None, "No evidence was computed: the model gives no classes whose probability could fall or rise."
        if self._wanted is None and not self._affordable():
            return None, (
                f"No evidence was computed: with a model of this size it takes a while. Say --check {FEW} for it, or --check 0."
            )
        count = min(len(self._kept), self._most)
        taken = [self._kept[place * len(self._kept) // count] for place in range(count)]
        batches = range(0, count, TOGETHER)

        def drawn() -> Iterator[tuple[Tensor, Tensor]]:
            for start in self._console.track(batches, len(batches), "checking the maps", unit="batch"):
                part = taken[start : start + TOGETHER]
                yield (
                    torch.stack([pixels for pixels, _ in part]).to(self._device),
                    torch.tensor([t for _, t in part]).to(self._device),
                )

        found = evidence(
            self._model,
            drawn(),
            lambda model, images, targets: mean_maps(model, images, self._asked, targets),
            self._bundle.probabilities,
            steps=CHECK_STEPS,
        )
        return found, ""

    def _affordable(self) -> bool:
        """Is the arithmetic for `FEW` images within `MOST_MACS`, or is there a GPU?"""
        h, w = self._bundle.config.grid
        times = forwards(h * w, steps=CHECK_STEPS, randoms=RANDOMS) + 6  # and two maps, each as three
        return self._device.type != "cpu" or FEW * times * forward_macs(self._bundle.config) <= MOST_MACS
