"""config.json of transformers read and written: what tensors do not tell, class names, and what is refused."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any

import pytest
import torch

from converters.huggingface_models import quiet
from peers import peer
from vitkit.config import UserError
from vitkit.converters import huggingface_clip, huggingface_dinov2, huggingface_vit
from vitkit.converters.huggingface_json import GELUS, HIDDEN_ACT
from vitkit.data.pixels import Preprocess
from vitkit.models.vit import Mlp, ViTConfig

TINY = ViTConfig(embed_dim=32, depth=1, num_heads=2, mlp_dim=64, patch_size=(8, 8), image_size=(16, 16), num_classes=3)


def told(module: ModuleType, **values: Any) -> dict[str, Any]:
    model: dict[str, Any] = module.read_sidecars({"config.json": values}).model
    return model


@pytest.mark.parametrize(
    ("module", "values", "expected"),
    [
        (huggingface_vit, {"model_type": "vit"}, (12, "erf", 1e-12, (224, 224))),
        (huggingface_vit, {"model_type": "vit_msn"}, (12, "erf", 1e-6, (224, 224))),
        (huggingface_vit, {"image_size": [32, 64], "hidden_act": "gelu_new"}, (12, "tanh", 1e-12, (32, 64))),
        (huggingface_vit, {"model_type": "deit", "num_attention_heads": 3, "layer_norm_eps": 1}, (3, "erf", 1.0, (224, 224))),
        (huggingface_dinov2, {"model_type": "dinov2", "image_size": 518}, (12, "erf", 1e-6, (518, 518))),
        (huggingface_clip, {"model_type": "clip_vision_model"}, (12, "quick", 1e-5, (224, 224))),
        (huggingface_clip, {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, (12, "erf", 1e-5, (224, 224))),
        # what transformers does with the two of them: the latter and the defaults overrule the former
        (
            huggingface_clip,
            {
                "model_type": "clip",
                "vision_config": {"num_attention_heads": 16, "image_size": 336},
                "vision_config_dict": {"image_size": 64},
            },
            (12, "quick", 1e-5, (64, 64)),
        ),
        (huggingface_clip, {"model_type": "siglip_vision_model", "num_attention_heads": 16}, (16, "tanh", 1e-6, (224, 224))),
        (huggingface_clip, {"model_type": "siglip", "vision_config": {"image_size": 384}}, (12, "tanh", 1e-6, (384, 384))),
    ],
)  # fmt: skip
def test_what_tensors_do_not_tell(module: ModuleType, values: dict[str, Any], expected: tuple[Any, ...]) -> None:
    model = told(module, **values)
    assert tuple(model[name] for name in ("num_heads", "gelu", "norm_eps", "image_size")) == expected
    assert set(model) == module.untold(ViTConfig()) | {"image_size"}


@pytest.mark.parametrize("module", [huggingface_vit, huggingface_dinov2, huggingface_clip])
def test_defaults_are_those_of_the_classes(module: ModuleType) -> None:
    types = {
        **{"vit": "ViTConfig", "deit": "DeiTConfig", "vit_mae": "ViTMAEConfig", "vit_msn": "ViTMSNConfig"},
        **{"dinov2": "Dinov2Config", "dinov2_with_registers": "Dinov2WithRegistersConfig"},
        **{"clip_vision_model": "CLIPVisionConfig", "siglip_vision_model": "SiglipVisionConfig"},
    }
    known = getattr(module, "TYPES", ("clip_vision_model", "siglip_vision_model"))
    with quiet() as library:
        for type_ in known:
            theirs = getattr(library, types[type_])()
            model = told(module, model_type=type_)
            assert model["num_heads"] == theirs.num_attention_heads
            assert model["gelu"] == GELUS[theirs.hidden_act]
            assert model["norm_eps"] == theirs.layer_norm_eps
            assert model["image_size"] == (theirs.image_size, theirs.image_size)


def test_without_files_nothing_is_told() -> None:
    for module in (huggingface_vit, huggingface_dinov2, huggingface_clip):
        assert module.read_sidecars({}) == ({}, None, None)


@pytest.mark.parametrize("act", GELUS)
def test_activations_are_the_functions_they_are_read_as(act: str) -> None:
    with quiet():
        theirs = peer("transformers.activations").ACT2FN[act]
    ours = Mlp(dataclasses.replace(TINY, embed_dim=1, mlp_dim=1, num_heads=1, gelu=GELUS[act]))
    with torch.no_grad():
        for layer in (ours.fc1, ours.fc2):
            layer.weight.fill_(1)
            layer.bias.zero_()
        x = torch.linspace(-8, 8, 4001)[:, None]
        assert float((ours(x) - theirs(x)).abs().max()) < 1e-6
    assert GELUS[HIDDEN_ACT[GELUS[act]]] == GELUS[act]


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (huggingface_vit, {"model_type": "beit"}, r"model_type is 'beit', which vitkit does not compute.*Did you mean"),
        (huggingface_dinov2, {"model_type": "vit"}, r"model_type is 'vit'.*names are those of dinov2"),
        (huggingface_clip, {"model_type": "altclip"}, r"model_type is 'altclip'"),
        (huggingface_vit, {"hidden_act": "relu"}, r"hidden_act is 'relu'; known: gelu, "),
        (huggingface_vit, {"hidden_act": "gelu_10"}, r"hidden_act is 'gelu_10'"),
        (huggingface_vit, {"pooler_act": "relu"}, r"pooler_act is 'relu'"),
        (huggingface_vit, {"head_dim": 16, "hidden_size": 64, "num_attention_heads": 2}, r"head_dim is 16, and 2 heads"),
        (huggingface_vit, {"num_attention_heads": "12"}, r"num_attention_heads is '12'"),
        (huggingface_vit, {"layer_norm_eps": True}, r"layer_norm_eps is True"),
        (huggingface_vit, {"image_size": [1, 2, 3]}, r"image_size is \[1, 2, 3\]; one or two positive"),
        (huggingface_vit, {"image_size": -4}, r"image_size is -4"),
        (huggingface_vit, {"id2label": {"0": "a", "2": "c"}}, r"id2label does not number its 2 classes"),
        (huggingface_vit, {"id2label": ["a"]}, r"id2label is \['a'\]"),
        (huggingface_clip, {"model_type": "clip", "vision_config": 3}, r"vision_config is 3"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_kept_are_named(module: ModuleType, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        module.read_sidecars({"config.json": values})


def test_a_file_of_something_else_is_named() -> None:
    for module in (huggingface_vit, huggingface_dinov2, huggingface_clip):
        with pytest.raises(UserError, match=r"config\.json holds no settings"):
            module.read_sidecars({"config.json": [1]})
        with pytest.raises(UserError, match=r"preprocessor_config\.json holds no settings"):
            module.read_sidecars({"preprocessor_config.json": "x"})


def test_class_names_come_in_the_order_of_their_numbers() -> None:
    names = {str(i): f"class {i}" for i in (10, 2, 1, 0, 3, 4, 5, 6, 7, 8, 9)}
    for architectures in ({}, {"architectures": ["ViTForImageClassification"]}):
        read = huggingface_vit.read_sidecars({"config.json": {"id2label": names, **architectures}}).classes
        assert read == tuple(f"class {i}" for i in range(11))
    for values in (
        {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
        {"id2label": {}},
        {},
        {"id2label": names, "architectures": ["ViTModel"]},
    ):
        assert huggingface_vit.read_sidecars({"config.json": values}).classes is None


SIGLIP = dataclasses.replace(TINY, cls_token=False, pool="mean", gelu="tanh")


@pytest.mark.parametrize(("module", "config"), [(huggingface_vit, TINY), (huggingface_clip, SIGLIP)])
def test_class_names_and_preprocessing_are_written_and_read_back(module: ModuleType, config: ViTConfig) -> None:
    preprocess = Preprocess((16, 16), "crop", 0.8, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    classes = ("a", "b", "b")
    files = module.write_sidecars(config, preprocess, classes)
    assert set(files) == {"config.json", "preprocessor_config.json"} <= set(module.SIDECARS)
    read = module.read_sidecars(files)
    assert (read.preprocess, read.classes) == (preprocess, classes)
    assert read.model == {"num_heads": 2, "gelu": config.gelu, "norm_eps": 1e-6, "image_size": (16, 16)}
    unnamed = module.write_sidecars(config, None, None)
    assert set(unnamed) == {"config.json"}
    assert module.read_sidecars(unnamed).classes is None
    with quiet() as library:
        class_ = library.ViTConfig if module is huggingface_vit else library.SiglipConfig
        for values, names in ((files, {0: "a", 1: "b", 2: "b"}), (unnamed, {i: f"LABEL_{i}" for i in range(3)})):
            theirs = class_(**values["config.json"])
            assert (theirs.num_labels, theirs.id2label) == (3, names)


def test_class_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="2 class names for a model of 3 classes"):
        huggingface_vit.write_sidecars(TINY, None, ("a", "b"))
    backbone = dataclasses.replace(TINY, num_classes=0, layer_scale=1.0)
    with pytest.raises(UserError, match="1 class names for a model of 0 classes"):
        huggingface_dinov2.write_sidecars(backbone, None, ("a",))
    clip = dataclasses.replace(TINY, pre_norm=True, patch_bias=False, head_bias=False)
    with pytest.raises(UserError, match="cannot express class names"):
        huggingface_clip.write_sidecars(clip, None, ("a", "b", "c"))
