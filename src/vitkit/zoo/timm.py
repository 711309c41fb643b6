"""timm's checkpoints, repositories ``timm/<name>`` of the Hugging Face hub.

A name says the architecture and, after the dot, the training. What differs within a family is in the tables; the tests compare
each row with timm's own model and registry. Not here: models that this package's Vision Transformer cannot express exactly
(parallel blocks, differential attention, RMS norms, no final norm, pooling over prefix tokens).

Top-1: huggingface/pytorch-image-models, results/results-imagenet.csv of commit 0173a139.
"""

from __future__ import annotations

import dataclasses
import re

from vitkit.models.vit import ViTConfig
from vitkit.zoo.record import (
    CLASS_COUNTS,
    CLIP_MEAN,
    HALF,
    IMAGENET_MEAN,
    Checkpoint,
    preprocessing,
    sized,
)  # fmt: skip

__all__ = ["FILES", "ROWS", "architecture"]

FILES = ("model.safetensors", "pytorch_model.bin")
TOP1_SOURCE = "timm results-imagenet.csv"
# Columns: name; part of the resized image that the centre crop keeps, with s where the image is squashed and not covered; top-1 in
# percent. Grouped by mean and std.
HALF_ROWS = """
test_vit.r160_in1k 0.95
test_vit2.r160_in1k 0.95
vit_tiny_patch16_224.augreg_in21k_ft_in1k 0.9 75.454
vit_tiny_patch16_224.augreg_in21k 0.9
vit_tiny_patch16_384.augreg_in21k_ft_in1k 1.0 78.424
vit_small_patch32_224.augreg_in21k_ft_in1k 0.9 75.994
vit_small_patch32_224.augreg_in21k 0.9
vit_small_patch32_384.augreg_in21k_ft_in1k 1.0 80.486
vit_small_patch16_224.augreg_in21k_ft_in1k 0.9 81.384
vit_small_patch16_224.augreg_in1k 0.9 78.846
vit_small_patch16_224.augreg_in21k 0.9
vit_small_patch16_384.augreg_in21k_ft_in1k 1.0 83.802
vit_small_patch16_384.augreg_in1k 1.0 81.116
vit_base_patch32_224.augreg_in21k_ft_in1k 0.9 80.716
vit_base_patch32_224.augreg_in1k 0.9 74.894
vit_base_patch32_224.augreg_in21k 0.9
vit_base_patch32_224.orig_in21k 0.9
vit_base_patch32_224.sam_in1k 0.9 73.694
vit_base_patch32_384.augreg_in21k_ft_in1k 1.0 83.350
vit_base_patch32_384.augreg_in1k 1.0 78.752
vit_base_patch16_224.augreg2_in21k_ft_in1k 0.9 85.096
vit_base_patch16_224.augreg_in21k_ft_in1k 0.9 84.532
vit_base_patch16_224.orig_in21k_ft_in1k 0.9 81.786
vit_base_patch16_224.augreg_in1k 0.9 79.154
vit_base_patch16_224.orig_in21k 0.9
vit_base_patch16_224.augreg_in21k 0.9
vit_base_patch16_224.sam_in1k 0.9 80.244
vit_base_patch16_384.augreg_in21k_ft_in1k 1.0 85.996
vit_base_patch16_384.orig_in21k_ft_in1k 1.0 84.200
vit_base_patch16_384.augreg_in1k 1.0 81.102
vit_base_patch8_224.augreg2_in21k_ft_in1k 0.9 86.218
vit_base_patch8_224.augreg_in21k_ft_in1k 0.9 85.798
vit_base_patch8_224.augreg_in21k 0.9
vit_large_patch32_224.orig_in21k 0.9
vit_large_patch32_384.orig_in21k_ft_in1k 1.0 81.510
vit_large_patch16_224.augreg_in21k_ft_in1k 0.9 85.834
vit_large_patch16_224.orig_in21k 0.9
vit_large_patch16_224.augreg_in21k 0.9
vit_large_patch16_384.augreg_in21k_ft_in1k 1.0 87.084
vit_huge_patch14_224.orig_in21k 0.9
vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k 0.9 71.798
vit_tiny_r_s16_p8_224.augreg_in21k 0.9
vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k 1.0 75.962
vit_small_r26_s32_224.augreg_in21k_ft_in1k 0.9 81.864
vit_small_r26_s32_224.augreg_in21k 0.9
vit_small_r26_s32_384.augreg_in21k_ft_in1k 1.0 84.048
vit_base_r50_s16_224.orig_in21k 0.9
vit_base_r50_s16_384.orig_in21k_ft_in1k 1.0 84.976
vit_large_r50_s32_224.augreg_in21k_ft_in1k 0.9 84.422
vit_large_r50_s32_224.augreg_in21k 0.9
vit_large_r50_s32_384.augreg_in21k_ft_in1k 1.0 86.182
vit_medium_patch16_gap_240.sw_in12k 0.95
vit_medium_patch16_gap_256.sw_in12k_ft_in1k 0.95 84.446
vit_medium_patch16_gap_384.sw_in12k_ft_in1k 0.95s 85.532
vit_wee_patch16_reg1_gap_256.sbb_in1k 0.95
vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k 0.95
vit_little_patch16_reg1_gap_256.sbb_in12k 0.95
vit_little_patch16_reg4_gap_256.sbb_in1k 0.95
vit_medium_patch16_reg1_gap_256.sbb_in1k 0.95
vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k 0.95
vit_medium_patch16_reg4_gap_256.sbb_in1k 0.95
vit_medium_patch16_reg4_gap_256.sbb_in12k 0.95
vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k 0.95
vit_mediumd_patch16_reg4_gap_256.sbb_in12k_ft_in1k 0.95
vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k 0.95
vit_mediumd_patch16_reg4_gap_256.sbb_in12k 0.95
vit_mediumd_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k 1.0
vit_betwixt_patch16_reg1_gap_256.sbb_in1k 0.95
vit_betwixt_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k 0.95
vit_betwixt_patch16_reg4_gap_256.sbb_in12k_ft_in1k 0.95
vit_betwixt_patch16_reg4_gap_256.sbb_in1k 0.95
vit_betwixt_patch16_reg4_gap_256.sbb2_e200_in12k 0.95
vit_betwixt_patch16_reg4_gap_256.sbb_in12k 0.95
vit_betwixt_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k 1.0
vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k_ft_in1k 0.95
vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k 0.95
vit_so150m_patch16_reg4_gap_384.sbb_e250_in12k_ft_in1k 1.0
vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k_ft_in1k 1.0
vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k 1.0
vit_so150m2_patch16_reg1_gap_384.sbb_e200_in12k_ft_in1k 1.0
vit_so150m2_patch16_reg1_gap_448.sbb_e200_in12k_ft_in1k 1.0s
flexivit_small.1200ep_in1k 0.95 82.520
flexivit_small.600ep_in1k 0.95 82.362
flexivit_small.300ep_in1k 0.95 82.178
flexivit_base.1200ep_in1k 0.95 84.678
flexivit_base.600ep_in1k 0.95 84.522
flexivit_base.300ep_in1k 0.95 84.406
flexivit_base.1000ep_in21k 0.95
flexivit_base.300ep_in21k 0.95
flexivit_base.patch16_in21k 0.95
flexivit_base.patch30_in21k 0.95
flexivit_large.1200ep_in1k 0.95 85.646
flexivit_large.600ep_in1k 0.95 85.538
flexivit_large.300ep_in1k 0.95 85.290
vit_base_patch32_siglip_256.v2_webli 0.9
vit_base_patch16_siglip_224.v2_webli 0.9
vit_base_patch16_siglip_224.webli 0.9
vit_base_patch16_siglip_256.v2_webli 0.9
vit_base_patch16_siglip_256.webli 0.9
vit_base_patch16_siglip_256.webli_i18n 0.9
vit_base_patch16_siglip_384.v2_webli 0.9
vit_base_patch16_siglip_384.webli 0.9
vit_base_patch16_siglip_512.v2_webli 0.9
vit_base_patch16_siglip_512.webli 0.9
vit_large_patch16_siglip_256.v2_webli 0.9
vit_large_patch16_siglip_256.webli 0.9
vit_large_patch16_siglip_384.v2_webli 0.9
vit_large_patch16_siglip_384.webli 0.9
vit_large_patch16_siglip_512.v2_webli 0.9
vit_so400m_patch14_siglip_224.v2_webli 0.9
vit_so400m_patch14_siglip_224.webli 0.9
vit_so400m_patch14_siglip_378.v2_webli 0.9
vit_so400m_patch14_siglip_378.webli 0.9
vit_so400m_patch14_siglip_378.webli_ft_in1k 1.0s
vit_so400m_patch14_siglip_384.webli 0.9
vit_so400m_patch16_siglip_256.v2_webli 0.9
vit_so400m_patch16_siglip_256.webli_i18n 0.9
vit_so400m_patch16_siglip_384.v2_webli 0.9
vit_so400m_patch16_siglip_512.v2_webli 0.9
vit_giantopt_patch16_siglip_256.v2_webli 0.9
vit_giantopt_patch16_siglip_384.v2_webli 0.9
vit_large_patch14_clip_224.laion2b_ft_in12k_in1k 1.0 87.892
vit_large_patch14_clip_224.laion2b_ft_in1k 1.0 87.282
vit_large_patch14_clip_224.laion2b_ft_in12k 1.0
vit_large_patch14_clip_224.laion2b 1.0
vit_large_patch14_clip_336.laion2b_ft_in12k_in1k 1.0s 88.178
vit_large_patch14_clip_336.laion2b_ft_in1k 1.0s 87.856
"""
IMAGENET_ROWS = """
deit_tiny_patch16_224.fb_in1k 0.9 72.172
deit_small_patch16_224.fb_in1k 0.9 79.844
deit_base_patch16_224.fb_in1k 0.9 81.992
deit_base_patch16_384.fb_in1k 1.0 83.106
deit_tiny_distilled_patch16_224.fb_in1k 0.9 74.500
deit_small_distilled_patch16_224.fb_in1k 0.9 81.218
deit_base_distilled_patch16_224.fb_in1k 0.9 83.386
deit_base_distilled_patch16_384.fb_in1k 1.0 85.426
deit3_small_patch16_224.fb_in1k 0.9 81.370
deit3_small_patch16_224.fb_in22k_ft_in1k 1.0 83.074
deit3_small_patch16_384.fb_in1k 1.0 83.430
deit3_small_patch16_384.fb_in22k_ft_in1k 1.0 84.824
deit3_medium_patch16_224.fb_in1k 0.9 83.086
deit3_medium_patch16_224.fb_in22k_ft_in1k 1.0 84.552
deit3_base_patch16_224.fb_in1k 0.9 83.786
deit3_base_patch16_224.fb_in22k_ft_in1k 1.0 85.700
deit3_base_patch16_384.fb_in1k 1.0 85.072
deit3_base_patch16_384.fb_in22k_ft_in1k 1.0 86.738
deit3_large_patch16_224.fb_in1k 0.9 84.776
deit3_large_patch16_224.fb_in22k_ft_in1k 1.0 86.982
deit3_large_patch16_384.fb_in1k 1.0 85.812
deit3_large_patch16_384.fb_in22k_ft_in1k 1.0 87.720
deit3_huge_patch14_224.fb_in1k 0.9 85.224
deit3_huge_patch14_224.fb_in22k_ft_in1k 1.0 87.186
vit_small_patch16_224.dino 0.9
vit_small_patch8_224.dino 0.9
vit_base_patch16_224.dino 0.9
vit_base_patch8_224.dino 0.9
vit_base_patch16_224.mae 0.9
vit_large_patch16_224.mae 0.9
vit_huge_patch14_224.mae 0.9
vit_small_patch14_dinov2.lvd142m 1.0
vit_base_patch14_dinov2.lvd142m 1.0
vit_large_patch14_dinov2.lvd142m 1.0
vit_giant_patch14_dinov2.lvd142m 1.0
vit_small_patch14_reg4_dinov2.lvd142m 1.0
vit_base_patch14_reg4_dinov2.lvd142m 1.0
vit_large_patch14_reg4_dinov2.lvd142m 1.0
vit_giant_patch14_reg4_dinov2.lvd142m 1.0
"""
CLIP_ROWS = """
vit_base_patch32_clip_224.laion2b_ft_in12k_in1k 0.9 83.296
vit_base_patch32_clip_224.laion2b_ft_in1k 0.9 82.582
vit_base_patch32_clip_224.openai_ft_in1k 0.9 81.930
vit_base_patch32_clip_224.laion2b 0.9
vit_base_patch32_clip_224.datacompxl 1.0
vit_base_patch32_clip_256.datacompxl 1.0
vit_base_patch32_clip_384.laion2b_ft_in12k_in1k 1.0 85.366
vit_base_patch32_clip_384.openai_ft_in12k_in1k 0.95s 85.216
vit_base_patch32_clip_448.laion2b_ft_in12k_in1k 1.0 85.778
vit_base_patch32_clip_quickgelu_224.openai 0.9
vit_base_patch32_clip_quickgelu_224.laion400m_e32 0.9
vit_base_patch32_clip_quickgelu_224.metaclip_2pt5b 1.0
vit_base_patch16_clip_224.laion2b_ft_in12k_in1k 0.95 86.174
vit_base_patch16_clip_224.openai_ft_in12k_in1k 0.95 85.940
vit_base_patch16_clip_224.laion2b_ft_in1k 1.0 85.466
vit_base_patch16_clip_224.openai_ft_in1k 0.9 85.292
vit_base_patch16_clip_224.laion2b_ft_in12k 0.9
vit_base_patch16_clip_224.openai_ft_in12k 0.9
vit_base_patch16_clip_224.laion2b 1.0
vit_base_patch16_clip_224.laion400m_e32 1.0
vit_base_patch16_clip_224.datacompxl 1.0
vit_base_patch16_clip_384.laion2b_ft_in12k_in1k 1.0s 87.208
vit_base_patch16_clip_384.openai_ft_in12k_in1k 0.95s 87.024
vit_base_patch16_clip_384.laion2b_ft_in1k 1.0s 86.620
vit_base_patch16_clip_384.openai_ft_in1k 1.0s 86.204
vit_base_patch16_clip_quickgelu_224.openai 0.9
vit_base_patch16_clip_quickgelu_224.metaclip_2pt5b 1.0
vit_base_patch16_plus_clip_240.laion400m_e32 1.0
vit_large_patch14_clip_224.openai_ft_in12k_in1k 1.0 88.176
vit_large_patch14_clip_224.openai_ft_in1k 1.0 87.852
vit_large_patch14_clip_224.openai_ft_in12k 1.0
vit_large_patch14_clip_224.laion400m_e32 1.0
vit_large_patch14_clip_224.datacompxl 1.0
vit_large_patch14_clip_336.openai_ft_in12k_in1k 1.0s 88.268
vit_large_patch14_clip_quickgelu_224.openai 1.0
vit_large_patch14_clip_quickgelu_224.dfn2b 1.0
vit_large_patch14_clip_quickgelu_224.metaclip_2pt5b 1.0
vit_large_patch14_clip_quickgelu_336.openai 1.0
vit_huge_patch14_clip_224.laion2b_ft_in12k_in1k 1.0 88.256
vit_huge_patch14_clip_224.laion2b_ft_in1k 1.0 87.588
vit_huge_patch14_clip_224.laion2b_ft_in12k 1.0
vit_huge_patch14_clip_224.laion2b 1.0
vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k 1.0s 88.592
vit_huge_patch14_clip_quickgelu_224.dfn5b 1.0
vit_huge_patch14_clip_quickgelu_378.dfn5b 1.0
vit_giant_patch14_clip_224.laion2b 1.0
vit_gigantic_patch14_clip_224.laion2b 1.0
eva_large_patch14_196.in22k_ft_in22k_in1k 1.0 88.576
eva_large_patch14_196.in22k_ft_in1k 1.0 87.934
eva_large_patch14_336.in22k_ft_in22k_in1k 1.0s 89.208
eva_large_patch14_336.in22k_ft_in1k 1.0s 88.670
"""
SIZES = {
    "tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H", "giant": "g", "gigantic": "G", "giantopt": "g-opt",
    "medium": "M", "so400m": "So400m", "wee": "wee", "little": "little", "mediumd": "mediumd", "betwixt": "betwixt",
    "so150m": "so150m", "so150m2": "so150m2",
}  # fmt: skip
STEMS = {"r": (), "r26": (2, 2, 2, 2), "r50": (3, 4, 6, 3)}
TEST = {  # the tiny models that timm tests with: width, depth, MLP, heads; and what else is unusual
    "test_vit": ((64, 6, 192, 2), {}),
    "test_vit2": (
        (64, 8, 192, 2),
        {"cls_token": False, "registers": 1, "pool": "mean", "norm_after_pool": True, "layer_scale": 1e-5},
    ),
}  # fmt: skip
SIGLIP_TANH = ("base_patch32", "large_patch16_siglip_512", "so400m_patch16", "giantopt")
EMBEDDINGS = {"B": 512, "plus": 640, "L": 768, "H": 1024, "g": 1024, "G": 1280}  # width of CLIP's shared space
DATA = {
    "in21k": "ImageNet-21k", "in22k": "ImageNet-21k", "in12k": "ImageNet-12k", "in1k": "ImageNet-1k", "openai": "OpenAI's WIT-400M",
    "laion2b": "LAION-2B", "laion400m": "LAION-400M", "datacompxl": "DataComp-XL", "dfn2b": "DFN-2B", "dfn5b": "DFN-5B",
    "metaclip": "MetaCLIP's 2.5 billion pairs", "webli": "WebLI", "lvd142m": "LVD-142M", "dino": "ImageNet-1k without labels",
    "mae": "ImageNet-1k without labels",
}  # fmt: skip
LICENCES = (  # the first that is in the name; else Apache-2.0
    ("mae", "CC-BY-NC-4.0"), ("metaclip", "CC-BY-NC-4.0"), ("laion400m", "MIT"), ("eva_", "MIT"), ("dfn", "apple-ascl"),
)  # fmt: skip


