"""The zoo's rows are data, and each is compared with an independent model: names, shapes, counts, preprocessing, licence."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import math
import re
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch

from peers import peer
from vitkit.converters.engine import split_ignored
from vitkit.models.vit import Block, VisionTransformer, ViTConfig
from vitkit.zoo import augreg, google, huggingface, meta, open_clip, timm, torchvision
from vitkit.zoo.record import CLASS_COUNTS, Checkpoint, count_parameters, sized
from vitkit.zoo.rows import ROWS, find_row, manifest, rows_of_stem, select, suggest

Shapes = dict[str, tuple[int, ...]]
SPDX = {"Apache-2.0", "MIT", "CC-BY-NC-4.0", "apple-ascl", "unstated"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def cached_manifest(format_: str, config: ViTConfig) -> Shapes:
    """Many rows share a model; its manifest is made once."""
    return manifest(next(row for row in ROWS if (row.format, row.model) == (format_, config)))


def of_format(rows: tuple[Checkpoint, ...], format_: str) -> list[Checkpoint]:
    return [row for row in rows if row.format == format_]


def shapes(model: torch.nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def normalised(format_: str, theirs: Shapes) -> Shapes:
    """Another library's names in the spelling of our converter, without what is no part of the image model."""
    module = importlib.import_module(f"vitkit.converters.{format_}")
    state = {name: torch.empty(shape, device="meta") for name, shape in theirs.items()}
    kept, _ = split_ignored(module.normalise(state), module.IGNORE)
    return {name: tuple(tensor.shape) for name, tensor in kept.items()}


def test_there_are_enough_rows_and_their_names_are_unique() -> None:
    assert len(google.ROWS) >= 20
    assert len(augreg.ROWS) == 20
    assert len(timm.ROWS) >= 60
    assert len(huggingface.ROWS) >= 20
    assert len(meta.ROWS) >= 15
    assert len(open_clip.ROWS) >= 5
    assert len(torchvision.ROWS) == 10
    names = Counter(name for row in ROWS for name in (row.name, *row.aliases))
    assert {name for name, count in names.items() if count > 1} == set()
    addresses = Counter((row.address, row.name.split(".")[0] if row.format == "timm" else "") for row in ROWS)
    assert {address for address, count in addresses.items() if count > 1} == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_field_is_sane(row: Checkpoint) -> None:
    assert re.fullmatch(r"[\w./+-]+", row.name)
    assert bool(row.url) != bool(row.repo)
    assert row.url.startswith("https://") or re.fullmatch(r"[\w-]+/[\w.-]+", row.repo)
    assert row.file.endswith((".npz", ".pth", ".safetensors"))
    assert row.licence in SPDX
    assert row.source
    assert row.trained_on
    assert not re.search(r"session|helper|/tmp|/work", repr(row))
    assert (row.top1 is None) == (row.top1_source == "")
    assert row.top1 is None or (0.7 < row.top1 < 0.9 and row.classes == "imagenet1k")
    assert row.classes is None or row.model.num_classes == CLASS_COUNTS[row.classes]
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in row.sha256)
    assert row.digest == "" or re.fullmatch(r"sha256:[0-9a-f]{8}|md5:[0-9a-f]{6}", row.digest)
    assert row.preprocess.channels == row.model.in_channels == 3
    assert row.preprocess.crop_fraction == 1.0 or row.preprocess.fit in ("crop", "squash_crop")
    assert {"image_size", "patch_size"} >= set(row.run)
    assert row.run.get("image_size", row.model.image_size) == row.preprocess.image_size
    assert "?" not in row.architecture.replace("?/16", "", int(row.name.startswith("test_vit")))


def block_parameters(config: ViTConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Block(config, 0.0).parameters())


