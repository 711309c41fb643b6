"""timm's folders both ways: its loader builds our function from what we write, and what it saves tells us the rest."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from converters.drawn import assert_close, redrawn
from converters.parity import ROWS, Row
from peers import peer
from vitkit.bundle import Bundle
from vitkit.config import UserError, override
from vitkit.converters import timm
from vitkit.converters.engine import decode, encode
from vitkit.converters.timm_folder import MAYBE, PLAIN
from vitkit.data.pixels import Preprocess, prepare, resized_size
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.load import load_model
from vitkit.zoo.write import write_checkpoint

OWN = [row for row in ROWS if row.library == "timm" and row.format == "timm"]
HALF = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}


def tiny(**changes: object) -> ViTConfig:
    base = ViTConfig(
        embed_dim=64, depth=2, num_heads=4, mlp_dim=100, patch_size=(8, 8), image_size=(32, 48), num_classes=5,
        position_rule="bicubic_antialias", gelu="erf",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def drawn_model(config: ViTConfig) -> VisionTransformer:
    model = VisionTransformer(config).eval()
    model.load_state_dict(redrawn(model.state_dict()))
    return model


def write(
    folder: Path, model: VisionTransformer, preprocess: Preprocess | None = None, classes: Any = None
) -> ViTConfig:
    """As a conversion writes it: prepared, the tensors and the JSON files beside them."""
    config, tensors = timm.prepare(model.config, model.state_dict())
    for name, content in timm.write_sidecars(config, preprocess, classes).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    save_file(encode(tensors, timm.rules(config)), folder / timm.FILE)
    return config


def load_with_timm(folder: Path) -> nn.Module:
    return peer("timm").create_model(f"local-dir:{folder}", pretrained=True).eval()


def images_for(config: ViTConfig) -> Tensor:
    return torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(1))


def told(folder: Path) -> Any:
    return timm.read_sidecars({"config.json": json.loads((folder / "config.json").read_text(encoding="utf-8"))})


def read(folder: Path) -> ViTConfig:
    """As a folder is loaded: names and shapes, at the size that the JSON file tells, then all it tells."""
    from safetensors.torch import load_file

    fields = told(folder).model
    return override(timm.config(load_file(folder / timm.FILE), fields.get("image_size")), fields, "config.json")


@pytest.mark.parametrize("row", OWN, ids=[row.family for row in OWN])
@torch.no_grad()
def test_what_timm_saves_is_read_and_what_we_write_timm_builds(row: Row, tmp_path: Path) -> None:
    library = peer("timm")
    model = library.create_model(row.model, img_size=row.image_size, **row.arguments).eval()
    model.load_state_dict(redrawn(model.state_dict()))
    saved, ours = tmp_path / "saved", tmp_path / "ours"
    library.models.save_for_hf(model, saved, safe_serialization=True)
    config = read(saved)
    assert config.image_size == row.image_size
    vit = VisionTransformer(config).eval()
    vit.load_state_dict(decode(timm.normalise(model.state_dict()), timm.rules(config), "x"))
    images = images_for(config)
    expected = model(images)
    assert_close(vit(images), expected)
    ours.mkdir()
    assert write(ours, vit) == config
    assert read(ours) == config
    again = load_with_timm(ours)
    assert set(again.state_dict()) == set(model.state_dict())
    assert_close(again(images), expected)
    assert again.pretrained_cfg["input_size"] == (config.in_channels, *row.image_size)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gelu": "tanh"},
        {"gelu": "quick", "norm_eps": 1e-5},
        {"pre_norm": True, "patch_bias": False},
        {"pre_norm": True, "patch_bias": False, "norm_eps": 1e-5, "gelu": "tanh"},
        {"patch_bias": False, "head_bias": False},
        {"cls_token": False, "pool": "mean"},
        {"pool": "mean", "norm_after_pool": True},
        {"pool": "mean"},
        {"norm_after_pool": True},
        {"pool": "none"},
        {"pool": "map", "cls_token": False},
        {"pool": "map", "gelu": "quick"},
        {"registers": 3},
        {"registers": 3, "prefix_positions": "cls"},
        {"registers": 2, "cls_token": False, "pool": "mean", "prefix_positions": "none"},
        {"position": "sincos2d", "cls_token": False, "pool": "mean"},
        {"position": "learned2d"},
        {"position": "none"},
        {"mlp": "swiglu"},
        {"mlp": "swiglu", "layer_scale": 0.1, "registers": 4, "prefix_positions": "none"},
        {"layer_scale": 0.0, "qkv_bias": False},
        {"registers": 1, "distilled": True},
        {"registers": 1, "distilled": True, "prefix_positions": "cls", "head_bias": False},
        {"stem": (), "patch_size": (2, 4), "stem_numerics": "timm"},
        {"in_channels": 5, "image_size": (35, 50)},
        {"num_classes": 0},
    ],
    ids=str,
)
@torch.no_grad()
def test_timm_builds_our_function_from_a_folder(changes: dict[str, object], tmp_path: Path) -> None:
    config = tiny(**changes)
    model = drawn_model(config)
    prepared = write(tmp_path, model)
    images = images_for(config)
    assert_close(model(images), load_with_timm(tmp_path)(images))
    scale = {"layer_scale": 1e-5} if config.layer_scale is not None else {}  # a file does not tell what it began with
    if prepared.mlp == "swiglu":
        scale["gelu"] = "erf"
    assert read(tmp_path) == dataclasses.replace(prepared, **scale)


@pytest.mark.parametrize(("embed_dim", "mlp_dim"), [(d, m) for d in (66, 192, 1152) for m in (1, 341, 397, 1001, 4304)])
def test_the_ratio_that_timm_truncates_gives_the_width_exactly(embed_dim: int, mlp_dim: int) -> None:
    args = timm.write_sidecars(tiny(embed_dim=embed_dim, num_heads=2, mlp_dim=mlp_dim), None, None)["config.json"][
        "model_args"
    ]
    assert int(embed_dim * json.loads(json.dumps(args["mlp_ratio"]))) == mlp_dim


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": "sincos2d"}, r"position='sincos2d'"),
        ({"representation_size": 8}, r"representation_size=8"),
        ({"norm_eps": 1e-4}, r"norm_eps=0.0001"),
        ({"norm_eps": 1e-5, "mlp": "swiglu"}, r"norm_eps=1e-05"),
        ({"head_bias": False}, r"head_bias=False"),
        ({"pre_norm": True}, r"patch_bias=True"),
        ({"patch_bias": False}, r"patch_bias=False"),
        ({"stem": (1, 2), "patch_size": (1, 1), "stem_numerics": "timm"}, r"stem=\(1, 2\)"),
        ({"stem": (), "patch_size": (2, 4)}, r"stem_numerics='official'"),
        ({"stem": (), "patch_size": (3, 3), "stem_numerics": "timm"}, r"image_size=\(32, 48\)"),
        ({"mlp": "swiglu", "pool": "map"}, r"mlp='swiglu'"),
        ({"registers": 2, "distilled": True}, r"distilled=True, registers=2"),
        ({"registers": 3, "prefix_positions": "cls"}, r"prefix_positions='cls'"),
    ],
    ids=str,
)
def test_what_timm_cannot_build_is_refused_by_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=rf"timm has no model with .*{message}"):
        timm.write_sidecars(tiny(**changes), None, None)


@pytest.mark.parametrize(
    "record",
    [
        Preprocess((32, 48), "crop", 0.875, "bicubic", **HALF),
        Preprocess((32, 48), "squash", 1.0, "bilinear", **HALF),
        Preprocess((32, 48), "pad", 1.0, "bicubic", **HALF),
    ],
    ids=["crop", "squash", "pad"],
)
def test_preprocessing_and_class_names_are_written_as_timm_reads_them_and_read_back(
    record: Preprocess, tmp_path: Path
) -> None:
    classes = ("a", "b", "c", "d", "é")
    write(tmp_path, drawn_model(tiny()), record, classes)
    found = told(tmp_path)
    assert (found.preprocess, found.classes) == (record, classes)
    model = load_with_timm(tmp_path)
    data = peer("timm.data").resolve_model_data_config(model)
    assert data["input_size"] == (3, 32, 48)
    assert (data["mean"], data["std"]) == (list(record.mean), list(record.std)) or data["mean"] == record.mean
    assert (data["crop_pct"], data["interpolation"]) == (record.crop_fraction, record.interpolation)
    assert data["crop_mode"] == {"crop": "center", "squash": "squash", "pad": "border"}[record.fit]
    assert list(model.pretrained_cfg["label_names"]) == list(classes)


def test_without_a_record_no_preprocessing_is_claimed(tmp_path: Path) -> None:
    write(tmp_path, drawn_model(tiny()))
    assert told(tmp_path).preprocess is None
    assert told(tmp_path).classes is None


def sidecar(**changes: Any) -> dict[str, Any]:
    """A hub repository's file, shortened."""
    data = {
        "custom_load": False, "input_size": [3, 224, 224], "fixed_input_size": True, "interpolation": "bicubic",
        "crop_pct": 0.9, "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 1000,
        **changes.pop("data", {}),
    }  # fmt: skip
    found = {"architecture": "vit_base_patch16_224", "num_classes": 1000, "num_features": 768, "global_pool": "token"}
    return {"config.json": {**found, "pretrained_cfg": data, **changes}}


