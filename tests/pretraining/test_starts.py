"""The paper's claim in small: both starts see the same images, and only the start differs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from conftest import COLOURS
from vitkit.bundle import Bundle
from vitkit.console import Console
from vitkit.data.pixels import Preprocess
from vitkit.data.samples import Source
from vitkit.data.sources import read_source
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.pretraining import starts
from vitkit.pretraining.starts import compare_starts, draw_starts

QUIET = Console(io.StringIO(), io.StringIO())


@pytest.fixture
def source(photos: Path) -> Source:
    return read_source(photos)


@pytest.fixture
def bundle() -> Bundle:
    config = ViTConfig(
        embed_dim=32, depth=2, num_heads=2, mlp_dim=64, patch_size=(4, 4), image_size=(16, 16), num_classes=5,
        cls_token=False, pool="mean",
    )  # fmt: skip
    model = VisionTransformer(config)
    model.init_weights(0)
    return Bundle(model.eval(), Preprocess((16, 16)), source="tiny")


def test_both_starts_learn_from_the_same_images(
    source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []

    def note(_model: object, recipe: object, train: object, test: object, *_rest: object, **_options: object) -> float:
        seen.append(tuple(sample.name for sample in train))  # type: ignore[attr-defined]
        assert [sample.name for sample in test] == [s.name for s in source.splits["test"]]  # type: ignore[attr-defined]
        assert recipe.model.image_size == (8, 8)  # type: ignore[attr-defined]
        return 0.5

    monkeypatch.setattr(starts, "transfer_top1", note)
    points = compare_starts(bundle, "tiny", source, (1, 4), 8, 0, QUIET)
    assert [(p.start, p.shots, p.images) for p in points] == [
        ("random weights", 1, 3), ("tiny", 1, 3), ("random weights", 4, 12), ("tiny", 4, 12),
    ]  # fmt: skip
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert set(seen[0]) < set(seen[2])


def test_it_is_a_function_of_the_seed(source: Source, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "STEPS", 3)
    one, two = ([p.top1 for p in compare_starts(bundle, "tiny", source, (2,), 16, 1, QUIET)] for _ in range(2))
    assert one == two


def test_the_model_that_was_given_is_left_as_it_was(source: Source, bundle: Bundle) -> None:
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    compare_starts(bundle, "tiny", source, (1,), 16, 0, QUIET)
    assert all((before[name] == tensor).all() for name, tensor in bundle.model.state_dict().items())


def test_easy_classes_are_learnt(source: Source, bundle: Bundle) -> None:
    points = compare_starts(bundle, "tiny", source, (8,), 16, 0, QUIET)
    assert all(point.top1 > 1 / len(COLOURS) for point in points)


def test_the_picture_is_written_as_svg_and_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = [
        starts.Point(name, shots, shots * 3, shots / 10, 1.0) for name in ("random weights", "box") for shots in (1, 5)
    ]
    svg, png = draw_starts(points, "photos", tmp_path / "few")
    assert svg.read_text().startswith("<?xml")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_more_shots_than_there_are_images_is_all_of_them(source: Source, bundle: Bundle) -> None:
    (point, _) = compare_starts(bundle, "tiny", source, (50,), 16, 0, QUIET)
    assert point.images == 24
