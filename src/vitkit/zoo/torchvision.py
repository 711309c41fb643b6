"""torchvision's ``vit_*`` weights, by the names of its weight enumerations.

Source: the enumerations of torchvision.models.vision_transformer. File names carry the start of their SHA-256.
"""

from __future__ import annotations

from vitkit.zoo.record import IMAGENET_MEAN, Checkpoint, preprocessing, sized

__all__ = ["ROWS"]

SWAG = "facebookresearch/SWAG, arXiv 2201.08371"
# enumeration and member -> file, size, patch, image, side of the resized image, top-1 in percent
WEIGHTS = {
    "ViT_B_16_Weights.IMAGENET1K_V1": ("vit_b_16-c867db91", "B", 16, 224, 256, 81.072),
    "ViT_B_32_Weights.IMAGENET1K_V1": ("vit_b_32-d86f8d99", "B", 32, 224, 256, 75.912),
    "ViT_L_16_Weights.IMAGENET1K_V1": ("vit_l_16-852ce7e3", "L", 16, 224, 242, 79.662),
    "ViT_L_32_Weights.IMAGENET1K_V1": ("vit_l_32-c7638314", "L", 32, 224, 256, 76.972),
    "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1": ("vit_b_16_swag-9ac1b537", "B", 16, 384, 384, 85.304),
    "ViT_L_16_Weights.IMAGENET1K_SWAG_E2E_V1": ("vit_l_16_swag-4f3808c9", "L", 16, 512, 512, 88.064),
    "ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1": ("vit_h_14_swag-80465313", "H", 14, 518, 518, 88.552),
    "ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1": ("vit_b_16_lc_swag-4e70ced5", "B", 16, 224, 224, 81.886),
    "ViT_L_16_Weights.IMAGENET1K_SWAG_LINEAR_V1": ("vit_l_16_lc_swag-4d563306", "L", 16, 224, 224, 85.146),
    "ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1": ("vit_h_14_lc_swag-c1eb923e", "H", 14, 224, 224, 85.708),
}  # fmt: skip


def _row(name: str, file: str, size: str, patch: int, image: int, resize: int, top1: float) -> Checkpoint:
    swag = "SWAG" in name
    return Checkpoint(
        name=name,
        format="torchvision",
        model=sized(size, patch, image, gelu="erf", position_rule="bicubic_align_corners"),
        preprocess=preprocessing(image, IMAGENET_MEAN, image / resize, "bicubic" if swag else "bilinear"),
        licence="CC-BY-NC-4.0" if swag else "unstated",
        source=f"torchvision, from {SWAG}" if swag else "torchvision",
        trained_on="Instagram images with hashtags, then ImageNet-1k" if swag else "ImageNet-1k",
        url=f"https://download.pytorch.org/models/{file}.pth",
        classes="imagenet1k",
        top1=round(top1 / 100, 5),
        top1_source="torchvision's table of weights",
        digest=f"sha256:{file.rsplit('-', 1)[1]}",
        note="" if swag else "torchvision's code is BSD-3-Clause; of these weights it states no licence.",
    )


ROWS = tuple(_row(name, *told) for name, told in WEIGHTS.items())
