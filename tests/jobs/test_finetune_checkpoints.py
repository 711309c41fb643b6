"""`vit finetune --model` takes every kind of published model, at other sizes, patches and channels."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

import vitkit
from finetune_runs import MEAN_STD, run
from vitkit.converters import big_vision, google, huggingface_vit, open_clip, timm
from vitkit.converters.engine import encode
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.weights.files import write_weights

ERF = {"gelu": "erf", "position_rule": "bicubic_antialias"}
KINDS: dict[str, tuple[ModuleType, dict[str, object]]] = {
    "DeiT distilled": (timm, {**ERF, "registers": 1, "distilled": True}),
    "registers, mean pooling": (
        timm, {**ERF, "registers": 4, "prefix_positions": "none", "pool": "mean", "cls_token": False, "norm_after_pool": True},
    ),
    "SigLIP": (timm, {**ERF, "cls_token": False, "pool": "map", "num_classes": 0}),
    "hybrid": (google, {"stem": (1,), "patch_size": (1, 1)}),
    "big_vision, sin-cos": (big_vision, {"position": "sincos2d", "cls_token": False, "pool": "mean"}),
    "CLIP projection": (
        open_clip,
        {**ERF, "pre_norm": True, "patch_bias": False, "head_bias": False, "norm_eps": 1e-5},
    ),
    "Hugging Face with pooler": (huggingface_vit, {"gelu": "erf", "norm_eps": 1e-12, "representation_size": 64}),
}  # fmt: skip


def checkpoint(path: Path, module: ModuleType, **changes: object) -> Path:
    base = {"embed_dim": 64, "depth": 2, "num_heads": 1, "mlp_dim": 64, "patch_size": (4, 4), "image_size": (16, 16)}
    config = ViTConfig(**{**base, "num_classes": 10, **changes})  # type: ignore[arg-type]
    model = VisionTransformer(config)
    model.init_weights(5)
    if model.head is not None:
        model.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    file = path / Path(module.FILE).name
    write_weights(file, encode(model.state_dict(), module.rules(config)))
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_fine_tuned_and_its_bundle_predicts(kind: str, photos: Path, tmp_path: Path) -> None:
    module, changes = KINDS[kind]
    file = checkpoint(tmp_path, module, **changes)
    said = {**MEAN_STD, "source_image_size": (16, 16)}
    result = run(photos, tmp_path / "run", model=file, overrides=said)
    bundle = vitkit.load(result.bundle)
    assert bundle.classes == ("blue", "green", "red")
    assert bundle.config.head_bias
    assert not bundle.config.distilled
    predictions = vitkit.predict(bundle, photos / "test").predictions
    assert len(predictions) == 12
    assert bundle.config.registers == changes.get("registers", 0)


def test_other_sizes_patches_and_channels(photos: Path, tmp_path: Path) -> None:
    file = checkpoint(tmp_path, timm, **ERF)
    result = run(photos, tmp_path / "run", model=file, overrides={**MEAN_STD, "patch_size": 8}, image_size=(24, 32))
    config = vitkit.load(result.bundle).config
    assert (config.patch_size, config.image_size, config.grid) == ((8, 8), (24, 32), (3, 4))
    gray = vitkit.load(file, in_channels=1, mean=(0.5,), std=(0.5,), image_size=32)
    assert gray.model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_a_projection_and_a_model_without_head_do_not_predict_classes(tmp_path: Path, photos: Path) -> None:
    for module, changes, found in ((*KINDS["CLIP projection"], "projection"), (*KINDS["SigLIP"], "has no head")):
        file = checkpoint(tmp_path, module, **changes)
        with pytest.raises(vitkit.UserError, match=found):
            vitkit.predict(file, photos / "test", overrides=MEAN_STD)