def architecture(name: str) -> ViTConfig:
    """The configuration of timm's architecture of a name, without its head."""
    words = name.split("_")
    common: dict[str, object] = {"gelu": "erf", "position_rule": "bicubic_antialias", "num_classes": 0}
    if words[0] == "test":
        (embed_dim, depth, mlp_dim, num_heads), changes = TEST[name]
        return sized(
            "Ti", 16, 160, **common, **changes, embed_dim=embed_dim, depth=depth, mlp_dim=mlp_dim, num_heads=num_heads
        )
    size = "plus" if "plus" in words else SIZES[words[1]]
    patch = next((int(word.removeprefix("patch")) for word in words if word.startswith("patch")), 16)
    image = next((int(word) for word in reversed(words) if word.isdigit()), 518 if "dinov2" in words else 240)
    changes = _family(words)
    if words[2:] and words[2] in STEMS:
        changes = {"stem": (3, 4, 9) if words[1] == "base" else STEMS[words[2]], "stem_numerics": "timm"}
        patch = 8 if words[2] == "r" else 1
    if "dinov2" in words and size == "g":
        size = "g-swiglu"
        changes["mlp"] = "swiglu"
    return sized(size, patch, image, **{**common, **changes})


def _family(words: list[str]) -> dict[str, object]:
    """What the words of a name change of the plain model."""
    registers = next((int(word[3:]) for word in words if re.fullmatch(r"reg\d", word)), 0)
    if "clip" in words:
        gelu = "quick" if "quickgelu" in words else "erf"
        return {"pre_norm": True, "patch_bias": False, "norm_eps": 1e-5, "gelu": gelu}
    if "siglip" in words:  # trained with the tanh GELU, but only these of timm's compute it
        tanh = any("_".join(words).startswith(f"vit_{start}") for start in SIGLIP_TANH)
        return {"cls_token": False, "pool": "map", "gelu": "tanh" if tanh else "erf"}
    if "dinov2" in words:  # with registers timm has folded the class token's position into the token
        return {"layer_scale": 1e-5, "registers": registers, "prefix_positions": "none" if registers else "all"}
    if "gap" in words:
        pooled: dict[str, object] = {"cls_token": False, "pool": "mean", "registers": registers}
        if words[1] == "so150m":
            return pooled
        if words[1] == "so150m2":
            return {**pooled, "norm_after_pool": True, "layer_scale": 1e-5, "qkv_bias": False}
        if registers:
            return {**pooled, "norm_after_pool": True, "layer_scale": 1e-5, "prefix_positions": "none"}
        return {**pooled, "layer_scale": 1e-6, "qkv_bias": False}
    others: dict[str, dict[str, object]] = {
        "deit3": {"layer_scale": 1e-6, "prefix_positions": "none"},
        "flexivit": {"prefix_positions": "none"},
        "eva": {"pool": "mean", "norm_after_pool": True},
        "deit": {"registers": 1, "distilled": True} if "distilled" in words else {},
    }
    return others.get(words[0], {})