def test_a_hub_file_tells_what_names_and_shapes_do_not() -> None:
    found = timm.read_sidecars(sidecar())
    half = (0.5, 0.5, 0.5)
    assert found.model == {"num_heads": 12, "gelu": "erf", "norm_eps": 1e-6, "pool": "cls", "image_size": (224, 224)}
    assert found.preprocess == Preprocess((224, 224), "crop", 0.9, "bicubic", half, half)
    assert found.classes is None
    clip = timm.read_sidecars(sidecar(architecture="vit_gigantic_patch14_clip_quickgelu_224"))
    assert {"num_heads": 16, "gelu": "quick", "norm_eps": 1e-5}.items() <= clip.model.items()
    siglip = timm.read_sidecars(sidecar(architecture="vit_so400m_patch16_siglip_384", global_pool="map"))
    assert {"num_heads": 16, "gelu": "tanh", "norm_eps": 1e-6, "pool": "map"}.items() <= siglip.model.items()


def test_model_args_win_over_the_architecture() -> None:
    args = {"num_heads": 3, "act_layer": "quick_gelu", "norm_layer": "layernorm", "img_size": 96, "global_pool": "avg"}
    found = timm.read_sidecars(sidecar(architecture="vit_base_patch16_clip_224", model_args=args))
    assert found.model == {"num_heads": 3, "gelu": "quick", "norm_eps": 1e-6, "pool": "mean", "image_size": (96, 96)}


