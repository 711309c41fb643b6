"""Views with the reference's numerics: each step as its own module has it, in order, from one generator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from vitkit.config import UserError, from_dict, override
from vitkit.data.bands import Bands
from vitkit.data.erasing import Erase
from vitkit.data.inception import inception_crop
from vitkit.data.pixels import Preprocess, normalise
from vitkit.data.randaugment import randaugment
from vitkit.data.reference import CROPS, ReferenceAugment, central_view, reference_view, squashed_view
from vitkit.data.resizing import resize, resize_bilinear, resize_small, value_range

RECORD = Preprocess((24, 20), mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))


def noise(width: int = 50, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng([0, 1, seed])


EVERY = [
    ReferenceAugment(),
    ReferenceAugment(cast=False),
    ReferenceAugment("resmall_crop", resize=30),
    ReferenceAugment("resize_crop", resize=30),
    ReferenceAugment("resize_crop", resize=30, cast=False),
    ReferenceAugment("none", flip=False),
    ReferenceAugment(layers=2, magnitude=10),
    ReferenceAugment(layers=2, magnitude=15, erase=0.5, erase_mode="pixel"),
]


@pytest.mark.parametrize("augment", EVERY)
def test_a_view_has_the_records_size_and_is_a_function_of_the_generator(augment: ReferenceAugment) -> None:
    image = noise()
    first, again = ([augment(image, RECORD, generator(seed)) for seed in range(12)] for _ in range(2))
    wanted = np.uint8 if augment.cast and not augment.erase else np.float32
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
        assert (a.shape, a.dtype) == ((24, 20, 3), wanted)  # one type for all of a batch
        assert a.flags.c_contiguous
    if augment.crop != "none":
        assert len({view.tobytes() for view in first}) > 8  # some are moved out of sight and all grey
    assert np.array_equal(np.asarray(image), np.asarray(noise()))
    assert np.array_equal(reference_view(image, RECORD, augment, generator(0)), first[0])


def test_steps_come_in_order_crop_mirror_randaugment() -> None:
    augment = ReferenceAugment(layers=2, magnitude=15)
    flips = 0
    for seed in range(40):
        rng = generator(seed)
        wanted = inception_crop(noise(), (24, 20), rng)
        if rng.random() < 0.5:
            wanted = np.ascontiguousarray(wanted[:, ::-1])
            flips += 1
        wanted = randaugment(wanted, 2, 15, rng)
        assert np.array_equal(augment(noise(), RECORD, generator(seed)), wanted)
    assert 10 < flips < 30


def test_float_views_are_vit_jaxs_after_normalising() -> None:
    half = Preprocess((24, 20))
    augment = ReferenceAugment(cast=False, flip=False)
    for seed in range(5):
        crop = inception_crop(noise(), (24, 20), generator(seed), cast=False)
        found = normalise(augment(noise(), half, generator(seed)), half)
        assert np.abs(found - (crop - 127.5) / 127.5).max() < 1e-6
    whole = normalise(squashed_view(noise(), (24, 20)), half)
    assert np.abs(whole - (resize_bilinear(noise(), (24, 20)) - 127.5) / 127.5).max() < 1e-6


def test_uint8_views_are_big_visions_after_normalising() -> None:
    half = Preprocess((24, 20))
    view = ReferenceAugment()(noise(), half, generator(0))
    assert np.abs(normalise(view, half) - value_range(view)).max() < 1e-6


def test_mirrored_views_are_mirrored_in_float_too() -> None:
    plain = ReferenceAugment("none", cast=False, flip=False)(noise(), RECORD, generator(0))
    views = [ReferenceAugment("none", cast=False)(noise(), RECORD, generator(seed)) for seed in range(40)]
    mirrored = [np.array_equal(view, plain[:, ::-1]) for view in views]
    assert all(np.array_equal(view, plain) != is_ for view, is_ in zip(views, mirrored, strict=True))
    assert 10 < sum(mirrored) < 30


def test_random_crops_come_from_the_resized_image() -> None:
    for crop, small in (("resmall_crop", resize_small(noise(), 30)), ("resize_crop", resize(noise(), (30, 30)))):
        view = ReferenceAugment(crop, resize=30, flip=False)(noise(), RECORD, generator(2))
        H, W = small.shape[:2]
        places = [
            (y, x) for y in range(H - 23) for x in range(W - 19) if np.array_equal(small[y : y + 24, x : x + 20], view)
        ]
        assert len(places) == 1


def test_erased_views_are_noise_to_the_model_and_exact_elsewhere() -> None:
    plain = ReferenceAugment("none", flip=False)
    erased = ReferenceAugment("none", flip=False, erase=1.0)
    model_plain = normalise(plain(noise(), RECORD, generator(0)), RECORD)
    model_erased = normalise(erased(noise(), RECORD, generator(0)), RECORD)
    hole = np.abs(model_erased).max(-1) < 1e-5
    assert 0.01 < hole.mean() < 0.4
    assert np.array_equal(model_erased[~hole], model_plain[~hole])  # every bit


def test_evaluation_views() -> None:
    small = resize_small(noise(), 28)  # 35 x 28
    assert small.shape == (28, 35, 3)
    assert np.array_equal(central_view(noise(), (24, 20), 28), small[2:26, 7:27])
    assert np.array_equal(central_view(np.asarray(noise()), (24, 20), 28), small[2:26, 7:27])
    assert squashed_view(noise(), (24, 20)).dtype == np.float32
    assert squashed_view(noise(), (24, 20)).max() <= 1
    with pytest.raises(UserError, match=r"cannot cut 24 x 20 pixels .* out of an image of 20 x 25"):
        central_view(noise(), (24, 20), 20)


def test_settings_travel_to_workers_and_through_json() -> None:
    augment = ReferenceAugment(layers=2, magnitude=10, area=(0.2, 0.9))
    assert pickle.loads(pickle.dumps(augment)) == augment
    changed = override(augment, {"area": [0.1, 0.5], "erase": 0.25, "erase_mode": "pixel"}, "test")
    assert changed.area == (0.1, 0.5)
    assert changed.erasing == Erase(0.25, mode="pixel")
    assert from_dict(ReferenceAugment, {"crop": "inception", "area": [0.2, 0.9]}, "test").area == (0.2, 0.9)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crop": "inception_crop"}, f"known: {', '.join(CROPS)}"),
        ({"crop": "incepton"}, "Did you mean 'inception'"),
        ({"resize": 0}, "resize must be a positive number of pixels"),
        ({"area": (0.0, 1.0)}, "^area must be two positive numbers, the smaller first, got"),
        ({"area": (0.1, 1.1)}, r"area is of parts of the image, at most 1, got 1\.1"),
        ({"area": 0.1}, r"two positive numbers, the smaller first, got 0\.1"),
        ({"area": (0.1, 0.2, 0.3)}, "two positive numbers"),
        ({"erase": 2.0}, r"probability to erase must be in \[0, 1\]"),
        ({"erase_mode": "noise"}, "erase_mode is 'noise'; known: const, rand, pixel"),
        ({"erase_area": (0.1, 2.0)}, "erase_area is of parts of the image"),
        ({"aspect": (1.3, 0.75)}, "aspect must be two positive numbers, the smaller first"),
        ({"layers": -1}, "layers must be an integer from 0"),
        ({"layers": 2, "magnitude": -1}, "magnitude must be from 0"),
        ({"magnitude": 10}, "magnitude 10 does nothing with layers 0; set layers, usually 2"),
        ({"layers": 2, "cast": False}, "RandAugment gives uint8 images and cannot be had with cast=False"),
        ({"crop": "resmall_crop", "cast": False}, "crop resmall_crop gives uint8 images"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ReferenceAugment(**values)  # type: ignore[arg-type]


def test_what_cannot_be_cut_or_is_not_rgb_is_refused() -> None:
    with pytest.raises(UserError, match=r"cuts 24 x 20 pixels .* resized to 22; set resize to at least 24"):
        ReferenceAugment("resize_crop", resize=22)(noise(), RECORD, generator(0))
    bands = Bands.of(np.zeros((30, 30, 4), np.float32))
    with pytest.raises(UserError, match="for RGB images"):
        ReferenceAugment()(bands, RECORD, generator(0))
