"""Folders as OpenCLIP writes them for the hub: ``open_clip_config.json`` beside the weights, read from the folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from converters.drawn import assert_close, redrawn, sharpness
from peers import peer
from vitkit.config import UserError
from vitkit.converters import open_clip, timm
from vitkit.data.pixels import fit_image
from vitkit.zoo.load import load_model

TEXT = {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 1}
SMALL = {"layers": 2, "width": 96, "head_width": 24, "patch_size": 8, "image_size": [24, 40], "mlp_ratio": 2.5}
AVG = {"pool_type": "avg"}
AFTER = {"final_ln_after_pool": True}
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name -> (model_cfg, vision_cfg)
    "plain": ({}, {}),
    "quick GELU": ({"quick_gelu": True}, {}),
    "tanh GELU": ({}, {"act_kwargs": {"approximate": "tanh"}}),
    "another epsilon": ({}, {"norm_kwargs": {"eps": 1e-2}}),
    "mean pooling": ({"quick_gelu": True}, AVG),
    "mean pooling, norm after": ({}, AVG | AFTER),
    "cls pooling, norm after": ({}, AFTER),
    "no first norm": ({}, {"no_ln_pre": True}),
    "CLIPA": ({}, {"no_ln_pre": True, **AVG, **AFTER, "pos_embed_type": "learnable"}),
    "fixed positions": ({}, {"image_size": 24, "pos_embed_type": "sin_cos_2d"}),
    "layer scale": ({}, {"ls_init_value": 1e-4}),
    "heads of another width": ({}, {"head_width": 48}),
}


def write_folder(folder: Path, model: nn.Module, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "attn_mask"}
    save_file(state, folder / "open_clip_model.safetensors")
    values = {"model_cfg": {"embed_dim": 20, "text_cfg": TEXT, **model_cfg}, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    return folder


def drawn(vision: dict[str, Any], **changes: Any) -> nn.Module:
    model: nn.Module = peer("open_clip.model").CLIP(20, vision, TEXT, **changes).eval()
    state = redrawn({name: tensor for name, tensor in model.state_dict().items() if name != "attn_mask"})
    model.load_state_dict(state, strict=True)
    return model


def images_of(size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_folder_alone_gives_the_image_embeddings(name: str, tmp_path: Path) -> None:
    changes, vision = TOWERS[name]
    vision = SMALL | vision
    theirs = drawn(vision, **changes)
    bundle = load_model(write_folder(tmp_path / "x", theirs, {"vision_cfg": vision, **changes}, {}))
    images = images_of(theirs.visual.image_size)
    assert_close(bundle.model(images), theirs.encode_image(images))
    assert sharpness(bundle.model, images) > 5
    assert bundle.config.image_size == tuple(theirs.visual.image_size)
    assert not [note for note in bundle.notes if "assumed" in note]


@torch.no_grad()
def test_a_bare_file_says_what_is_assumed_and_takes_what_the_user_says(tmp_path: Path) -> None:
    vision = SMALL | AVG | AFTER | {"image_size": 24, "width": 128, "head_width": 64}
    theirs = drawn(vision, quick_gelu=True)
    folder = write_folder(tmp_path / "x", theirs, {"vision_cfg": vision, "quick_gelu": True}, {})
    (folder / "open_clip_config.json").unlink()
    said = {"gelu": "quick", "pool": "mean", "norm_after_pool": True}
    bundle = load_model(folder / "open_clip_model.safetensors", **said)
    assert any("assumed norm_eps 1e-05, 2 heads of width 64: the file" in note for note in bundle.notes)
    images = images_of((24, 24))
    assert_close(bundle.model(images), theirs.encode_image(images))
    notes = load_model(folder / "open_clip_model.safetensors").notes
    assumed = (
        "assumed gelu erf, norm_after_pool False, norm_eps 1e-05, 2 heads of width 64, pool cls: the file does not tell"
    )
    assert assumed in notes


IMAGES = ((61, 47), (47, 61), (200, 90), (32, 32))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"resize_mode": "squash", "interpolation": "bilinear", "mean": 0.5, "std": [0.5, 0.25, 0.5]},
        {"interpolation": "random", "size": 999},
    ],
    ids=["OpenCLIP's defaults", "squash", "random"],
)
def test_images_are_prepared_as_openclip_does(values: dict[str, Any], tmp_path: Path) -> None:
    peer("open_clip")
    transform = peer("open_clip.transform")
    vision = SMALL | {"image_size": 32}
    bundle = load_model(write_folder(tmp_path / "x", drawn(vision), {"vision_cfg": vision}, values))
    record = bundle.preprocess_record
    assert record is not None
    cfg = transform.PreprocessCfg(**{**values, "size": 32})
    theirs = transform.image_transform_v2(cfg, is_train=False)
    rng = np.random.default_rng(0)
    for height, width in IMAGES:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = theirs(image)
        ours = torch.tensor(fit_image(image, record)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (record.mean, record.std))
        assert torch.allclose((ours - mean) / std, expected, atol=1e-5)


TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 160}
TRUNKS: dict[str, dict[str, Any]] = {
    "linear projection": {"timm_proj": "linear"},
    "linear projection with bias": {"timm_proj": "linear", "timm_proj_bias": True},
    "no projection but the head": {"timm_proj": None},
    "mean pooling": {"timm_proj": "linear", "timm_pool": "avg"},
    "mean pooling, norm after": {"timm_proj": None, "timm_pool": "avg"},
    "attention pooling, nothing after": {"timm_proj": "none", "timm_pool": "map"},
    "the architecture's own pooling": {"timm_proj": "linear", "timm_pool": ""},
}


@pytest.mark.parametrize("tower_alone", [False, True, "trunk"])
@pytest.mark.parametrize("name", TRUNKS)
@torch.no_grad()
def test_a_tower_that_is_timms(name: str, tower_alone: bool | str, tmp_path: Path) -> None:
    vision = TIMM | TRUNKS[name]
    theirs = drawn(vision)
    part: nn.Module = theirs
    if tower_alone:
        part = theirs.visual if tower_alone == "trunk" else nn.ModuleDict({"visual": theirs.visual})
    bundle = load_model(write_folder(tmp_path / "x", part, {"vision_cfg": vision}, {}))
    images = images_of((160, 160))
    assert_close(bundle.model(images), theirs.encode_image(images))


@pytest.mark.parametrize("alone", [False, True])
def test_an_mlp_as_projection_is_refused_with_and_without_the_config(alone: bool, tmp_path: Path) -> None:
    vision = TIMM | {"timm_proj": "mlp"}
    theirs = drawn(vision)
    folder = write_folder(tmp_path / "x", nn.ModuleDict({"visual": theirs.visual}) if alone else theirs, {}, {})
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match=r"\(projection\) head\.mlp\..* another projection than a linear one"):
        load_model(folder)
    values = {"model_cfg": {"vision_cfg": vision}}
    with pytest.raises(UserError, match=r"timm_proj='mlp' is not a linear projection"):
        timm.read_sidecars({"open_clip_config.json": values})


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"layers": [3, 4, 6, 3]}, r"layers=\[3, 4, 6, 3\] are the stages of a ResNet"),
        ({"attentional_pool": True}, r"vision_cfg attentional_pool=True. Not a plain"),
        ({"qk_norm": True}, r"vision_cfg qk_norm=True. Not a plain"),
        ({"block_type": "custom"}, r"block_type='custom'"),
        ({"pool_type": "none"}, r"pool_type='none' is not one of 'tok', 'avg'"),
        ({"norm_kwargs": {"bias": False}}, r"norm_kwargs=\{'bias': False\}; vitkit's norms take eps alone"),
        ({"act_kwargs": {"approximate": "x"}}, r"act_kwargs=\{'approximate': 'x'\} are not those of a GELU"),
        ({"head_width": 0}, r"heads of width 0 in a model of width 768"),
        ({"width": "768"}, r"width is '768'; int was expected"),
        ({"image_size": [1, 2, 3]}, r"image_size is \[1, 2, 3\]; one or two positive integers"),
        ({"timm_model_name": "vit_base_patch16_224"}, r"a tower of timm's, 'vit_base_patch16_224'; the tensors are of OpenCLIP"),
    ],
)  # fmt: skip
def test_what_is_no_plain_tower_is_refused_by_name(vision: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_clip.read_sidecars({"open_clip_config.json": {"model_cfg": {"vision_cfg": vision}}})


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"timm_model_name": "convnext_base"}, r"timm architecture 'convnext_base' is not a plain"),
        ({"timm_model_name": "test_vit", "timm_pool": "abs_attn"}, r"timm_pool='abs_attn' is not one of"),
        ({"width": 768}, r"a tower of OpenCLIP's own; the tensors are of one of timm's"),
    ],
)
def test_what_is_no_plain_trunk_is_refused_by_name(vision: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm.read_sidecars({"open_clip_config.json": {"model_cfg": {"vision_cfg": vision}}})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"open_clip_config.json has no model_cfg"),
        ({"model_cfg": 3}, r"open_clip_config.json has no model_cfg"),
        ({"model_cfg": {}}, r"model_cfg has no vision_cfg"),
        ({"model_cfg": {"vision_cfg": {}}, "preprocess_cfg": {"resize_mode": "longest"}}, r"resize_mode='longest'"),
        ({"model_cfg": {"vision_cfg": {}}, "preprocess_cfg": {"mean": [1, 2]}}, r"mean is \[1, 2\]; one number or three"),
        ({"model_cfg": {"vision_cfg": {}}, "preprocess_cfg": {"mode": "L"}}, r"images are 'L'; OpenCLIP's are RGB"),
        ({"model_cfg": {"vision_cfg": {}}, "preprocess_cfg": {"interpolation": "lanczos"}}, r"neither bicubic nor bilinear"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_message(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_clip.read_sidecars({"open_clip_config.json": values})


def test_a_config_of_another_model_than_the_tensors_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "x", drawn(SMALL), {"vision_cfg": SMALL | {"width": 192}}, {})
    with pytest.raises(UserError, match=r"has shape .*, the configuration needs"):
        load_model(folder)