def test_the_count_of_parameters_is_the_models_own() -> None:
    """Of two blocks; every further one adds as much. The manifests, whose numbers are counted too, have all of them."""
    configs = {dataclasses.replace(row.model, depth=2) for row in ROWS}
    assert len(configs) > 100
    configs |= {sized("Ti", 16, 32, depth=2, pool="cls_mean", representation_size=width) for width in (0, 24)}
    for config in configs:
        deeper = dataclasses.replace(config, depth=3)
        assert count_parameters(deeper) - count_parameters(config) == block_parameters(config)
        with torch.device("meta"):
            model = VisionTransformer(config)
        assert count_parameters(config) == sum(p.numel() for p in model.parameters()), config


OFFICIAL = {  # the official unit test's counts, of 224 pixels and 1000 classes (VIT_SPEC 1.1)
    "Ti_16": 5_717_416, "S_16": 22_050_664, "S_32": 22_878_952, "B_8": 86_576_872, "B_16": 86_567_656, "B_32": 88_224_232,
    "L_16": 304_326_632, "R_Ti_16": 6_337_704, "R26_S_32": 36_431_912, "R50_L_32": 328_994_856,
}  # fmt: skip


@pytest.mark.parametrize("model", OFFICIAL)
def test_augreg_models_have_the_official_counts_of_parameters(model: str) -> None:
    row = augreg.resolve(
        f"{model}-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_224"
    )
    assert row is not None
    assert row.parameters == OFFICIAL[model]


GOOGLE = {
    "imagenet21k+imagenet2012/ViT-B_16-224": 86_567_656, "imagenet21k+imagenet2012/ViT-L_16-224": 304_326_632,
    "imagenet21k/ViT-B_16": 103_186_515,  # VIT_SPEC 2.2, with the hidden layer and the 21k head
    "sam/ViT-S_16": 22_050_664, "sam/ViT-B_16": 86_567_656, "sam/ViT-B_32": 88_224_232, "sam/ViT-L_16": 304_326_632,
    "sam/ViT-L_32": 306_535_400, "gsam/ViT-S_16-gap-norep": 22_049_896, "gsam/ViT-S_32-gap-norep": 22_878_184,
    "gsam/ViT-B_16-gap-norep": 86_566_120, "gsam/ViT-B_32-gap-norep": 88_222_696,
}  # fmt: skip
MIB = {  # sizes of the files in the bucket (VIT_SPEC 2.2): float32 tensors and less than 0.5 MiB of names
    "imagenet21k/R26+ViT-B_32": 450.23, "imagenet21k/R50+ViT-B_16": 439.85, "imagenet21k/ViT-B_16": 393.69,
    "imagenet21k/ViT-B_32": 400.01, "imagenet21k/ViT-B_8": 393.72, "imagenet21k+imagenet2012/R50+ViT-B_16": 377.57,
    "imagenet21k+imagenet2012/ViT-B_16-224": 330.29, "imagenet21k+imagenet2012/ViT-B_16": 331.4,
    "imagenet21k+imagenet2012/ViT-B_32": 336.89, "imagenet21k+imagenet2012/ViT-B_8": 334.78,
    "sam/ViT-B_16": 330.3, "sam/ViT-B_32": 336.61,
}  # fmt: skip


def test_googles_rows_have_the_counts_and_the_file_sizes_that_are_known() -> None:
    for name, count in GOOGLE.items():
        assert find_row(name).parameters == count, name
    h14 = find_row("imagenet21k/ViT-H_14").model
    assert count_parameters(sized("H", 14, 224)) == 632_045_800
    assert (h14.representation_size, h14.num_classes) == (1280, 21843)
    for name, size in MIB.items():
        assert 0 < size - find_row(name).parameters * 4 / 2**20 < 0.5, name


@pytest.mark.parametrize("row", of_format((*google.ROWS, *augreg.ROWS), "google"), ids=lambda row: row.name)
def test_googles_manifests_have_the_officials_number_of_tensors(row: Checkpoint) -> None:
    found = cached_manifest("google", row.model)
    config = row.model
    expected = 16 * config.depth + 8 + 2 * bool(config.representation_size) - (not config.cls_token)
    if config.stem is not None:
        expected += 3 + 9 * sum(config.stem) + 3 * len(config.stem)
    assert len(found) == expected
    assert sum(math.prod(shape) for shape in found.values()) == row.parameters