def test_old_files_keep_all_fields_in_one_object() -> None:
    flat = {
        **sidecar()["config.json"].pop("pretrained_cfg"),
        "architecture": "deit_small_patch16_224",
        "labels": ["a", "b"],
    }
    found = timm.read_sidecars({"config.json": {**flat, "num_classes": 2}})
    assert found.model["num_heads"] == 6
    assert found.classes == ("a", "b")
    assert found.preprocess is not None


def test_classes_are_a_list_or_an_object_with_gaps() -> None:
    few = {"num_classes": 3}
    assert timm.read_sidecars(sidecar(**few, label_names=["n01", "n02", "n03"])).classes == ("n01", "n02", "n03")
    assert timm.read_sidecars(sidecar(**few, label_names={"0": "x", "2": "z"})).classes == ("x", "1", "z")
    for labels in (["a"], {"0": "a", "7": "b"}):
        with pytest.raises(UserError, match=r"label_names for 3 classes"):
            timm.read_sidecars(sidecar(**few, label_names=labels))


def test_no_other_architecture_of_timm_is_called_perhaps_plain() -> None:
    names = peer("timm").list_models()
    assert [name for name in names if MAYBE.fullmatch(name) and not PLAIN.fullmatch(name)] == []


def test_another_librarys_file_tells_nothing() -> None:
    for files in ({}, {"config.json": {"model_type": "vit"}}, {"config.json": [1]}):
        assert timm.read_sidecars(files) == ({}, None, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "swin_tiny"}, r"architecture 'swin_tiny' is not a plain Vision Transformer: not loaded\.$"),
        (
            {"architecture": "vit_titan_patch16_224"},
            r"as far as vitkit knows\..* move the weights file .* say num_heads=\.\.\.",
        ),
        (
            {"architecture": "vit_base_patch16_rpn_224"},
            r"'vit_base_patch16_rpn_224' is not a plain Vision Transformer: not loaded\.$",
        ),
        (
            {"architecture": "vit_base_patch16_dinov3"},
            r"'vit_base_patch16_dinov3' is not a plain Vision Transformer: not loaded\.$",
        ),
        ({"global_pool": "avgmax"}, r"global_pool='avgmax' is not one of"),
        ({"model_args": {"global_pool": "prr"}}, r"global_pool='prr' is not one of"),
        ({"model_args": {"qk_norm": True}}, r"qk_norm=True is not of the plain"),
        ({"model_args": {"final_norm": False}}, r"final_norm=False is not of the plain"),
        ({"model_args": {"pool_include_prefix": True}}, r"pool_include_prefix=True"),
        ({"model_args": {"dynamic_img_pad": True}}, r"dynamic_img_pad=True"),
        ({"model_args": {"block_fn": "x"}}, r"block_fn='x'"),
        ({"model_args": {"act_layer": "relu"}}, r"act_layer='relu' is not one of gelu"),
        ({"model_args": {"norm_layer": "rmsnorm"}}, r"norm_layer='rmsnorm' is not LayerNorm"),
        ({"model_args": [1]}, r"is not whole: 'list' object"),
        ({"global_pool": ["avg"]}, r"global_pool=\['avg'\] is not one of"),
        ({"label_names": "abc"}, r"label_names must be a list or an object"),
        ({"data": {"input_size": 224}}, r"is not whole"),
        ({"data": {"mean": [float("nan"), 0, 0]}}, r"mean and std must be finite"),
        ({"data": {"crop_mode": "squash"}}, r"crop_mode='squash' with crop_pct=0\.9 is not one of our fits"),
        ({"data": {"crop_mode": "border", "crop_pct": 0.95}}, r"crop_mode='border' with crop_pct=0\.95"),
        ({"data": {"interpolation": "lanczos"}}, r"interpolation='lanczos' is neither"),
        ({"data": {"mean": [0.5], "std": None}}, r"is not whole"),
        ({"data": {"std": [0.0, 1.0, 1.0]}}, r"std above 0"),
        ({"data": {"label_offset": 1}}, r"label_offset drops rows"),
    ],
    ids=str,
)
def test_what_is_not_ours_in_a_file_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm.read_sidecars(sidecar(**changes))


