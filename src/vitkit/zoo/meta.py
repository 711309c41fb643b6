"""The originals of facebookresearch: DeiT, DeiT III, DINO, DINOv2 and MAE, as their READMEs and hub files link them.

Digests: DeiT's file names carry the start of their SHA-256, MAE's READMEs state the start of an MD5.
"""

from __future__ import annotations

from collections.abc import Iterator

from vitkit.zoo.record import IMAGENET_MEAN, Checkpoint, preprocessing, sized

__all__ = ["ROWS"]

FILES = "https://dl.fbaipublicfiles.com"
PLAIN: dict[str, object] = {"gelu": "erf", "position_rule": "bicubic"}
# name -> size, image, hash in the file's name, top-1 in percent
DEIT = {
    "deit_tiny_patch16_224": ("Ti", 224, "a1311bcf", 72.202), "deit_small_patch16_224": ("S", 224, "cd65a155", 79.854),
    "deit_base_patch16_224": ("B", 224, "b5f2ef4d", 81.846), "deit_base_patch16_384": ("B", 384, "8de9b5d1", 82.890),
    "deit_tiny_distilled_patch16_224": ("Ti", 224, "b40b3cf7", 74.476),
    "deit_small_distilled_patch16_224": ("S", 224, "649709d9", 81.164),
    "deit_base_distilled_patch16_224": ("B", 224, "df68dfff", 83.372),
    "deit_base_distilled_patch16_384": ("B", 384, "d0272ac0", 85.224),
}  # fmt: skip
# The safetensors form of the same tensors.
KNOWN = {"deit_tiny_patch16_224": ("95d022269f1c85aa09004d450ee6f2cf2b0eae4a6b8881c6de80758eab5b8118",)}
# name -> size, patch, image, top-1 in percent; _1k trained on ImageNet-1k, _21k before that on ImageNet-21k
DEIT3 = {
    "deit_3_small_224_1k": ("S", 16, 224, 81.4), "deit_3_small_384_1k": ("S", 16, 384, 83.4),
    "deit_3_medium_224_1k": ("M", 16, 224, None), "deit_3_base_224_1k": ("B", 16, 224, 83.8),
    "deit_3_base_384_1k": ("B", 16, 384, 85.0), "deit_3_large_224_1k": ("L", 16, 224, 84.9),
    "deit_3_large_384_1k": ("L", 16, 384, 85.8), "deit_3_huge_224_1k": ("H", 14, 224, 85.2),
    "deit_3_small_224_21k": ("S", 16, 224, 83.1), "deit_3_small_384_21k": ("S", 16, 384, 84.8),
    "deit_3_medium_224_21k": ("M", 16, 224, None), "deit_3_base_224_21k": ("B", 16, 224, 85.7),
    "deit_3_base_384_21k": ("B", 16, 384, 86.7), "deit_3_large_224_21k": ("L", 16, 224, 87.0),
    "deit_3_large_384_21k": ("L", 16, 384, 87.7), "deit_3_huge_224_21k_v1": ("H", 14, 224, 87.2),
}  # fmt: skip
DINO = {  # name in torch.hub -> size, patch, file
    "dino_vits16": ("S", 16, "dino_deitsmall16_pretrain"), "dino_vits8": ("S", 8, "dino_deitsmall8_pretrain"),
    "dino_vitb16": ("B", 16, "dino_vitbase16_pretrain"), "dino_vitb8": ("B", 8, "dino_vitbase8_pretrain"),
}  # fmt: skip
DINOV2 = {"s": "S", "b": "B", "l": "L", "g": "g-swiglu"}
# file -> size, patch, start of the MD5, top-1 in percent of the fine-tuned ones
MAE = {
    "pretrain/mae_pretrain_vit_base": ("B", 16, "8cad7c", None), "pretrain/mae_pretrain_vit_large": ("L", 16, "b8b06e", None),
    "pretrain/mae_pretrain_vit_huge": ("H", 14, "9bdbb0", None),
    "finetune/mae_finetuned_vit_base": ("B", 16, "1b25e9", 83.664),
    "finetune/mae_finetuned_vit_large": ("L", 16, "51f550", 85.952),
    "finetune/mae_finetuned_vit_huge": ("H", 14, "2541f2", 86.928),
}  # fmt: skip


