"""At which sizes models train and run, and which model is trained from random weights."""

from __future__ import annotations

import dataclasses

from vitkit.models.vit import ViTConfig
from vitkit.recipes.sizes import run_size, scratch_config

TINY = ViTConfig.named("Ti/16")


def test_small_models_run_larger_where_the_photos_are() -> None:
    photos, icons = [(500, 600), (480, 640), (300, 300)], [(500, 240), (240, 500), (240, 240)]
    assert run_size(TINY, photos) == (256, 256)
    assert run_size(TINY, icons) == TINY.image_size  # enlarging would only blur
    for own in (
        ViTConfig.named("B/16", image_size=(384, 384)),
        ViTConfig.named("Ti/16", image_size=(96, 96)),
        ViTConfig.named("R26+S/32"),
    ):
        assert run_size(own, [(2000, 2000)]) == own.image_size
    assert run_size(ViTConfig.named("H/14"), photos) == (252, 252)


def test_a_model_of_small_images_runs_at_the_photos_size_up_to_64_pixels() -> None:
    small = ViTConfig(embed_dim=32, depth=2, num_heads=2, mlp_dim=64, patch_size=(4, 4), image_size=(32, 32))
    for photos, side in ((8, 32), (32, 32), (50, 48), (500, 64)):
        assert run_size(small, [(photos, photos)] * 3) == (side, side)
    wide = dataclasses.replace(small, image_size=(32, 64))
    assert run_size(wide, [(500, 500)]) == (32, 64)


def test_a_scratch_model_fits_its_images() -> None:
    digits = scratch_config([(8, 8)] * 100, None, 10)
    assert digits.image_size == (16, 16)
    assert digits.patch_size == (4, 4)
    photos = scratch_config([(375, 500)] * 10_000, None, 5)
    assert photos.image_size == (64, 64)
    assert photos.embed_dim > digits.embed_dim
    wide = scratch_config([(30, 200)] * 10, (32, 100), 3)
    assert wide.image_size == (32, 100)
    assert scratch_config([(300, 300)] * 10, (2, 2), 3).patch_size == (2, 2)
