"""`vit verify`: what it recognises, what it warns of, and that a wrong model does not pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from peers import peer
from shared import shared_data
from vitkit.bundle import Bundle
from vitkit.config import UserError
from vitkit.jobs.verify import verify
from vitkit.models.vit import VisionTransformer, ViTConfig
from vitkit.zoo.load import load_model
from vitkit.zoo.write import write_checkpoint


def test_a_bare_file_is_described_and_what_it_lacks_is_warned_of(
    backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = verify(backbone)
    out, err = capsys.readouterr()
    assert result.layout == "timm"
    assert f"all {result.tensors} tensors of the image model matched, 0 others left out" in out
    assert "norm epsilon 1e-06, pool cls (told by the tensors' names and shapes)" in out
    assert "learned, 4x4 of 16x16 pixels; to other sizes by the rule bicubic_antialias" in out
    assert "assumed 1 heads of width 64" in err
    assert "nothing says how images were prepared" in err
    assert "10 outputs without class names" in err
    with pytest.raises(UserError, match="not verified: assumed 1 heads"):
        verify(backbone, strict=True)


def test_the_self_test_compares_with_timm(backbone: Path) -> None:
    peer("timm")
    assert "timm 1" in verify(backbone).checks["self-test"]
    assert "outputs differ by at most" in verify(backbone).checks["self-test"]


def test_a_zero_head_a_projection_and_odd_numbers_are_warned_of(backbone: Path, tmp_path: Path) -> None:
    state = load_file(backbone)
    state["head.weight"].zero_()
    path = tmp_path / "zero.safetensors"
    save_file(state, path)
    assert any("all zeros" in warning for warning in verify(path).warnings)
    bundle = load_model(backbone, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    bundle.save(tmp_path / "odd")
    assert any("unusual mean (0.1, 0.2, 0.3)" in warning for warning in verify(tmp_path / "odd").warnings)
    load_model(backbone, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=18).save(tmp_path / "cut")
    assert any("2 rows and 2 columns of pixels are not seen" in w for w in verify(tmp_path / "cut").warnings)


def test_what_the_user_says_is_used_and_told(backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "num_heads": 4, "image_size": 18}
    result = verify(backbone, overrides=said)
    out, err = capsys.readouterr()
    assert "(told by you and the tensors' names and shapes)" in out
    assert "mean 0.5 0.5 0.5, std 0.5 0.5 0.5 (told by you)" in out
    assert "4x4 of 18x18 pixels" in out
    assert "2 rows and 2 columns of pixels are not seen" in err
    assert "assumed fit crop, crop_fraction 1, interpolation bicubic" in err
    assert result.config.num_heads == 4


def test_half_precision_is_told(backbone: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(backbone).items()}, path)
    result = verify(path)
    assert any("stored as float16" in warning for warning in result.warnings)
    assert load_model(path).model.head.weight.dtype == torch.float32


def test_the_result_is_json(backbone: Path) -> None:
    assert json.loads(json.dumps(verify(backbone).to_dict()))["config"]["embed_dim"] == 64


def test_the_shared_checkpoint_is_proved() -> None:
    result = verify(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))
    assert "differ by at most" in result.checks["reference"]
    assert result.checks["sha256"].startswith("95d02226")
    assert result.warnings == ()
    assert result.told_by["preprocess"] == "the zoo's row deit_tiny_patch16_224 (by its checksum)"


def test_a_changed_checkpoint_of_the_same_name_is_not_taken_for_the_known_file(tmp_path: Path) -> None:
    state = load_file(shared_data("deit_tiny", "deit_tiny_patch16_224.safetensors"))
    state["blocks.3.mlp.fc1.weight"][0, 0] += 1
    path = tmp_path / "deit_tiny_patch16_224.safetensors"
    save_file(state, path)
    result = verify(path)
    assert result.checks["reference"] == "no reference outputs are known for this file"
    assert "(by its name and shapes)" in result.told_by["preprocess"]


OWN = {  # target -> changes of a model that the layout's own library reads by its own code
    "timm": {"position_rule": "bicubic_antialias"},
    "google": {"gelu": "tanh"},
    "big_vision": {"pool": "map", "cls_token": False, "gelu": "tanh", "num_classes": 0},
    "huggingface": {"qkv_bias": False},
    "torchvision": {"position_rule": "bicubic_align_corners"},
}
LIBRARY = {"huggingface": "transformers", "torchvision": "torchvision"}


@pytest.mark.parametrize("target", OWN)
def test_the_independent_library_reads_the_file_itself_where_it_can(target: str, tmp_path: Path) -> None:
    peer(LIBRARY.get(target, "timm"))
    if target == "huggingface":
        peer("transformers").ViTForImageClassification  # noqa: B018  # its import needs torchvision
    torch.manual_seed(0)
    base = {"embed_dim": 64, "depth": 2, "num_heads": 1, "mlp_dim": 96, "patch_size": (8, 8), "image_size": (32, 32)}
    config = ViTConfig(**{**base, "num_classes": 7, "norm_eps": 1e-6, "gelu": "erf", **OWN[target]})  # type: ignore[arg-type]
    model = VisionTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    write_checkpoint(Bundle(model=model.eval(), preprocess_record=None), tmp_path / "x", target)
    (tmp_path / "x" / "vitkit.json").unlink()
    result = verify(tmp_path / "x", overrides={} if target in ("timm", "huggingface") else {"gelu": config.gelu})
    assert "which read the file by its own code: outputs differ by at most" in result.checks["self-test"]
    resized = verify(tmp_path / "x", overrides={"image_size": 48})
    assert "given the tensors that vitkit read" in resized.checks["self-test"]


SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "ViTMAEModel", "ViTMSNModel", "ViTForMaskedImageModeling", "ViTModel", "CLIPVisionModel", "CLIPVisionModelWithProjection",
        "SiglipVisionModel", "Dinov2Model", "Dinov2ForImageClassification", "DeiTModel",
    ],
)  # fmt: skip
def test_transformers_own_folders_agree_with_transformers(name: str, tmp_path: Path) -> None:
    library = peer("transformers")
    class_ = getattr(library, name)
    sizes = {**SIZES, **({"decoder_hidden_size": 64} if "MAE" in name else {})}
    if "Dinov2" in name:
        sizes["mlp_ratio"] = 2
    torch.manual_seed(0)
    model = class_(
        class_.config_class(**sizes), **({"add_pooling_layer": False} if name in ("ViTModel", "DeiTModel") else {})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(tmp_path)
    assert "outputs differ by at most" in verify(tmp_path).checks["self-test"]


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        ({"num_classes": 0}, {}),
        ({}, {"in_channels": 1}),
        ({"pool": "mean"}, {}),
        ({}, {"image_size": (32, 48), "source_image_size": 32}),
    ],
    ids=str,
)
def test_what_torchvision_does_not_have_is_not_compared_with_it(
    changes: dict[str, object], overrides: dict[str, object], tmp_path: Path
) -> None:
    peer("torchvision")
    base = {"embed_dim": 64, "depth": 1, "num_heads": 1, "mlp_dim": 96, "patch_size": (8, 8), "image_size": (32, 32)}
    config = ViTConfig(**{**base, "num_classes": 3, "gelu": "erf", **changes})  # type: ignore[arg-type]
    model = VisionTransformer(config)
    model.init_weights(0)
    write_checkpoint(Bundle(model.eval(), None), tmp_path / "x", "torchvision")
    found = verify(tmp_path / "x", overrides=overrides)
    assert found.checks["self-test"].startswith("not compared with an independent implementation: torchvision")


def test_an_average_beside_the_weights_is_told(backbone: Path, tmp_path: Path) -> None:
    state = load_file(backbone)
    path = tmp_path / "last.pth"
    torch.save({"state_dict": state, "state_dict_ema": {k: v + 1 for k, v in state.items()}, "epoch": 3}, path)
    said = "the file holds several models: state_dict was read, state_dict_ema left out"
    assert said in verify(path).warnings
    torch.save({"state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}, path)
    assert not any("several models" in warning for warning in verify(path).warnings)


def test_names_of_classes_do_not_steer_the_terminal(
    backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_model(backbone, mean=(0.5,) * 3, std=(0.5,) * 3)
    bundle.classes = ("a\x1b[31m", *map(str, range(9)))
    bundle.save(tmp_path / "x")
    verify(tmp_path / "x")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"10 names: a\x1b[31m, 0, ..." in out