# timm


@cache
def timm_shapes(arch: str, classes: int, **depth: int) -> Shapes:
    library = peer("timm")
    with torch.device("meta"):
        return shapes(library.create_model(arch, pretrained=False, num_classes=classes, **depth))


def test_timms_rows_are_of_timms_sizes() -> None:
    """Every architecture; the first of each width and depth as it is, the others with two blocks, since deep ones take long."""
    seen = set()
    for row in timm.ROWS:
        arch, config = row.name.split(".")[0], row.model
        width = (config.embed_dim, config.depth, config.mlp_dim, config.num_heads)
        depth = {} if width not in seen else {"depth": 2}
        seen.add(width)
        theirs = timm_shapes(arch, config.num_classes, **depth)
        ours = dataclasses.replace(config, depth=depth.get("depth", config.depth))
        assert count_parameters(ours) == sum(math.prod(shape) for shape in theirs.values()), row.name


def test_timms_manifests_are_timms_own() -> None:
    """As above, names and shapes."""
    seen = set()
    for row in timm.ROWS:
        arch, config = row.name.split(".")[0], row.model
        width = (config.embed_dim, config.depth, config.mlp_dim, config.num_heads)
        depth = {} if width not in seen else {"depth": 2}
        seen.add(width)
        ours = dataclasses.replace(row, model=dataclasses.replace(config, depth=depth.get("depth", config.depth)))
        assert manifest(ours) == timm_shapes(arch, config.num_classes, **depth), row.name


def test_timms_preprocessing_licences_and_addresses_are_timms_own() -> None:
    library = peer("timm")
    for row in timm.ROWS:
        cfg = library.get_pretrained_cfg(row.name)
        assert row.model.num_classes == cfg.num_classes, row.name
        assert row.repo == (cfg.hf_hub_id if cfg.hf_hub_id != "timm/" else f"timm/{row.name}"), row.name
        assert row.licence.lower() == cfg.license, row.name
        record = row.preprocess
        assert (3, *record.image_size) == cfg.input_size, row.name
        assert record.image_size == row.model.image_size, row.name
        assert (record.mean, record.std, record.interpolation) == (cfg.mean, cfg.std, cfg.interpolation), row.name
        squashed = "squash" if cfg.crop_pct == 1.0 else "squash_crop"
        assert record.fit == {"center": "crop", "squash": squashed}[cfg.crop_mode], row.name
        assert record.crop_fraction == cfg.crop_pct, row.name


TIMM_SAMPLE = (
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_clip_224.openai_ft_in1k", "flexivit_small.300ep_in1k",
    "vit_base_patch32_clip_quickgelu_224.openai", "vit_base_patch16_siglip_224.webli", "vit_base_patch32_siglip_256.v2_webli",
    "vit_large_patch16_siglip_512.v2_webli", "vit_medium_patch16_gap_256.sw_in12k_ft_in1k",
    "vit_medium_patch16_reg4_gap_256.sbb_in1k", "vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k_ft_in1k",
    "vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k_ft_in1k", "eva_large_patch14_196.in22k_ft_in1k", "test_vit2.r160_in1k",
    "deit_small_distilled_patch16_224.fb_in1k", "deit3_small_patch16_224.fb_in1k", "vit_giant_patch14_reg4_dinov2.lvd142m",
    "vit_tiny_r_s16_p8_224.augreg_in21k", "vit_small_patch14_reg4_dinov2.lvd142m", "vit_giantopt_patch16_siglip_256.v2_webli",
)  # fmt: skip


