"""The most confident errors of a run come with maps of what spoke for them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitkit
from conftest import write_images
from finetune_runs import run
from vitkit.finetuning.errors import LEAST, MOST, errors_explained
from vitkit.models.vit import ViTConfig


@pytest.fixture(scope="module")
def confusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes that nothing tells apart, so that there are errors; test images of two classes share their names."""
    root = tmp_path_factory.mktemp("data") / "noise"
    for seed, name in enumerate(("ant", "bee", "cat")):
        write_images(root / "train" / name, (120, 120, 120), 8, seed)
        write_images(root / "test" / name, (120, 120, 120), 6, seed + 100, size=40)
    return root


def test_errors_link_their_maps(confusing: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(confusing, out, epochs=1)
    errors = json.loads((out / "report.json").read_text())["gallery"]["errors"]
    assert errors
    assert all((out / entry["map"]).is_file() for entry in errors[:MOST])
    assert len({entry["map"] for entry in errors}) == len(errors)
    page = (out / "report.html").read_text(encoding="utf-8")
    linked = re.findall(r'<a class="map" href="([^"]+)"><img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)"', page)
    assert [link for link, _ in linked] == [entry["map"] for entry in errors]
    assert linked[0][1] == f"what spoke for {errors[0]['prediction']} in {errors[0]['name']}"
    assert "show what spoke for the wrong answer" in page

    (one,) = vitkit.explain(
        out / "model", confusing / errors[0]["name"], target=errors[0]["prediction"], check=0
    ).explanations
    with Image.open(out / errors[0]["map"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(one.picture))


def test_folds_make_none_and_the_run_does(confusing: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(confusing / "test", out, epochs=1, folds=2)
    assert list((out / "explain").glob("*.png"))
    assert not list((out / "folds").rglob("explain"))
    assert "by the released model" in (out / "report.html").read_text(encoding="utf-8")


def test_a_run_without_errors_has_no_maps(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result: Any = run(photos, out, epochs=6)
    if result.facts["gallery"]["errors"]:
        pytest.skip("the quick run made errors")
    assert not (out / "explain").exists()
    assert '<a class="map"' not in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("size", "count"), [("Ti/16", MOST), ("S/16", MOST), ("B/16", 5), ("L/16", LEAST), ("H/14", LEAST)]
)
def test_large_models_explain_fewer(size: str, count: int) -> None:
    assert errors_explained(ViTConfig.named(size)) == count
