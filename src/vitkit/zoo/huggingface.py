"""Repositories of the Hugging Face hub in the layouts of transformers.

Sources: the hub's config.json and preprocessor_config.json as public audits of transformers' families quote them, transformers'
conversion scripts and class defaults; position rules from transformers' own code. Top-1 of facebook/deit-*: facebookresearch/deit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from vitkit.zoo.record import CLIP_MEAN, HALF, IMAGENET_MEAN, Checkpoint, preprocessing, sized

__all__ = ["ROWS"]

FILES = ("model.safetensors", "pytorch_model.bin")
PLAIN: dict[str, object] = {"gelu": "erf", "norm_eps": 1e-12, "position_rule": "bicubic", "num_classes": 0}
# repository -> size, patch, image
GOOGLE_VIT = {
    "google/vit-base-patch16-224": ("B", 16, 224), "google/vit-base-patch16-384": ("B", 16, 384),
    "google/vit-base-patch32-384": ("B", 32, 384), "google/vit-large-patch16-224": ("L", 16, 224),
    "google/vit-large-patch16-384": ("L", 16, 384), "google/vit-large-patch32-384": ("L", 32, 384),
    "google/vit-base-patch16-224-in21k": ("B", 16, 224), "google/vit-base-patch32-224-in21k": ("B", 32, 224),
    "google/vit-large-patch16-224-in21k": ("L", 16, 224), "google/vit-large-patch32-224-in21k": ("L", 32, 224),
    "google/vit-huge-patch14-224-in21k": ("H", 14, 224),
}  # fmt: skip
# repository -> size, image, top-1 in percent
DEIT = {
    "facebook/deit-tiny-patch16-224": ("Ti", 224, 72.2), "facebook/deit-small-patch16-224": ("S", 224, 79.9),
    "facebook/deit-base-patch16-224": ("B", 224, 81.8), "facebook/deit-base-patch16-384": ("B", 384, 82.9),
    "facebook/deit-tiny-distilled-patch16-224": ("Ti", 224, 74.5),
    "facebook/deit-small-distilled-patch16-224": ("S", 224, 81.2),
    "facebook/deit-base-distilled-patch16-224": ("B", 224, 83.4),
    "facebook/deit-base-distilled-patch16-384": ("B", 384, 85.2),
}  # fmt: skip
DEIT_NOTE = (
    "The repository's preprocessing squashes and uses mean and std 0.5, and is followed here; the weights were trained, and their "
    "top-1 measured, with ImageNet's mean and std and a centre crop (timm's deit_* rows have that)."
)
DINO = {
    "facebook/dino-vits16": ("S", 16), "facebook/dino-vits8": ("S", 8),
    "facebook/dino-vitb16": ("B", 16), "facebook/dino-vitb8": ("B", 8),
}  # fmt: skip
MAE = {"facebook/vit-mae-base": ("B", 16), "facebook/vit-mae-large": ("L", 16), "facebook/vit-mae-huge": ("H", 14)}
DINOV2 = {"small": "S", "base": "B", "large": "L", "giant": "g-swiglu"}
# repository -> size, patch, image, width of the shared space
CLIP = {
    "openai/clip-vit-base-patch32": ("B", 32, 224, 512), "openai/clip-vit-base-patch16": ("B", 16, 224, 512),
    "openai/clip-vit-large-patch14": ("L", 14, 224, 768), "openai/clip-vit-large-patch14-336": ("L", 14, 336, 768),
}  # fmt: skip
SIGLIP = {
    "google/siglip-base-patch16-224": ("B", 16, 224), "google/siglip-base-patch16-256": ("B", 16, 256),
    "google/siglip-base-patch16-384": ("B", 16, 384), "google/siglip-base-patch16-512": ("B", 16, 512),
    "google/siglip-base-patch16-256-multilingual": ("B", 16, 256),
    "google/siglip-large-patch16-256": ("L", 16, 256), "google/siglip-large-patch16-384": ("L", 16, 384),
    "google/siglip-so400m-patch14-224": ("So400m", 14, 224), "google/siglip-so400m-patch14-384": ("So400m", 14, 384),
    "google/siglip2-base-patch16-224": ("B", 16, 224), "google/siglip2-base-patch16-256": ("B", 16, 256),
    "google/siglip2-base-patch16-384": ("B", 16, 384), "google/siglip2-base-patch16-512": ("B", 16, 512),
    "google/siglip2-large-patch16-256": ("L", 16, 256), "google/siglip2-so400m-patch14-224": ("So400m", 14, 224),
    "google/siglip2-so400m-patch14-384": ("So400m", 14, 384), "google/siglip2-so400m-patch16-256": ("So400m", 16, 256),
    "google/siglip2-so400m-patch16-384": ("So400m", 16, 384), "google/siglip2-so400m-patch16-512": ("So400m", 16, 512),
    "google/siglip2-giant-opt-patch16-256": ("g-opt", 16, 256), "google/siglip2-giant-opt-patch16-384": ("g-opt", 16, 384),
}  # fmt: skip


def _row(repo: str, **fields: object) -> Checkpoint:
    return Checkpoint(**{"name": repo, "repo": repo, "files": FILES, "licence": "Apache-2.0", **fields})  # type: ignore[arg-type]


def _google_vit() -> Iterator[Checkpoint]:
    for repo, (size, patch, image) in GOOGLE_VIT.items():
        model = sized(size, patch, image, **PLAIN)
        pretrained = repo.endswith("in21k")
        if pretrained:
            model = dataclasses.replace(model, representation_size=model.embed_dim)
        else:
            model = dataclasses.replace(model, num_classes=1000)
        yield _row(
            repo, format="huggingface_vit", model=model, preprocess=preprocessing(image, HALF, 1.0, "bilinear", squash=True),
            source="google-research/vision_transformer, arXiv 2010.11929",
            trained_on="ImageNet-21k" if pretrained else "ImageNet-21k, then ImageNet-1k",
            classes=None if pretrained else "imagenet1k",
        )  # fmt: skip


def _deit() -> Iterator[Checkpoint]:
    for repo, (size, image, top1) in DEIT.items():
        distilled = "distilled" in repo
        token: dict[str, object] = {"registers": 1, "distilled": True} if distilled else {}
        crop = image / (image * 256 // 224)
        yield _row(
            repo, format="huggingface_vit", model=sized(size, 16, image, **{**PLAIN, "num_classes": 1000}, **token),
            preprocess=preprocessing(image, IMAGENET_MEAN, crop, squash=True)
            if distilled
            else preprocessing(image, HALF, 1.0, "bilinear", squash=True),
            source="facebookresearch/deit, arXiv 2012.12877", trained_on="ImageNet-1k", classes="imagenet1k",
            top1=round(top1 / 100, 5), top1_source="README of facebookresearch/deit", note="" if distilled else DEIT_NOTE,
        )  # fmt: skip


def _self_supervised() -> Iterator[Checkpoint]:
    squashed = preprocessing(224, IMAGENET_MEAN, 1.0, "bilinear", squash=True)
    for repo, (size, patch) in DINO.items():
        yield _row(
            repo, format="huggingface_vit", model=sized(size, patch, 224, **PLAIN), preprocess=squashed,
            source="facebookresearch/dino, arXiv 2104.14294", trained_on="ImageNet-1k without labels",
        )  # fmt: skip
    for repo, (size, patch) in MAE.items():
        yield _row(
            repo, format="huggingface_vit", model=sized(size, patch, 224, **PLAIN), preprocess=squashed,
            source="facebookresearch/mae, arXiv 2111.06377", trained_on="ImageNet-1k without labels",
            note="The encoder; the decoder in the file is not used.",
        )  # fmt: skip
    for registers in (0, 4):
        for word, size in DINOV2.items():
            changes: dict[str, object] = {"norm_eps": 1e-6, "layer_scale": 1.0, "registers": registers}
            if registers:
                changes |= {"prefix_positions": "cls", "position_rule": "bicubic_antialias"}
            if size == "g-swiglu":
                changes["mlp"] = "swiglu"
            yield _row(
                f"facebook/dinov2-{'with-registers-' if registers else ''}{word}", format="huggingface_dinov2",
                model=sized(size, 14, 518, **{**PLAIN, **changes}), preprocess=preprocessing(224, IMAGENET_MEAN, 0.875),
                source="facebookresearch/dinov2, arXiv 2304.07193" + (" and 2309.16588" if registers else ""),
                trained_on="LVD-142M",
            )  # fmt: skip


def _image_text() -> Iterator[Checkpoint]:
    for repo, (size, patch, image, width) in CLIP.items():
        changes: dict[str, object] = {
            "gelu": "quick", "norm_eps": 1e-5, "pre_norm": True, "patch_bias": False, "head_bias": False, "num_classes": width,
        }  # fmt: skip
        yield _row(
            repo, format="huggingface_clip", model=sized(size, patch, image, **{**PLAIN, **changes}),
            preprocess=preprocessing(image, CLIP_MEAN, 1.0), licence="MIT",
            source="openai/CLIP, arXiv 2103.00020", trained_on="OpenAI's WIT-400M",
        )  # fmt: skip
    for repo, (size, patch, image) in SIGLIP.items():
        second = "siglip2" in repo
        changes = {"gelu": "tanh", "norm_eps": 1e-6, "cls_token": False, "pool": "map"}
        yield _row(
            repo, format="huggingface_clip", model=sized(size, patch, image, **{**PLAIN, **changes}),
            preprocess=preprocessing(image, HALF, 1.0, "bilinear" if second else "bicubic", squash=True),
            source=f"google-research/big_vision, arXiv {'2502.14786' if second else '2303.15343'}", trained_on="WebLI",
        )  # fmt: skip


ROWS = (*_google_vit(), *_deit(), *_self_supervised(), *_image_text())