PHOTOS = ((375, 500), (500, 375), (128, 300), (97, 97), (31, 40))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("size", "fraction"),
    [
        ((224, 224), 0.9), ((224, 224), 0.95), ((240, 240), 0.95), ((96, 96), 0.9), ((384, 384), 0.9), ((224, 224), 0.875),
        ((96, 160), 0.875), ((64, 96), 1.0), ((64, 96), 0.8), ((160, 96), 0.9),
    ],
)  # fmt: skip
def test_pixels_are_timms_at_every_crop(size: tuple[int, int], fraction: float, interpolation: str) -> None:
    record = Preprocess(size, crop_fraction=fraction, interpolation=interpolation)
    made = timm.write_sidecars(tiny(image_size=size), record, None)["config.json"]["pretrained_cfg"]
    for pct in (fraction, made["crop_pct"]):  # what timm's own file says, and what we write
        transform = peer("timm.data").create_transform(
            input_size=(3, *size),
            crop_pct=pct,
            crop_mode="center",
            interpolation=interpolation,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        )
        rng = np.random.default_rng(0)
        for shape in PHOTOS:
            image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
            theirs = transform(image).permute(1, 2, 0).numpy()
            assert np.abs(prepare(image, record) - theirs).max() < 1e-6, shape


def test_a_fraction_of_two_whole_sizes_is_written_so_that_timm_finds_them_again() -> None:
    for resized in range(225, 300):
        record = Preprocess((224, 224), crop_fraction=224 / resized)
        pct = timm.write_sidecars(tiny(), record, None)["config.json"]["pretrained_cfg"]["crop_pct"]
        assert math.floor(224 / pct) == resized == resized_size((224, 224), pct)[0]


def test_an_epsilon_that_timm_does_not_have_is_told_and_stays_ours(tmp_path: Path) -> None:
    model = VisionTransformer(tiny(norm_eps=1e-12)).eval()
    model.load_state_dict(redrawn(model.state_dict()))
    written_ = write_checkpoint(Bundle(model, None), tmp_path / "x", "timm")
    assert any("timm itself computes with norm_eps 1e-06; vitkit.json says" in note for note in written_.notes)
    theirs = peer("timm").create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True).eval()
    again = load_model(tmp_path / "x")
    assert again.config.norm_eps == 1e-12
    images = torch.randn(2, 3, *model.config.image_size)
    with torch.inference_mode():
        assert torch.equal(again.model(images), model(images))
        assert_close(theirs(images), model(images))
    with pytest.raises(UserError, match=r"timm has no model with norm_eps=0\.01"):
        timm.write_sidecars(tiny(norm_eps=1e-2), None, None)
