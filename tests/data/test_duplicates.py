"""Duplicates: planted copies of every kind are found, unlike pictures are not, and flat pictures are one only if they look it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from planted import jpeg, png, scene
from vitkit.data import duplicates
from vitkit.data.duplicates import connected, exact_groups, find_duplicates, near_pairs
from vitkit.data.pixels import open_image
from vitkit.data.thumbnails import THUMBNAIL_BYTES, describe, thumbnail


def described(images: list[Image.Image]) -> np.ndarray:
    return describe(np.frombuffer(b"".join(map(thumbnail, images)), np.uint8).reshape(-1, THUMBNAIL_BYTES))


def cut(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda image: image.resize((30, 30), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((140, 140), Image.Resampling.BILINEAR),
    "recompressed": lambda image: open_image(jpeg(image, 50)),
    "cut left": lambda image: cut(image, 0.03, 0, 0, 0),
    "cut bottom, resized": lambda image: cut(image, 0, 0, 0, 0.03).resize(image.size),
    "cut all round": lambda image: cut(image, 0.03, 0.03, 0.03, 0.03),
}


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    return [scene(seed, (100, 100)) for seed in range(60)]


@pytest.mark.parametrize("kind", CHANGES)
def test_changed_copies_are_found_and_nothing_else(kind: str, scenes: list[Image.Image]) -> None:
    copies = [CHANGES[kind](image) for image in scenes[:20]]
    pairs, crowded = near_pairs(described([*scenes, *copies]))
    assert {(p.first, p.second) for p in pairs} == {(i, 60 + i) for i in range(20)}
    assert min(p.similarity for p in pairs) > 0.99
    assert crowded == 0


def test_flat_pictures_are_one_only_if_they_look_it() -> None:
    flat = [Image.new("RGB", (40, 40), (level, level, level)) for level in (0, 1, 60, 120, 121, 250)]
    pairs, _ = near_pairs(described(flat))
    assert {(p.first, p.second) for p in pairs} == {(0, 1), (3, 4)}
    assert [p.similarity for p in pairs] == [1, 1]
    written = []
    for corner in range(4):  # white pages, each with one mark elsewhere
        page = Image.new("RGB", (40, 40), "white")
        page.paste(
            "black", (26 * (corner % 2) + 2, 26 * (corner // 2) + 2, 26 * (corner % 2) + 12, 26 * (corner // 2) + 8)
        )
        written.append(page)
    assert near_pairs(described(written))[0] == []


def test_colour_alone_tells_pictures_apart() -> None:
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    assert near_pairs(described([red, blue]))[0] == []


def test_very_many_alike_are_capped_and_told() -> None:
    one = described([scene(1)])
    pairs, crowded = near_pairs(np.repeat(one, 100, axis=0))
    assert crowded == 100
    assert connected([(p.first, p.second) for p in pairs]) == [list(range(100))]  # one group all the same


def test_equal_files_count_once_among_near_pairs_and_join_their_group(scenes: list[Image.Image]) -> None:
    small = CHANGES["smaller"](scenes[0])
    found = find_duplicates(["a", "b", "a", "c"], described([scenes[0], small, scenes[0], scenes[1]]))
    assert found.exact == [[0, 2]]
    assert [(p.first, p.second) for p in found.near] == [(0, 1)]
    assert found.groups == [[0, 1, 2]]


def test_groups() -> None:
    assert exact_groups(["x", "y", "x", "z", "y"]) == [[0, 2], [1, 4]]
    assert connected([(5, 1), (2, 3), (1, 9)]) == [[1, 5, 9], [2, 3]]
    assert near_pairs(described([scene(0)])) == ([], 0)


def test_no_pair_is_compared_that_no_hash_proposed(scenes: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = duplicates.compare

    def counting(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        compared.append(len(first))
        return real(first, second)

    monkeypatch.setattr(duplicates, "compare", counting)
    near_pairs(described([*scenes, open_image(png(scenes[0])), *(scene(s) for s in range(100, 400))]))
    assert sum(compared) < 361 * 360 / 2 / 20