def _row(line: str, mean: tuple[float, float, float]) -> Checkpoint:
    name, crop, *top1 = line.split()
    arch, tag = name.split(".")
    base = architecture(arch)
    changes: dict[str, object] = {}
    classes = None
    if tag.startswith("orig") and "in1k" not in tag:
        pass  # the publisher zeroed the 21k head
    elif match := re.search(r"in(1|12|21)k$", tag):
        classes = f"imagenet{match[1]}k"
        changes["num_classes"] = CLASS_COUNTS[classes]
    elif "clip" in arch:  # the projection into the shared space, with a bias of zeros
        size = "plus" if "plus" in arch else SIZES[arch.split("_")[1]]
        changes["num_classes"] = EMBEDDINGS[size]
    hub = arch.replace("_quickgelu", "")
    return Checkpoint(
        name=name,
        format="timm",
        model=dataclasses.replace(base, **changes),  # type: ignore[arg-type]
        preprocess=preprocessing(base.image_size[0], mean, float(crop.removesuffix("s")), squash=crop.endswith("s")),
        licence=next((licence for word, licence in LICENCES if word in name), "Apache-2.0"),
        source="timm",
        trained_on=", then ".join(DATA[word] for word in re.findall("|".join(DATA), tag)),
        repo=f"timm/{hub}.{tag}",
        files=FILES,
        classes=classes,
        top1=round(float(top1[0]) / 100, 5) if top1 else None,
        top1_source=TOP1_SOURCE if top1 else "",
    )


TABLES = ((HALF_ROWS, HALF), (IMAGENET_ROWS, IMAGENET_MEAN), (CLIP_ROWS, CLIP_MEAN))
ROWS = tuple(_row(line, mean) for table, mean in TABLES for line in table.strip().splitlines())
