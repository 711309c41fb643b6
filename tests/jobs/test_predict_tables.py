"""Prediction takes the images of tables and tar files: one row per image, in their order."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import vitkit
from tiny_tables import png, touch_images, write_csv, write_parquet, write_tar
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.predicting.finding import expand_paths


@pytest.fixture
def bundle() -> Bundle:
    config = ViTConfig(
        embed_dim=16, depth=1, num_heads=1, mlp_dim=16, patch_size=(4, 4), image_size=(8, 8), num_classes=2
    )
    model = VisionTransformer(config)
    model.init_weights(0)
    model.head.weight.data.normal_()
    record = Preprocess(image_size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return Bundle(model=model, preprocess_record=record, classes=("a", "b"))


def names_of(*given: Path) -> list[str]:
    return [name for name, _ in expand_paths(given, Counter())]


def test_tables_stand_for_their_images_in_their_order(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    touch_images(tmp_path, "z.png", "a.png")
    table = write_csv(tmp_path / "t.csv", "id,path", "1,z.png", "2,a.png", "3,gone.png", images=False)
    assert names_of(table) == [str(tmp_path / name) for name in ("z.png", "a.png", "gone.png")]
    cells = [{"bytes": png(1), "path": "in/z.png"}, {"bytes": png(2), "path": None}]
    packed = write_parquet(tmp_path / "t.parquet", {"image": cells})
    assert names_of(packed) == [f"{packed}/in/z.png", f"{packed}:1"]
    paths = write_parquet(tmp_path / "paths.parquet", {"path": ["z.png", "a.png"]})
    assert names_of(paths) == [str(tmp_path / "z.png"), str(tmp_path / "a.png")]
    archive = write_tar(tmp_path / "t.tar", {"z.png": png(3), "a.png": png(4), "a.txt": b"x"})
    assert names_of(archive, tmp_path / "z.png", archive) == [
        f"{archive}/z.png", f"{archive}/a.png", str(tmp_path / "z.png"), f"{archive}/z.png", f"{archive}/a.png",
    ]  # fmt: skip
    with pytest.raises(UserError, match="no column of image paths"):
        names_of(write_csv(tmp_path / "t.csv", "id", "1", images=False))


def test_equal_images_have_equal_predictions_wherever_they_lie(tmp_path: Path, bundle: Bundle) -> None:
    pytest.importorskip("pyarrow")
    touch_images(tmp_path, "0.png", "1.png", "2.png")
    images = [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]
    table = write_csv(tmp_path / "t.csv", "path", "0.png", "gone.png", "1.png", "2.png", images=False)
    cells = [images[0], None, *images[1:]]
    packed = write_parquet(tmp_path / "t.parquet", {"image": cells})
    archive = write_tar(tmp_path / "t.tar", {f"{number}.png": content for number, content in enumerate(images)})
    quiet = Console(io.StringIO(), io.StringIO())

    def answers(given: Any) -> tuple[list[Any], int]:
        result = vitkit.predict(bundle, given, console=quiet)
        return [prediction for _, prediction in result.predictions], len(result.skipped)

    expected, _ = answers([tmp_path / f"{number}.png" for number in range(3)])
    assert answers(table) == (expected, 1)
    assert answers(packed) == (expected, 1)
    assert answers(archive) == (expected, 0)
