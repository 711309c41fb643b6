"""Figures of given models and images: their data against direct calls, pictures written, and what does not fit said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_images
from vitkit.analysis.attention import attention_distance, patch_pixels, recorded_weights
from vitkit.analysis.rollout import rollout
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.data.inputs import spread
from vitkit.data.loader import to_tensor
from vitkit.data.pixels import Preprocess, load_input
from vitkit.jobs.paper import paper
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.papers.figure12 import planned
from vitkit.papers.item import Request
from vitkit.papers.opened import title
from vitkit.papers.rollouts import lit

SMALL = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 48,
    "patch_size": (4, 4),
    "image_size": (16, 24),
    "num_classes": 3,
}


def saved(folder: Path, **changes: object) -> Path:
    config = ViTConfig(**{**SMALL, **changes})  # type: ignore[arg-type]
    model = VisionTransformer(config)
    model.init_weights(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return Bundle(model.eval(), Preprocess(config.image_size), ("a", "b", "c")).save(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", (90, 120, 60), 6, 0, size=30)
    return tmp_path / "images"


def seen(bundle: Bundle, images: Path) -> torch.Tensor:
    record = bundle.require_preprocess()
    return torch.stack([to_tensor(load_input(path, record)) for path in sorted(images.iterdir())])


def test_a_panel_is_named_by_the_run_of_its_bundle(tmp_path: Path) -> None:
    (tmp_path / "flowers" / "model").mkdir(parents=True)
    assert title(str(tmp_path / "flowers" / "model")) == "flowers"
    assert title("weights/b16.npz") == "b16.npz"


def test_rollout_examples_are_the_rollout(tmp_path: Path, images: Path) -> None:
    from vitkit.jobs.load import load

    folder = saved(tmp_path / "bundle")
    result = paper("figure14", model=folder, images=images, out=tmp_path / "out", residual="none")
    bundle = load(folder)
    wanted = rollout(bundle.model, seen(bundle, images), "none")
    wanted = wanted / wanted.sum(dim=(1, 2), keepdim=True)
    assert [row["image"] for row in result.outcome.rows] == sorted(path.name for path in images.iterdir())
    np.testing.assert_allclose([row["map"] for row in result.outcome.rows], wanted.numpy(), atol=1e-5)
    for row, found in zip(result.outcome.rows, wanted, strict=True):
        assert found[tuple(row["peak"])] == found.max()
    assert {path.name for path in result.files} == {"figure14.svg", "figure14.png", "figure14.json"}
    with Image.open(tmp_path / "out" / "figure14.png") as drawn:
        assert drawn.width > 400
    assert result.facts["setting"]["residual"] == "none"


def test_of_many_images_as_many_are_taken_evenly_as_vit_analyze_takes(tmp_path: Path, images: Path) -> None:
    folder, names = saved(tmp_path / "bundle"), sorted(path.name for path in images.iterdir())
    for most in (1, 3, len(names), len(names) + 5):
        rows = paper("figure6", model=folder, images=images, max_images=most).outcome.rows
        assert [row["image"] for row in rows] == [names[place] for place in spread(len(names), most)]


def test_a_lit_picture_keeps_its_brightest_place_and_darkens_the_rest() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    shown = lit(white, torch.tensor([[0.2, 0.0], [0.0, 0.0]]))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[-1, -1].tolist() == [0, 0, 0]
    assert lit(white, torch.zeros(2, 2)).max() == 0


def test_figures_7_10_and_11_have_the_models_numbers(tmp_path: Path, images: Path) -> None:
    from vitkit.jobs.load import load

    folder, hybrid = saved(tmp_path / "plain"), saved(tmp_path / "hybrid", stem=(1,), image_size=(32, 48))
    bundle = load(folder)
    weights = recorded_weights(bundle.model, seen(bundle, images))
    wanted = [
        attention_distance(w, bundle.config.grid, patch_pixels(bundle.config), bundle.config.prefix_tokens).mean(dim=0)
        for _, w in weights
    ]
    both = paper("figure11", model=[folder, hybrid], images=images, out=tmp_path / "out")
    np.testing.assert_allclose(both.outcome.rows[0]["distance"], torch.stack(wanted).numpy(), atol=1e-3)
    assert len(both.outcome.rows[1]["distance"]) == 2
    seven = paper("figure7", model=folder, images=images, out=tmp_path / "out")
    assert [row["panel"].split(":")[0] for row in seven.outcome.rows] == ["left", "centre", "right"]
    assert np.array(seven.outcome.data["filters"]["components"]).shape[1:] == (4, 4, 3)
    assert np.array(seven.outcome.data["position_similarity"]["values"]).shape == (4, 6, 4, 6)
    np.testing.assert_allclose(seven.outcome.data["attention_distance"]["distance"], both.outcome.rows[0]["distance"])
    ten = paper("figure10", model=[folder, folder], out=tmp_path / "out")
    assert ten.outcome.data["similarity"][0]["values"] == seven.outcome.data["position_similarity"]["values"]
    assert all(
        (tmp_path / "out" / f"figure{n}.{suffix}").stat().st_size
        for n in (7, 10, 11)
        for suffix in ("svg", "png", "json")
    )


def test_a_panel_that_a_model_has_not_is_said(tmp_path: Path, images: Path) -> None:
    hybrid = saved(tmp_path / "hybrid", stem=(1,), image_size=(32, 48), position="none")
    rows = paper("figure7", model=hybrid, images=images, out=tmp_path / "out").outcome.rows
    assert "hybrid" in rows[0]["seen"]
    assert "no position embeddings" in rows[1]["seen"]
    assert [row["pattern_holds"] for row in rows[:2]] == [None, None]
    with pytest.raises(UserError, match="no position embeddings"):
        paper("figure10", model=hybrid)


def test_figure_1_has_every_parameter_in_one_step(tmp_path: Path) -> None:
    rows = paper("figure1").outcome.rows
    assert sum(row["parameters"] for row in rows) == 86_567_656
    for changes in ({"stem": (1,), "image_size": (32, 48)}, {"pool": "map", "cls_token": False}, {"position": "relative"},
                    {"registers": 2, "distilled": True, "position": "learned2d"}):  # fmt: skip
        folder = saved(tmp_path / "-".join(changes), **changes)
        result = paper("figure1", model=folder)
        from vitkit.jobs.load import load

        assert sum(r["parameters"] for r in result.outcome.rows) == sum(
            p.numel() for p in load(folder).model.parameters()
        )


def test_bad_requests_are_told(tmp_path: Path, images: Path) -> None:
    folder = saved(tmp_path / "bundle")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    for message, arguments in (
        (r"figure7 \(filters.*give --model M and --images IMAGES", {"item": "figure7"}),
        (
            "--images says nothing to figure10, which takes --model, --override",
            {"item": "figure10", "model": folder, "images": images},
        ),
        ("--budget says nothing to table1, which takes no such options", {"item": "table1", "budget": 3.0}),
        (
            "--max-images must be at least 1, got 0",
            {"item": "figure6", "model": folder, "images": images, "max_images": 0},
        ),
        (
            "residual is 'most'; known: half, none",
            {"item": "figure6", "model": folder, "images": images, "residual": "most"},
        ),
        (
            "--max-images 5000 are more than the 1024 that a figure can hold",
            {"item": "figure14", "model": folder, "images": images, "max_images": 5000},
        ),
        ("none of the 1 images can be used", {"item": "figure6", "model": folder, "images": tmp_path / "broken"}),
        ("figure7 takes at most 2 models, got 3", {"item": "figure7", "model": [folder] * 3, "images": images}),
        ("figure6 takes one model, got 2", {"item": "figure6", "model": [folder] * 2, "images": images}),
        ("figure12: precision is 'half'", {"item": "figure12", "settings": {"precision": "half"}}),
        ("table6 has no setting 'x'. It has none", {"item": "table6", "settings": {"x": 1}}),
    ):
        with pytest.raises(UserError, match=message):
            paper(**arguments)  # type: ignore[arg-type]


def test_figure_12_goes_from_the_cheapest_and_refuses_images_below_a_patch() -> None:
    plan = planned(Request(models=("Ti/16", "B/32"), sizes=(64, 32)))
    assert [(name, config.image_size[0]) for name, config in plan] == [
        ("Ti/16", 32),
        ("Ti/16", 64),
        ("B/32", 32),
        ("B/32", 64),
    ]
    assert len(planned(Request())) == 25
    with pytest.raises(UserError, match="--sizes 8 has no room for one"):
        planned(Request(models=("B/32",), sizes=(8,)))
    assert Console() is not None