def _crop(image: int) -> float:
    """The evaluation of all of them: short side 256/224 of the image's, rounded down, then the centre."""
    return image / (image * 256 // 224)


def _top1(percent: float | None, source: str) -> dict[str, object]:
    return {} if percent is None else {"top1": round(percent / 100, 5), "top1_source": source}


def _deit() -> Iterator[Checkpoint]:
    for name, (size, image, digest, top1) in DEIT.items():
        token: dict[str, object] = {"registers": 1, "distilled": True} if "distilled" in name else {}
        yield Checkpoint(
            name=name, format="timm", model=sized(size, 16, image, **PLAIN, **token),
            preprocess=preprocessing(image, IMAGENET_MEAN, _crop(image)), licence="Apache-2.0",
            source="facebookresearch/deit, arXiv 2012.12877", trained_on="ImageNet-1k",
            url=f"{FILES}/deit/{name}-{digest}.pth", classes="imagenet1k", sha256=KNOWN.get(name, ()), digest=f"sha256:{digest}",
            **_top1(top1, "README of facebookresearch/deit"),  # type: ignore[arg-type]
        )  # fmt: skip
    for name, (size, patch, image, rounded) in DEIT3.items():
        larger = "21k" in name
        yield Checkpoint(
            name=name, format="timm",
            model=sized(size, patch, image, **PLAIN, layer_scale=1e-6, prefix_positions="none"),
            preprocess=preprocessing(image, IMAGENET_MEAN, 1.0 if larger or image > 224 else 0.9), licence="Apache-2.0",
            source="facebookresearch/deit, arXiv 2204.07118",
            trained_on="ImageNet-21k, then ImageNet-1k" if larger else "ImageNet-1k",
            url=f"{FILES}/deit/{name}.pth", classes="imagenet1k",
            note="The crop is that of timm's evaluation; the publisher's page states none.",
            **_top1(rounded, "README_revenge of facebookresearch/deit"),  # type: ignore[arg-type]
        )  # fmt: skip


def _dino() -> Iterator[Checkpoint]:
    features = preprocessing(224, IMAGENET_MEAN, _crop(224))
    for name, (size, patch, file) in DINO.items():
        yield Checkpoint(
            name=name, format="timm",
            model=sized(size, patch, 224, **{**PLAIN, "position_rule": "bicubic_offset", "num_classes": 0}),
            preprocess=features, licence="Apache-2.0", source="facebookresearch/dino, arXiv 2104.14294",
            trained_on="ImageNet-1k without labels", url=f"{FILES}/dino/{file}/{file}.pth",
        )  # fmt: skip
    for registers in (0, 4):
        for letter, size in DINOV2.items():
            folder = f"dinov2_vit{letter}14"
            changes: dict[str, object] = {"position_rule": "bicubic_offset", "num_classes": 0, "layer_scale": 1e-5}
            if registers:
                changes |= {"registers": 4, "prefix_positions": "cls", "position_rule": "bicubic_antialias"}
            if size == "g-swiglu":
                changes["mlp"] = "swiglu"
            yield Checkpoint(
                name=f"{folder}_reg" if registers else folder, format="dinov2",
                model=sized(size, 14, 518, **{**PLAIN, **changes}), preprocess=features, licence="Apache-2.0",
                source="facebookresearch/dinov2, arXiv 2304.07193" + (" and 2309.16588" if registers else ""),
                trained_on="LVD-142M",
                url=f"{FILES}/dinov2/{folder}/{folder}_{'reg4_' if registers else ''}pretrain.pth",
            )  # fmt: skip


def _mae() -> Iterator[Checkpoint]:
    for path, (size, patch, digest, top1) in MAE.items():
        tuned = path.startswith("finetune")
        changes: dict[str, object] = {"pool": "mean", "norm_after_pool": True} if tuned else {"num_classes": 0}
        yield Checkpoint(
            name=path.split("/")[1], format="timm", model=sized(size, patch, 224, **PLAIN, **changes),
            preprocess=preprocessing(224, IMAGENET_MEAN, _crop(224)), licence="CC-BY-NC-4.0",
            source="facebookresearch/mae, arXiv 2111.06377",
            trained_on="ImageNet-1k without labels" + (", then ImageNet-1k" if tuned else ""),
            url=f"{FILES}/mae/{path}.pth", classes="imagenet1k" if tuned else None, digest=f"md5:{digest}",
            **_top1(top1, "FINETUNE.md of facebookresearch/mae"),  # type: ignore[arg-type]
        )  # fmt: skip


ROWS = (*_deit(), *_dino(), *_mae())
