"""preprocessor_config.json of transformers read and written, and its image processors' pixels against ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from converters.huggingface_models import quiet
from vitkit.config import UserError
from vitkit.converters.huggingface_images import CLIP_MEAN, CLIP_STD, DEFAULTS, read_preprocess, write_preprocess
from vitkit.data.pixels import Preprocess, prepare

CLIP = (tuple(CLIP_MEAN), tuple(CLIP_STD))
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
MEANS = {"image_mean": IMAGENET[0], "image_std": IMAGENET[1]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # google/vit-base-patch16-224, older and newer
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, Preprocess((224, 224), "squash", 1.0, "bilinear")),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"height": 96, "width": 160}, "resample": 3},
            Preprocess((96, 160), "squash", 1.0, "bicubic"),
        ),
        ({"do_normalize": False}, Preprocess((224, 224), "squash", 1.0, "bilinear", (0.0,) * 3, (1.0,) * 3)),
        # openai/clip-vit-base-patch32
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224}, Preprocess((224, 224), "crop", 1.0, "bicubic", *CLIP)),
        ({"image_processor_type": "CLIPImageProcessorFast"}, Preprocess((224, 224), "crop", 1.0, "bicubic", *CLIP)),
        # facebook/dinov2-base
        (
            {
                **{"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, **MEANS},
                "crop_size": {"height": 224, "width": 224},
            },
            Preprocess((224, 224), "crop", 0.875, "bicubic", *(tuple(x) for x in IMAGENET)),
        ),
        # facebook/deit-base-distilled-patch16-224: the whole image to 256x256, then its centre
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, **MEANS},
            Preprocess((224, 224), "squash_crop", 0.875, "bicubic", *(tuple(x) for x in IMAGENET)),
        ),
        ({"image_processor_type": "DeiTImageProcessor", "size": 224}, Preprocess((224, 224), "squash", 1.0, "bicubic")),
        ({"image_processor_type": "SiglipImageProcessor", "size": [384, 384]}, Preprocess((384, 384), "squash", 1.0, "bicubic")),
    ],
)  # fmt: skip
def test_files_as_they_are_on_the_hub(values: dict[str, Any], expected: Preprocess) -> None:
    assert read_preprocess(values, "ViT") == expected


def test_the_family_stands_in_for_a_processor_without_a_name() -> None:
    assert read_preprocess({}, "CLIP") == Preprocess((224, 224), "crop", 1.0, "bicubic", *CLIP)
    assert read_preprocess({}, "ViT").fit == "squash"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "prepared by ConvNextImageProcessor; known: ViT, DeiT"),
        ({"do_resize": False}, "do_resize is False"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"do_pad": True}, "do_pad is True"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"rescale_factor": 1 / 127.5}, r"rescale_factor is 0\.0078.*1/255 only"),
        ({"resample": 1}, r"resample is 1; .*2 \(bilinear\) and 3"),
        ({"image_mean": 0.5}, "image_mean is 0.5"),
        ({"image_std": ["a"]}, r"image_std is \['a'\]; one number per channel"),
        ({"image_std": [0.5, 0.5, 0]}, "std above 0"),
        ({"size": {"shortest_edge": 224}}, "the shorter side is resized to 224 and nothing is cut"),
        ({"size": {"shortest_edge": 224, "longest_edge": 500}}, "size is .*height and width, or shortest_edge"),
        ({"size": {"height": 224}}, "size is .*height and width, or shortest_edge"),
        ({"size": {"height": "a", "width": 2}}, "size is "),
        ({"size": [224]}, r"size is \[224\]"),
        ({"size": 224, "do_center_crop": True, "crop_size": 256}, r"a crop of \(256, 256\) from .*\(224, 224\)"),
        ({"size": 256, "do_center_crop": True, "crop_size": [224, 128]}, "not one fraction of both sides"),
        ({"size": 256, "do_center_crop": True, "crop_size": {"shortest_edge": 3}}, "crop_size is .*height and width"),
        ({"size": {"shortest_edge": 9}, "do_center_crop": True, "crop_size": [9, 8]}, "is not square"),
    ],
)  # fmt: skip
def test_steps_that_vitkit_does_not_have_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_preprocess(values, "ViT")


@pytest.mark.parametrize(
    "record",
    [
        Preprocess((32, 32), "squash", 1.0, "bilinear"),
        Preprocess((24, 40), "squash", 1.0, "bicubic", *CLIP),
        Preprocess((28, 28), "crop", 0.875, "bicubic", *CLIP),
        Preprocess((28, 28), "squash_crop", 0.875, "bicubic"),
    ],
)
def test_a_record_is_written_and_read_back(record: Preprocess) -> None:
    written = json.loads(json.dumps(write_preprocess(record)))
    assert read_preprocess(written, "ViT") == record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Preprocess((32, 32), "pad"), "cannot express fit='pad'"),
        (Preprocess((32, 48), "crop"), "cannot express fit='crop' at 32x48"),
        (Preprocess((32, 32), mean=(0.5,), std=(0.5,)), "these have 1 channels"),
    ],
)
def test_a_record_that_no_processor_has_is_refused(record: Preprocess, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_preprocess(record)


def photo(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    fine = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth // 2 + fine).astype(np.uint8))


RECORDS = [
    Preprocess((32, 32), "squash", 1.0, "bilinear"),
    Preprocess((24, 40), "squash", 1.0, "bicubic", *CLIP),
    Preprocess((32, 32), "crop", 1.0, "bicubic", *CLIP),
    Preprocess((28, 28), "crop", 0.875, "bilinear"),
    Preprocess((28, 28), "squash_crop", 0.875, "bicubic"),
]
SIZES = [(64, 64), (100, 80), (75, 50), (40, 60), (33, 88), (20, 24)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.fit}-{record.crop_fraction}")
@pytest.mark.parametrize("backend", ["pil", "torchvision"])
def test_transformers_prepares_the_pixels_that_we_do(record: Preprocess, backend: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(write_preprocess(record)))
    with quiet() as library:
        processor = library.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True, backend=backend)
        assert processor.backend == backend
        for size in SIZES:
            image = photo(*size)
            theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
            difference = np.abs(prepare(image, record) - theirs) * np.asarray(record.std) * 255  # in steps of a pixel
            assert difference.max() <= (1e-4 if backend == "pil" else 1.001)
            assert (difference > 0.5).mean() <= (0 if backend == "pil" else 0.3)


def test_an_odd_margin_of_3_modulo_4_shifts_the_crop_by_one_pixel(tmp_path: Path) -> None:
    record = Preprocess((32, 32), "crop", 1.0, "bicubic", (0.0,) * 3, (1.0,) * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(write_preprocess(record)))
    image = photo(70, 64)  # 35x32: a margin of 3
    with quiet() as library:
        processor = library.AutoImageProcessor.from_pretrained(tmp_path, local_files_only=True, backend="pil")
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    assert np.allclose(prepare(image, record)[:, :-1], theirs[:, 1:], atol=1e-6)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_processors(name: str) -> None:
    with quiet() as library:
        processor = getattr(library, f"{name}ImageProcessorPil")()
        values = json.loads(processor.to_json_string())
    type_ = {"image_processor_type": f"{name}ImageProcessor"}
    assert read_preprocess(type_, "ViT") == read_preprocess(values, "ViT")
    for size in (224, 384):  # one number, as old files have it
        try:
            expected: Any = read_preprocess({**values, "size": dataclasses_size(processor, size)}, "ViT")
        except UserError as error:
            expected = str(error)
        try:
            read: Any = read_preprocess({**type_, "size": size}, "ViT")
        except UserError as error:
            read = str(error)
        assert read == expected


def dataclasses_size(processor: Any, size: int) -> dict[str, int]:
    """What the processor makes of a size of one number."""
    with quiet() as library:
        made = type(processor)(size=size)
        assert library is not None
    found = made.size if isinstance(made.size, dict) else dataclasses.asdict(made.size)
    return {key: value for key, value in found.items() if value is not None}