@pytest.mark.parametrize("name", TIMM_SAMPLE)
def test_what_shapes_do_not_tell_is_as_in_timms_modules(name: str) -> None:
    """Epsilon, activation, heads, pooling and where the last norm is: one name of every family."""
    library = peer("timm")
    row = find_row(name)
    config = row.model
    with torch.device("meta"):
        model = library.create_model(row.name.split(".")[0], pretrained=False)
    block = model.blocks[0]
    assert block.norm1.eps == config.norm_eps
    assert block.attn.num_heads == config.num_heads
    act = type(block.mlp.act).__name__, getattr(block.mlp.act, "approximate", "none")
    expected = {"erf": ("GELU", "none"), "tanh": ("GELUTanh", "none"), "quick": ("QuickGELU", "none")}
    assert config.mlp == "swiglu" or act == expected[config.gelu]
    assert model.global_pool == {"cls": "token", "mean": "avg", "map": "map"}[config.pool]
    assert isinstance(model.norm, torch.nn.Identity) == config.norm_after_pool
    assert isinstance(model.norm_pre, torch.nn.Identity) != config.pre_norm
    assert model.no_embed_class == (config.prefix_positions == "none" and config.prefix_tokens > 0)
    assert model.num_reg_tokens == (0 if config.distilled else config.registers)


def test_the_published_top1_of_timm_rows_is_of_known_models() -> None:
    """VIT_SPEC 9 quotes a later edition of the same table: the figures agree within 0.1 points."""
    later = {
        "vit_large_patch16_384.augreg_in21k_ft_in1k": 87.096, "vit_large_patch16_224.augreg_in21k_ft_in1k": 85.856,
        "vit_base_patch16_384.augreg_in21k_ft_in1k": 86.010, "vit_base_patch16_224.augreg_in21k_ft_in1k": 84.534,
        "vit_base_patch8_224.augreg_in21k_ft_in1k": 85.838, "vit_large_r50_s32_384.augreg_in21k_ft_in1k": 86.188,
        "vit_large_r50_s32_224.augreg_in21k_ft_in1k": 84.434, "vit_small_patch16_384.augreg_in21k_ft_in1k": 83.814,
        "vit_small_patch16_224.augreg_in21k_ft_in1k": 81.402, "vit_small_r26_s32_384.augreg_in21k_ft_in1k": 84.066,
        "vit_small_r26_s32_224.augreg_in21k_ft_in1k": 81.856, "vit_base_patch32_384.augreg_in21k_ft_in1k": 83.358,
        "vit_base_patch32_224.augreg_in21k_ft_in1k": 80.732, "vit_small_patch32_384.augreg_in21k_ft_in1k": 80.476,
        "vit_small_patch32_224.augreg_in21k_ft_in1k": 76.010, "vit_tiny_patch16_384.augreg_in21k_ft_in1k": 78.438,
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k": 75.452, "vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k": 75.962,
        "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k": 71.800, "vit_base_r50_s16_384.orig_in21k_ft_in1k": 84.988,
        "vit_base_patch16_384.orig_in21k_ft_in1k": 84.212, "vit_base_patch16_224.orig_in21k_ft_in1k": 81.782,
        "vit_large_patch32_384.orig_in21k_ft_in1k": 81.508, "vit_base_patch16_224.sam_in1k": 80.246,
        "vit_base_patch32_224.sam_in1k": 73.704, "vit_small_patch16_224.augreg_in1k": 78.842,
        "vit_small_patch16_384.augreg_in1k": 81.130, "vit_base_patch16_224.augreg_in1k": 79.154,
        "vit_base_patch16_384.augreg_in1k": 81.102, "vit_base_patch32_224.augreg_in1k": 74.908,
        "vit_base_patch32_384.augreg_in1k": 78.750,
    }  # fmt: skip
    for name, percent in later.items():
        assert find_row(name).top1 == pytest.approx(percent / 100, abs=1e-3), name


# facebookresearch


