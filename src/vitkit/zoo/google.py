"""Google's named files: the ViT paper's, SAM and GSAM (bucket vit_models), and big_vision's.

Sources: the listing of the buckets and both READMEs (VIT_SPEC 2.2 and 2.4); big_vision's short names, its FlexiViT page and its
configuration i1k_deit3_distill.
The files of "How to train your ViT" follow a naming rule: `augreg`.
"""

from __future__ import annotations

from vitkit.data.pixels import Preprocess
from vitkit.models.vit import ViTConfig
from vitkit.zoo.record import CLASS_COUNTS, HALF, Checkpoint, preprocessing, sized

__all__ = ["ROWS", "STEMS", "VIT_MODELS"]

VIT_MODELS = "https://storage.googleapis.com/vit_models"
BIG_VISION = "https://storage.googleapis.com/big_vision"
STEMS: dict[str, tuple[int, ...]] = {"R": (), "R26": (2, 2, 2, 2), "R50": (3, 4, 6, 3)}  # residual units per stage
PAPER = "google-research/vision_transformer, arXiv 2010.11929"
README = "README of google-research/vision_transformer"
ALIGNED = {"position_rule": "bilinear_align_corners", "gelu": "tanh"}  # as the official code

# folder/file -> image size, published top-1 in percent
ORIGINAL = {
    "imagenet21k/R26+ViT-B_32": (224, None), "imagenet21k/R50+ViT-B_16": (224, None),
    "imagenet21k/R50+ViT-L_32": (224, None), "imagenet21k/ViT-B_8": (224, None),
    "imagenet21k/ViT-B_16": (224, None), "imagenet21k/ViT-B_32": (224, None),
    "imagenet21k/ViT-L_16": (224, None), "imagenet21k/ViT-L_32": (224, None), "imagenet21k/ViT-H_14": (224, None),
    "imagenet21k+imagenet2012/R50+ViT-B_16": (384, None), "imagenet21k+imagenet2012/ViT-B_8": (384, None),
    "imagenet21k+imagenet2012/ViT-B_16-224": (224, 81.2), "imagenet21k+imagenet2012/ViT-B_16": (384, None),
    "imagenet21k+imagenet2012/ViT-B_32": (384, None), "imagenet21k+imagenet2012/ViT-L_16-224": (224, 82.7),
    "imagenet21k+imagenet2012/ViT-L_16": (384, None), "imagenet21k+imagenet2012/ViT-L_32": (384, None),
    "sam/ViT-S_16": (224, None), "sam/ViT-B_16": (224, None), "sam/ViT-B_32": (224, None),
    "sam/ViT-L_16": (224, None), "sam/ViT-L_32": (224, None),
    "gsam/ViT-S_16-gap-norep": (224, None), "gsam/ViT-S_32-gap-norep": (224, None),
    "gsam/ViT-B_16-gap-norep": (224, None), "gsam/ViT-B_32-gap-norep": (224, None),
}  # fmt: skip
FOLDERS = {
    "imagenet21k": ("ImageNet-21k", PAPER, "imagenet21k"),
    "imagenet21k+imagenet2012": ("ImageNet-21k, then ImageNet-1k", PAPER, "imagenet1k"),
    "sam": ("ImageNet-1k", "google-research/vision_transformer, arXiv 2106.01548", "imagenet1k"),
    "gsam": ("ImageNet-1k", "google-research/vision_transformer, arXiv 2203.08065", "imagenet1k"),
}
NOTES = {
    "imagenet21k": "The 21,843-way head in the file is all zeros: these weights give features.",
    "sam/ViT-S_16": "The file also holds the optimiser's state.",
}


def _original(path: str, image: int, top1: float | None) -> Checkpoint:
    folder, stem = path.split("/")
    trained_on, source, classes = FOLDERS[folder]
    resnet, _, plain = stem.rpartition("+")
    size, patch = plain.removeprefix("ViT-").split("-")[0].split("_")
    changes: dict[str, object] = {**ALIGNED, "num_classes": CLASS_COUNTS[classes]}
    if resnet:
        units = (3, 4, 9) if patch == "16" else STEMS[resnet]
        changes |= {"stem": units, "patch_size": (1, 1)}
    if plain.endswith("-gap-norep"):
        changes |= {"cls_token": False, "pool": "mean"}
    model = sized(size, int(patch), image, **changes)
    if folder == "imagenet21k":
        model = sized(size, int(patch), image, **changes, representation_size=model.embed_dim)
    return Checkpoint(
        name=path,
        format="google",
        model=model,
        preprocess=preprocessing(image, HALF, 1.0, "bilinear", squash=True),  # as vit_jax evaluates
        licence="Apache-2.0",
        source=source,
        trained_on=trained_on,
        url=f"{VIT_MODELS}/{path}.npz",
        classes=None if folder == "imagenet21k" else classes,
        top1=None if top1 is None else top1 / 100,
        top1_source="" if top1 is None else README,
        note=NOTES.get(path, NOTES.get(folder, "")),
    )


