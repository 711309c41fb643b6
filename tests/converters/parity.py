"""What is compared with other libraries' models: one row each, read by the tests and by the page that lists them.

Every row is built small with random weights, in float32, and compared at a size that is not a square.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ROWS", "Row"]


class Row(NamedTuple):
    """One model of another library, and the layout that its weights are read from and written in."""

    family: str
    library: str  # timm | open_clip
    model: str  # the library's name for it
    arguments: dict[str, Any]  # that make it small, beside the image size
    image_size: tuple[int, int]
    format: str = (
        "timm"  # a module of vitkit.converters; where it is not the library's own layout, the library converts it
    )


SMALL = {"embed_dim": 64, "depth": 3, "num_heads": 4, "num_classes": 11}
TALL, WIDE = (112, 80), (64, 96)
LARGE_PATCH = (84, 70)  # of patches of 14

ROWS = (
    Row("ViT (AugReg, original, SAM, in21k)", "timm", "vit_base_patch16_224", SMALL, WIDE),
    Row("ViT, patches of 32", "timm", "vit_large_patch32_384", SMALL, (96, 160)),
    Row("ViT, one channel", "timm", "vit_tiny_patch16_224", {**SMALL, "in_chans": 1}, TALL),
    Row("ViT without biases of q, k and v (MIIL)", "timm", "vit_base_patch16_224_miil", SMALL, WIDE),
    Row("ViT without head (DINO, MAE)", "timm", "vit_small_patch16_224", {**SMALL, "num_classes": 0}, TALL),
    Row("ViT, wide MLP (giant)", "timm", "vit_giant_patch14_224", {**SMALL, "embed_dim": 88}, LARGE_PATCH),
    Row("ViT with layer scale (36x1)", "timm", "vit_small_patch16_36x1_224", SMALL, WIDE),
    Row("SigLIP image tower", "timm", "vit_base_patch16_siglip_224", SMALL, TALL),
    Row("FlexiViT", "timm", "flexivit_small", SMALL, WIDE),
    Row("DeiT", "timm", "deit_tiny_patch16_224", SMALL, TALL),
    Row("DeiT, distilled", "timm", "deit_tiny_distilled_patch16_224", SMALL, WIDE),
    Row("DeiT III", "timm", "deit3_small_patch16_224", SMALL, TALL),
    Row("Mean pooling, norm after it (MAE fine-tuned, EVA students)", "timm", "eva_large_patch14_196", SMALL, LARGE_PATCH),
    Row("Mean pooling, norm before it (gap)", "timm", "vit_medium_patch16_gap_256", SMALL, WIDE),
    Row("Mean pooling, 16 heads (I-JEPA)", "timm", "vit_base_patch16_gap_224", {**SMALL, "num_heads": 16}, TALL),
    Row("Registers, mean pooling", "timm", "vit_medium_patch16_reg4_gap_256", SMALL, TALL),
    Row("Registers with positions", "timm", "vit_so150m_patch16_reg4_gap_256", SMALL, WIDE),
    Row("Registers, attention pooling", "timm", "vit_so150m_patch16_reg4_map_256", SMALL, TALL),
    Row("DINOv2", "timm", "vit_small_patch14_dinov2", {**SMALL, "num_classes": 0}, LARGE_PATCH),
    Row("DINOv2 with registers", "timm", "vit_small_patch14_reg4_dinov2", {**SMALL, "num_classes": 0}, LARGE_PATCH),
    Row("DINOv2 giant (SwiGLU)", "timm", "vit_giant_patch14_dinov2", {**SMALL, "embed_dim": 96}, LARGE_PATCH),
    Row("CLIP image tower (LAION)", "timm", "vit_base_patch16_clip_224", SMALL, TALL),
    Row("CLIP image tower, quick GELU (OpenAI, DFN)", "timm", "vit_base_patch16_clip_quickgelu_224", SMALL, WIDE),
    Row("SigLIP 2 image tower, tanh GELU", "timm", "vit_so400m_patch16_siglip_256", {**SMALL, "num_classes": 0}, TALL),
    Row("SigLIP image tower, mean pooling", "timm", "vit_so400m_patch14_siglip_gap_224", SMALL, LARGE_PATCH),
    Row("R+ViT-Ti/16", "timm", "vit_tiny_r_s16_p8_224", SMALL, (96, 160)),
    Row("R26+ViT-S/32", "timm", "vit_small_r26_s32_224", SMALL, (96, 160)),
    Row("R50+ViT-B/16", "timm", "vit_base_r50_s16_224", SMALL, WIDE),
    Row("R50+ViT-L/32", "timm", "vit_large_r50_s32_224", SMALL, (96, 160)),
    # layouts that timm converts itself: an independent reading of the same file
    Row("DINOv2, original files", "timm", "vit_small_patch14_dinov2", {**SMALL, "num_classes": 0}, LARGE_PATCH, "dinov2"),
    Row(
        "DINOv2 with registers, original files",
        *("timm", "vit_small_patch14_reg4_dinov2", {**SMALL, "num_classes": 0}, LARGE_PATCH, "dinov2"),
    ),
    Row(
        "DINOv2 giant with registers (SwiGLU), original files",
        *("timm", "vit_giant_patch14_reg4_dinov2", {**SMALL, "embed_dim": 96, "num_classes": 0}, LARGE_PATCH, "dinov2"),
    ),
    Row("OpenAI CLIP files, read by timm", "timm", "vit_base_patch16_clip_quickgelu_224", SMALL, TALL, "open_clip"),
    Row(
        "CLIP, quick GELU (OpenAI)",
        *("open_clip", "CLIP", {"quick_gelu": True, "vision_cfg": {"layers": 3, "width": 128, "patch_size": 16}}),
        *(TALL, "open_clip"),
    ),
    Row(
        "CLIP, exact GELU (LAION)",
        *("open_clip", "CLIP", {"vision_cfg": {"layers": 3, "width": 128, "patch_size": 16, "head_width": 32}}),
        *(WIDE, "open_clip"),
    ),
    Row(
        "CLIP with layer scale",
        *("open_clip", "CLIP", {"vision_cfg": {"layers": 2, "width": 64, "patch_size": 16, "ls_init_value": 1e-4}}),
        *(WIDE, "open_clip"),
    ),
    Row(
        "CLIPA (mean pooling)",
        "open_clip",
        "CLIP",
        {
            "vision_cfg": {
                **{"layers": 2, "width": 128, "patch_size": 14, "head_width": 32, "mlp_ratio": 3.0},
                **{"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
            }
        },
        LARGE_PATCH,
        "open_clip",
    ),
)  # fmt: skip