def test_metas_originals_have_the_tensors_of_timms_models() -> None:
    twins = {
        **{name: f"{name}.fb_in1k" for name in meta.DEIT},
        "dino_vits16": "vit_small_patch16_224.dino", "dino_vits8": "vit_small_patch8_224.dino",
        "dino_vitb16": "vit_base_patch16_224.dino", "dino_vitb8": "vit_base_patch8_224.dino",
        "mae_pretrain_vit_base": "vit_base_patch16_224.mae", "mae_pretrain_vit_large": "vit_large_patch16_224.mae",
        "mae_pretrain_vit_huge": "vit_huge_patch14_224.mae",
        **{
            name: f"deit3_{name.split('_')[2]}_patch{patch}_{image}.{'fb_in22k_ft_in1k' if '21k' in name else 'fb_in1k'}"
            for name, (_, patch, image, _) in meta.DEIT3.items()
        },
    }  # fmt: skip
    library = peer("timm")
    for ours, theirs in twins.items():
        row, twin = find_row(ours), find_row(theirs)
        assert cached_manifest("timm", row.model) == cached_manifest("timm", twin.model), ours
        assert row.url == library.get_pretrained_cfg(theirs).url, ours
        assert row.licence == twin.licence, ours
        assert row.top1 is None or row.top1 == pytest.approx(twin.top1, abs=3e-3), ours
    tuned = {"mae_finetuned_vit_base": "vit_base_patch16_224", "mae_finetuned_vit_huge": "vit_huge_patch14_224"}
    for ours, arch in tuned.items():
        with torch.device("meta"):
            expected = shapes(library.create_model(arch, pretrained=False, num_classes=1000, global_pool="avg"))
        assert cached_manifest("timm", find_row(ours).model) == expected


def test_dinov2_originals_are_of_timms_size_and_addresses() -> None:
    library = peer("timm")
    words = {"s": "small", "b": "base", "l": "large", "g": "giant"}
    for letter, word in words.items():
        for ours, theirs in (("", ""), ("_reg", "reg4_")):
            row = find_row(f"dinov2_vit{letter}14{ours}")
            twin = find_row(f"vit_{word}_patch14_{theirs}dinov2.lvd142m")
            folded = row.model.embed_dim if ours else 0  # timm has added the class token's position to the token
            assert row.parameters == twin.parameters + folded
            assert row.url == library.get_pretrained_cfg(twin.name).url
            assert row.run == {"image_size": (224, 224)}


@pytest.mark.parametrize("format_", sorted({row.format for row in ROWS}))
def test_the_converter_reads_a_rows_model_off_its_tensors(format_: str) -> None:
    """Of two blocks. What names and shapes do not tell is the row's own; so are the rule of positions and initial scales."""
    module = importlib.import_module(f"vitkit.converters.{format_}")
    own = {"position_rule", "layer_scale", *module.untold(ViTConfig(pre_norm=True))}
    for config, row in {row.model: row for row in of_format(ROWS, format_)}.items():
        model = dataclasses.replace(config, depth=2)
        tensors = manifest(dataclasses.replace(row, model=model))
        assert sum(math.prod(shape) for shape in tensors.values()) >= count_parameters(model), row.name
        state = {name: torch.empty(shape, device="meta") for name, shape in tensors.items()}
        read = module.config(module.normalise(state), config.image_size)
        assert (read.layer_scale is None) == (model.layer_scale is None), row.name
        assert dataclasses.replace(read, **{name: getattr(model, name) for name in own}) == model, row.name


# Hugging Face


def hugging_face_model(row: Checkpoint) -> torch.nn.Module:
    """transformers' model of the row's published hyper-parameters, on the meta device."""
    library = peer("transformers")
    config = row.model
    common = {
        "hidden_size": config.embed_dim, "num_hidden_layers": config.depth, "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim, "image_size": config.image_size[0], "patch_size": config.patch_size[0],
    }  # fmt: skip
    with torch.device("meta"):
        if "dinov2" in row.name:
            del common["intermediate_size"]  # the published configs say the ratio, 4, and that the giant is gated
            cls = "Dinov2WithRegisters" if "registers" in row.name else "Dinov2"
            gated = {"use_swiglu_ffn": row.name.endswith("giant")}
            return getattr(library, f"{cls}Model")(getattr(library, f"{cls}Config")(**common, **gated))
        if "mae" in row.name:
            return library.ViTMAEForPreTraining(library.ViTMAEConfig(**common))
        if "distilled" in row.name:
            return library.DeiTForImageClassificationWithTeacher(library.DeiTConfig(**common, num_labels=1000))
        if row.name.startswith("openai/clip"):
            vision = library.CLIPVisionConfig(**common, hidden_act="quick_gelu", projection_dim=config.num_classes)
            return library.CLIPVisionModelWithProjection(vision)
        if "siglip" in row.name:
            return library.SiglipVisionModel(library.SiglipVisionConfig(**common))
        if row.name.endswith("in21k"):
            return library.ViTModel(library.ViTConfig(**common))
        if row.name.startswith("facebook/dino-"):
            return library.ViTModel(library.ViTConfig(**common), add_pooling_layer=False)
        return library.ViTForImageClassification(library.ViTConfig(**common, num_labels=1000))


