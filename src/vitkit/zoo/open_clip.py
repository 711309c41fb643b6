"""Image towers of OpenCLIP's own checkpoints on the Hugging Face hub.

Source: open_clip's table of pretrained tags and its model configurations.
"""

from __future__ import annotations

from vitkit.zoo.record import CLIP_MEAN, HALF, Checkpoint, preprocessing, sized

__all__ = ["ROWS"]

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# OpenCLIP's name and tag -> repository, size, patch, image, width of the shared space
TOWERS = {
    "ViT-B-32/laion2b_s34b_b79k": ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "B", 32, 224, 512),
    "ViT-B-32/datacomp_xl_s13b_b90k": ("laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", "B", 32, 224, 512),
    "ViT-B-32-256/datacomp_s34b_b86k": ("laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", "B", 32, 256, 512),
    "ViT-B-16/laion2b_s34b_b88k": ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "B", 16, 224, 512),
    "ViT-B-16/datacomp_xl_s13b_b90k": ("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", "B", 16, 224, 512),
    "ViT-L-14/laion2b_s32b_b82k": ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "L", 14, 224, 768),
    "ViT-L-14/datacomp_xl_s13b_b90k": ("laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "L", 14, 224, 768),
    "ViT-H-14/laion2b_s32b_b79k": ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "H", 14, 224, 1024),
    "ViT-g-14/laion2b_s34b_b88k": ("laion/CLIP-ViT-g-14-laion2B-s34B-b88K", "g", 14, 224, 1024),
    "ViT-bigG-14/laion2b_s39b_b160k": ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", "G", 14, 224, 1280),
}  # fmt: skip


def _row(name: str, repo: str, size: str, patch: int, image: int, width: int) -> Checkpoint:
    mean = HALF if name == "ViT-L-14/laion2b_s32b_b82k" else CLIP_MEAN
    return Checkpoint(
        name=f"open_clip/{name}",
        format="open_clip",
        model=sized(
            size, patch, image, gelu="erf", norm_eps=1e-5, position_rule="bicubic_antialias", pre_norm=True,
            patch_bias=False, head_bias=False, num_classes=width,
        ),
        preprocess=preprocessing(image, mean, 1.0),
        licence="MIT",
        source="mlfoundations/open_clip, arXiv 2212.07143",
        trained_on="LAION-2B" if "laion2b" in name else "DataComp-XL",
        repo=repo,
        files=FILES,
    )  # fmt: skip


ROWS = tuple(_row(name, *told) for name, told in TOWERS.items())
