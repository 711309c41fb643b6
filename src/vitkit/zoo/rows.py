"""What is known of published checkpoints: one row each."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ROWS", "Checkpoint"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Checkpoint:
    """A published file: how to recognise it, how its images are prepared, and on what terms it may be used."""

    name: str  # also the file stem it is published under
    format: str  # a module of vitkit.converters
    parameters: int
    sha256: tuple[str, ...]  # of files known to be this checkpoint
    preprocess: dict[str, object]  # fields of Preprocess
    licence: str
    source: str
    trained_on: str
    model: dict[str, object] = field(default_factory=dict)  # fields of ViTConfig that the file does not tell


ROWS = (
    Checkpoint(
        name="deit_tiny_patch16_224",
        format="timm",
        parameters=5_717_416,
        sha256=("95d022269f1c85aa09004d450ee6f2cf2b0eae4a6b8881c6de80758eab5b8118",),
        # facebookresearch/deit, eval transform: short side 256 bicubic, centre crop 224
        preprocess={
            "image_size": (224, 224),
            "fit": "crop",
            "crop_fraction": 0.875,
            "interpolation": "bicubic",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        },
        licence="Apache-2.0",
        source="facebookresearch/deit, arXiv 2012.12877",
        trained_on="ImageNet-1k",
        model={"num_heads": 3},
    ),
)