@cache
def hugging_face_facts(name: str) -> tuple[Shapes, dict[str, Any]]:
    model = hugging_face_model(find_row(name))
    return shapes(model), model.config.to_dict()


@pytest.mark.parametrize("format_", sorted({row.format for row in huggingface.ROWS}))
def test_hugging_face_manifests_are_transformers_own(format_: str) -> None:
    for row in of_format(huggingface.ROWS, format_):
        theirs = normalised(format_, hugging_face_facts(row.name)[0])
        assert cached_manifest(format_, row.model) == theirs, row.name


@pytest.mark.parametrize("row", huggingface.ROWS, ids=lambda row: row.name)
def test_hugging_face_rows_have_as_many_parameters_as_transformers_image_model(row: Checkpoint) -> None:
    theirs, config = hugging_face_facts(row.name)
    no_part = r"decoder|mask_token|position_ids"  # of masked-image training; and a buffer
    assert row.parameters == sum(math.prod(shape) for name, shape in theirs.items() if not re.search(no_part, name))
    assert row.model.norm_eps == config["layer_norm_eps"]
    gelus = {"gelu": "erf", "gelu_pytorch_tanh": "tanh", "quick_gelu": "quick"}
    assert row.model.gelu == gelus[config["hidden_act"]]


# OpenCLIP and torchvision


@pytest.mark.parametrize("row", open_clip.ROWS, ids=lambda row: row.name)
def test_open_clip_rows_are_open_clips_own(row: Checkpoint) -> None:
    library = peer("open_clip")
    _, name, tag = row.name.split("/")
    cfg = library.get_pretrained_cfg(name, tag)
    assert cfg["hf_hub"] == f"{row.repo}/"
    assert (row.preprocess.mean, row.preprocess.std) == (tuple(cfg["mean"]), tuple(cfg["std"]))
    assert (cfg["interpolation"], cfg["resize_mode"]) == ("bicubic", "shortest")
    assert not cfg.get("quick_gelu", False)
    with torch.device("meta"):
        settings = library.get_model_config(name)
        visual = library.model._build_vision_tower(settings["embed_dim"], settings["vision_cfg"])
    assert row.parameters == sum(p.numel() for p in visual.parameters())
    assert visual.ln_pre.eps == row.model.norm_eps
    assert visual.transformer.resblocks[0].attn.num_heads == row.model.num_heads
    theirs = normalised("open_clip", {f"visual.{name}": shape for name, shape in shapes(visual).items()})
    assert cached_manifest("open_clip", row.model) == theirs


@pytest.mark.parametrize("row", torchvision.ROWS, ids=lambda row: row.name)
def test_torchvision_rows_are_torchvisions_own(row: Checkpoint) -> None:
    library = peer("torchvision")
    weights = library.models.get_weight(row.name)
    transforms = weights.transforms()
    assert row.url == weights.url
    assert row.parameters == weights.meta["num_params"]
    assert row.top1 == pytest.approx(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)
    assert [row.preprocess.image_size[0]] == transforms.crop_size
    assert [round(row.preprocess.image_size[0] / row.preprocess.crop_fraction)] == transforms.resize_size
    assert row.preprocess.interpolation == transforms.interpolation.value
    assert (list(row.preprocess.mean), list(row.preprocess.std)) == (transforms.mean, transforms.std)
    builder = getattr(library.models, row.name.split("_Weights")[0].lower())
    with torch.device("meta"):
        model = builder(image_size=row.model.image_size[0])
    assert cached_manifest("torchvision", row.model) == normalised("torchvision", shapes(model))