BETTER = "google-research/big_vision, arXiv 2205.01580"
FLEXI = "google-research/big_vision, arXiv 2212.08013"
# file below flexivit/: size, patch and image size as stored, class set
FLEXIVIT = {
    "flexivit_s_i1k": ("S", 32, 224, "imagenet1k"), "flexivit_s_i1k_600ep": ("S", 32, 224, "imagenet1k"),
    "flexivit_s_i1k_300ep": ("S", 32, 224, "imagenet1k"), "flexivit_s_i1k_90ep": ("S", 32, 224, "imagenet1k"),
    "flexivit_b_i1k": ("B", 32, 224, "imagenet1k"), "flexivit_b_i1k_600ep": ("B", 32, 224, "imagenet1k"),
    "flexivit_b_i1k_300ep": ("B", 32, 224, "imagenet1k"), "flexivit_b_i1k_90ep": ("B", 32, 224, "imagenet1k"),
    "flexivit_l_i1k": ("L", 32, 224, "imagenet1k"), "flexivit_l_i1k_600ep": ("L", 32, 224, "imagenet1k"),
    "flexivit_l_i1k_300ep": ("L", 32, 224, "imagenet1k"), "flexivit_l_i1k_90ep": ("L", 32, 224, "imagenet1k"),
    "flexivit_b_i21k_90ep": ("B", 32, 224, "imagenet21k"), "flexivit_b_i21k_300ep": ("B", 32, 224, "imagenet21k"),
    "flexivit_b_i21k_1000ep": ("B", 32, 224, "imagenet21k"),
    "vit_b16_i21k_300ep": ("B", 16, 240, "imagenet21k"), "vit_b30_i21k_300ep": ("B", 30, 240, "imagenet21k"),
}  # fmt: skip
FLEXI_NOTE = (
    "One file for patches of 8 to 48 pixels at 240 pixels; stored at 32 and 7x7 positions, run here at 16. "
    "Say patch_size=... for another."
)


def _big_vision(path: str, alias: str, model: ViTConfig, **fields: object) -> Checkpoint:
    return Checkpoint(
        name=f"big_vision/{path.rsplit('/')[-1]}",
        format="big_vision",
        model=model,
        licence="Apache-2.0",
        url=f"{BIG_VISION}/{path}.npz",
        aliases=(alias,) if alias else (),
        **fields,  # type: ignore[arg-type]
    )


def _better() -> list[Checkpoint]:
    changes = {**ALIGNED, "cls_token": False, "pool": "mean", "position": "sincos2d", "prefix_positions": "none"}
    model = sized("S", 16, 224, **changes, representation_size=384)
    return [
        _big_vision(
            f"vit_s16_i1k_{epochs}ep", f"i1k-s16-{epochs}ep", model,
            preprocess=preprocessing(224, HALF, 0.875, "bilinear"), source=BETTER, trained_on="ImageNet-1k",
            classes="imagenet1k", top1=top1, top1_source="arXiv 2205.01580",
        )
        for epochs, top1 in ((90, 0.765), (150, 0.785), (300, 0.800))
    ]  # fmt: skip


def _eight_sevenths(image: int) -> Preprocess:
    """big_vision's evaluation of FlexiViT and of its DeiT III teachers: squash to 8/7 of the size, then crop."""
    return preprocessing(image, HALF, image / (image // 7 * 8), "bilinear", squash=True)


def _flexivit() -> list[Checkpoint]:
    rows = []
    for stem, (size, patch, image, classes) in FLEXIVIT.items():
        flexible = stem.startswith("flexi")
        rule = {"position_rule": "bilinear_antialias" if flexible else "bilinear_align_corners", "gelu": "tanh"}
        rows.append(
            _big_vision(
                f"flexivit/{stem}", "",
                sized(size, patch, image, **rule, prefix_positions="none", num_classes=CLASS_COUNTS[classes]),
                preprocess=_eight_sevenths(240), source=FLEXI,
                trained_on={"imagenet1k": "ImageNet-1k", "imagenet21k": "ImageNet-21k"}[classes], classes=classes,
                patch_size=(16, 16) if flexible else None, note=FLEXI_NOTE if flexible else "",
            )
        )  # fmt: skip
    return rows


def _deit3() -> list[Checkpoint]:
    rows = []
    for word in ("small", "base", "large"):
        size = word[0].upper()
        model = {image: sized(size, 16, image, **ALIGNED, prefix_positions="none") for image in (224, 384)}
        for image in (224, 384):
            for data, trained_on in (("1k", "ImageNet-1k"), ("21k", "ImageNet-21k, then ImageNet-1k")):
                rows.append(
                    _big_vision(
                        f"zoo/deit3/bv_deit_3_{word}_{image}_{data}", f"deit3_{size}_{image}_{data}", model[image],
                        preprocess=_eight_sevenths(image),
                        source="google-research/big_vision, from facebookresearch/deit, arXiv 2204.07118",
                        trained_on=trained_on, classes="imagenet1k",
                        note="Converted from DeiT III for images in [-1, 1].",
                    )
                )  # fmt: skip
    return rows


ROWS = (*(_original(path, *told) for path, told in ORIGINAL.items()), *_better(), *_flexivit(), *_deit3())
