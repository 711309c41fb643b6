"""Decoded images on disk: the same bits, bound to the content, bounded, shared, and never in the way."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.data.augment import Augment
from vitkit.data.loader import Batch, training_batches
from vitkit.data.pixels import ImageError, Preprocess, open_image
from vitkit.data.resized import HEADER, Resized
from vitkit.data.sources import Sample, read_source

RECORD = Preprocess((12, 16))


def drawn(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


class Counted:
    """Opens images, and how often it did."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, source: object) -> Image.Image:
        self.calls += 1
        return open_image(source)  # type: ignore[arg-type]


def entries(store: Resized) -> list[Path]:
    return sorted(store.folder.glob("*/*.rgb"))


def test_the_second_time_an_image_is_read_and_not_made(tmp_path: Path) -> None:
    path, make = drawn(tmp_path / "a.png", 0), Counted()
    first = Resized(10**6, tmp_path).image(path, "full", make)
    again = Resized(10**6, tmp_path).image(path, "full", make)
    assert make.calls == 1
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert np.array_equal(np.asarray(again), np.asarray(open_image(path)))


def test_an_entry_is_bound_to_content_and_settings_not_to_the_name(tmp_path: Path) -> None:
    store, make = Resized(10**6, tmp_path), Counted()
    store.image(drawn(tmp_path / "a.png", 0), "full", make)
    store.image((tmp_path / "a.png").read_bytes(), "full", make)  # the same content elsewhere
    assert make.calls == 1
    store.image(tmp_path / "a.png", "half", make)
    changed = store.image(drawn(tmp_path / "a.png", 1), "full", make)
    assert make.calls == 3
    assert np.array_equal(np.asarray(changed), np.asarray(open_image(tmp_path / "a.png")))


@pytest.mark.parametrize("damage", [b"", b"VKRZ", b"x" * 40])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    path, store, make = drawn(tmp_path / "a.png", 0), Resized(10**6, tmp_path), Counted()
    whole = store.image(path, "full", make)
    (entry,) = entries(store)
    entry.write_bytes(damage)
    assert np.array_equal(np.asarray(store.image(path, "full", make)), np.asarray(whole))
    flipped = bytearray(entry.read_bytes())
    flipped[HEADER.size + 7] ^= 1
    entry.write_bytes(flipped)
    assert np.array_equal(np.asarray(store.image(path, "full", make)), np.asarray(whole))
    assert make.calls == 3


def test_all_entries_stay_below_the_limit_and_the_longest_unused_go(tmp_path: Path) -> None:
    one = HEADER.size + 3 * 40 * 30
    store = Resized(20 * one, tmp_path)
    paths = [drawn(tmp_path / f"{i}.png", i) for i in range(24)]
    for path in paths[:20]:
        store.image(path, "full", Counted())
    past = time.time() - 1000
    made = entries(store)
    for number, entry in enumerate(made):
        os.utime(entry, (past + number, past + number))
    store.image(paths[20], "full", Counted())
    assert set(made) - set(entries(store)) == set(made[:2])  # room for one, and 10 % of the limit
    for path in paths[21:]:
        store.image(path, "full", Counted())
    assert len(entries(store)) == 20
    assert int((store.folder / "bytes").read_text()) == sum(entry.stat().st_size for entry in entries(store))


def test_a_run_does_not_throw_its_own_images_out(tmp_path: Path) -> None:
    one = HEADER.size + 3 * 40 * 30
    store, make = Resized(2 * one, tmp_path), Counted()
    paths = [drawn(tmp_path / f"{i}.png", i) for i in range(4)]
    for _ in range(2):
        for path in paths:
            store.image(path, "full", make)
    assert store.full
    assert len(entries(store)) == 2
    assert make.calls == 4 + 2


def test_a_place_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store, make = Resized(10**6, tmp_path / "file"), Counted()
    path = drawn(tmp_path / "a.png", 0)
    for _ in range(2):
        assert store.image(path, "full", make).size == (40, 30)
    assert make.calls == 2
    assert "decoded images are not kept in" in store.problem


def test_errors_are_those_without_it_and_are_not_kept(tmp_path: Path) -> None:
    store = Resized(10**6, tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name in ("absent.png", "broken.png"):
        with pytest.raises(ImageError) as plain:
            open_image(tmp_path / name)
        with pytest.raises(ImageError) as kept:
            store.image(tmp_path / name, "full", open_image)
        assert str(kept.value) == str(plain.value)
    assert not entries(store)


def _fill(store: Resized, paths: list[Path]) -> None:
    for path in paths:
        store.image(path, "full", Counted())


def test_processes_share_it(tmp_path: Path) -> None:
    one = HEADER.size + 3 * 40 * 30
    store = pickle.loads(pickle.dumps(Resized(8 * one, tmp_path)))
    paths = [drawn(tmp_path / f"{i}.png", i) for i in range(12)]
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fill, args=(store, order)) for order in (paths, paths[::-1])]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    kept = entries(store)
    assert len(kept) == 8
    assert int((store.folder / "bytes").read_text()) == 8 * one
    assert not list(store.folder.glob("*/*.partial"))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_have_the_same_bits_with_and_without(flat: Path, tmp_path: Path, workers: int) -> None:
    samples = list(read_source(flat).splits["all"])
    for number, sample in enumerate(samples[:6]):
        drawn(Path(sample.source), number, (90, 80))  # larger than twice the record's size: shrunk

    def batches(store: Resized | None, found: list[Sample], record: Preprocess = RECORD) -> list[Batch]:
        return list(
            training_batches(
                found, record, Augment(crop_area=0.3, flip=True), batch_size=5, steps=range(6), seed=0, workers=workers,
                resized=store,
            )
        )  # fmt: skip

    plain = batches(None, samples)
    for _ in range(2):  # made, then read
        for x, y in zip(plain, batches(Resized(10**7, tmp_path), samples), strict=True):
            assert torch.equal(x.images, y.images)
    assert len(entries(Resized(10**7, tmp_path))) == len({Path(s.source).read_bytes() for s in samples})
    other = batches(Resized(10**7, tmp_path), samples, Preprocess((20, 20)))  # another size, other entries
    for x, y in zip(other, batches(None, samples, Preprocess((20, 20))), strict=True):
        assert torch.equal(x.images, y.images)