# "How to train your ViT"


def test_the_rule_names_as_many_files_as_the_index_has() -> None:
    names = list(augreg.stems())
    assert len(set(names)) == len(names) == 756 + 756 * 68
    pretrained = [name for name in names if "--" not in name]
    assert len(pretrained) == 9 * 3 * 28
    # VIT_SPEC 2.3: 759 + 51,509. What is left are B/8's: 3 pre-trained and, of 34 settings each at 224, all fine-tuned but one.
    assert (759 - len(pretrained), 51_509 - (len(names) - len(pretrained))) == (3, 3 * 34 - 1)
    assert len(names) + 3 + 101 == 52_268


def test_every_name_of_the_rule_is_read_back() -> None:
    assert all(augreg._parse(name) is not None for name in augreg.stems())
    for name in list(augreg.stems())[::997]:
        row = find_row(name)
        assert row is not None
        assert row.url == f"https://storage.googleapis.com/vit_models/augreg/{name}.npz"
        assert row is find_row(f"augreg/{name}") or row == find_row(f"augreg/{name}")
        assert row.preprocess.image_size == row.model.image_size == ((384, 384) if name.endswith("384") else (224, 224))


@pytest.mark.parametrize(
    ("name", "size", "classes", "trained_on"),
    [
        ("B_16-i1k-300ep-lr_0.001-aug_light0-wd_0.03-do_0.1-sd_0.1--cifar100-steps_10k-lr_0.01-res_224", 224, 100,
         "ImageNet-1k, then cifar100"),
        ("S_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--oxford_iiit_pet-steps_0k-lr_0.001-res_384", 384, 37,
         "ImageNet-21k, then oxford_iiit_pet"),
        ("R26_S_32-i21k-30ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0--kitti-steps_2k-lr_0.03-res_384", 384, 4,
         "ImageNet-21k, then kitti"),
        ("R_Ti_16-i21k-300ep-lr_0.001-aug_strong2-wd_0.1-do_0.0-sd_0.0", 224, 21843, "ImageNet-21k"),
        ("Ti_16-i1k-300ep-lr_0.001-aug_strong2-wd_0.1-do_0.0-sd_0.0", 224, 1000, "ImageNet-1k"),
        ("B_8-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_224", 224, 1000,
         "ImageNet-21k, then imagenet2012"),
    ],
)  # fmt: skip
def test_a_name_by_rule_is_a_row(name: str, size: int, classes: int, trained_on: str) -> None:
    row = find_row(name)
    assert row is not None
    assert row.name == f"augreg/{name}"
    assert row.model.image_size == (size, size)
    assert row.model.num_classes == classes
    assert row.trained_on == trained_on
    assert rows_of_stem(name) == (row,)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("B_16-i21k-300ep-lr_0.001-aug_light2-wd_0.1-do_0.0-sd_0.0", "aug_light1"),
        ("B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.1-sd_0.0", "do_0.1-sd_0.1"),
        ("B_16-i1k-3000ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", "B_16-i1k-300ep"),
        ("b_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", "B_16-i21k"),
        ("B_16-i21k-300ep-lr_0.01-aug_light1-wd_0.1-do_0.0-sd_0.0", "lr_0.001-"),
        ("B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.001-res_384", "-lr_0.01-res_384"),
        ("B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0--imagenet-steps_20k-lr_0.01-res_384", "--imagenet2012-"),
        ("B_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0--kitti-steps_10k-lr_0.01-res_384", "steps_0k"),
        ("B_8-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0--kitti-steps_2k-lr_0.01-res_384", "res_224"),
        ("B_8-i1k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", "B_8-i21k-300ep"),
    ],
)  # fmt: skip
def test_near_misses_of_the_rule_are_refused_with_what_was_meant(wrong: str, right: str) -> None:
    assert find_row(wrong) is None
    meant = augreg.nearest(wrong)
    assert meant is not None
    assert right in meant
    assert find_row(meant) is not None
    assert suggest(wrong) == f" Did you mean {meant!r}?"


