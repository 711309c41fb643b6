"""Many images computed together have the digits of each alone; where they would not, they are computed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitkit.data.containers import ImageSource
from vitkit.data.pixels import ImageError, Preprocess
from vitkit.datasets.files.arrays import ArrayImage
from vitkit.engines.eager import EagerEngine
from vitkit.engines.stream import MANY, stream
from vitkit.models.vit import VisionTransformer, ViTConfig

COUNT = MANY + 13  # divides by nothing


def model(pool: str = "cls") -> VisionTransformer:
    config = ViTConfig(
        embed_dim=40, depth=2, num_heads=5, mlp_dim=72, patch_size=(4, 4), image_size=(20, 28), num_classes=7, pool=pool
    )
    made = VisionTransformer(config)
    made.init_weights(0)
    assert made.head is not None
    made.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    return made.eval()


def images(count: int = COUNT) -> list[ImageSource]:
    rng = np.random.default_rng(0)
    return [ArrayImage(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("pool", ["cls", "mean", "map"])
def test_many_images_have_the_digits_of_each_alone(pool: str) -> None:
    engine, record, sources = EagerEngine(model(pool)), Preprocess((20, 28)), images()
    assert engine.together > 1
    sources[5] = b"no image"
    many = list(stream(engine, record, sources))
    few = [next(stream(engine, record, [source])) for source in sources]
    assert isinstance(many[5], ImageError)
    for a, b in zip(many[:5] + many[6:], few[:5] + few[6:], strict=True):
        assert np.array_equal(a.logits, b.logits)  # type: ignore[union-attr]
        assert np.array_equal(a.features, b.features)  # type: ignore[union-attr]


def test_groups_that_would_change_a_digit_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, record, sources = EagerEngine(model()), Preprocess((20, 28)), images()
    calls = []

    def off(images: torch.Tensor) -> object:
        calls.append(len(images))
        found = EagerEngine._forward_together(engine, images)
        return found._replace(features=np.nextafter(found.features, np.float32(9.0)))

    monkeypatch.setattr(engine, "_forward_together", off)
    many = list(stream(engine, record, sources))
    assert 1 <= len(calls) <= engine.threads  # each thread may have begun to compare
    few = [next(stream(engine, record, [source])) for source in sources]
    for a, b in zip(many, few, strict=True):
        assert np.array_equal(a.features, b.features)  # type: ignore[union-attr]


def test_a_reader_that_stops_early_ends_the_work() -> None:
    results = stream(EagerEngine(model()), Preprocess((20, 28)), images(40))
    next(results)
    results.close()