def test_what_is_recommended_has_its_published_figures() -> None:
    expected = {  # VIT_SPEC 2.3
        "L/16": 85.59, "B/16": 85.49, "S/16": 83.73, "R50+L/32": 85.99, "R26+S/32": 83.85, "Ti/16": 78.22, "B/32": 83.59,
        "S/32": 79.58, "R+Ti/16": 75.40,
    }  # fmt: skip
    for short, percent in expected.items():
        row = find_row(f"howto-i21k-{short}-384")
        assert row.top1 == pytest.approx(percent / 100)
        assert row.architecture == short
    assert find_row("howto-i21k-B/8-224").top1 is None


def test_the_automatic_choice_is_the_recommended_pretrained_file() -> None:
    assert augreg.auto("B_16").file == "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz"
    assert augreg.auto("R_Ti_16").file == "R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0.npz"
    assert {augreg.auto(model).model.num_classes for model in augreg.RECOMMENDED} == {21843}


# Finding a row


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("timm/vit_base_patch16_224.mae", "vit_base_patch16_224.mae"),
        ("timm/vit_base_patch32_clip_224.openai", "vit_base_patch32_clip_quickgelu_224.openai"),
        ("i1k-s16-300ep", "big_vision/vit_s16_i1k_300ep"),
        ("deit3_B_384_21k", "big_vision/bv_deit_3_base_384_21k"),
        ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "open_clip/ViT-B-16/laion2b_s34b_b88k"),
        ("facebook/dinov2-base", "facebook/dinov2-base"),
    ],
)
def test_a_row_answers_to_its_other_names(typed: str, name: str) -> None:
    assert find_row(typed).name == name


def test_an_unknown_name_has_no_row_and_the_nearest_is_suggested() -> None:
    assert find_row("resnet50") is None
    assert suggest("xyzzy") == ""
    assert suggest("vit_large_patch16_384") == (
        " That is an architecture, its weights are 'vit_large_patch16_384.augreg_in21k_ft_in1k': name one."
    )
    assert suggest("deit_tny") == " Did you mean 'deit_tiny_patch16_224'?"
    assert suggest("facebook/dinov2-bas") == " Did you mean 'facebook/dinov2-base'?"


def test_a_files_stem_leads_to_the_rows_it_may_be() -> None:
    assert {row.name for row in rows_of_stem("ViT-B_16")} == {
        "imagenet21k/ViT-B_16", "imagenet21k+imagenet2012/ViT-B_16", "sam/ViT-B_16",
    }  # fmt: skip
    assert [row.name for row in rows_of_stem("deit_tiny_patch16_224-a1311bcf")] == ["deit_tiny_patch16_224"]
    assert [row.name for row in rows_of_stem("deit_tiny_patch16_224")] == ["deit_tiny_patch16_224"]
    assert rows_of_stem("nothing") == ()


def test_a_filter_is_words_that_must_all_fit() -> None:
    assert {row.name for row in select("dinov2 reg 14 facebook/")} == {
        f"facebook/dinov2-with-registers-{word}" for word in huggingface.DINOV2
    }
    found = select("b/16 384")
    assert found
    assert all("B/16" in row.architecture and row.preprocess.image_size == (384, 384) for row in found)
    assert select("") == ROWS
    assert select("cc-by-nc mae") == tuple(row for row in ROWS if "mae" in row.name and row.licence == "CC-BY-NC-4.0")
    assert select("no such words") == ()


def test_flexible_patches_are_run_at_the_published_size() -> None:
    row = find_row("big_vision/flexivit_b_i1k")
    assert row.model.patch_size == (32, 32)
    assert row.model.grid == (7, 7)
    assert row.run == {"image_size": (240, 240), "patch_size": (16, 16)}
    assert row.architecture == "B/16"
