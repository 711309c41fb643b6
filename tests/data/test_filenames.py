"""Names of pictures: safe, each once, and the same at every run."""

from __future__ import annotations

import pytest

from vitkit.data.filenames import LONGEST, file_stems, safe_stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("photos/cat.jpg", "cat"),
        ("cat", "cat"),
        ("a.b.png", "a.b"),
        ("../../etc/passwd", "passwd"),
        ("..", "image"),
        ("", "image"),
        ("a/..", "image"),
        ("x\\..\\y.png", "x_.._y"),
        ("Größe #1 ü%20.jpg", "Größe #1 ü%20"),
        ("train.parquet:17", "train.parquet_17"),
        ("tab\there\n.jpg", "tab_here_"),
        ("what?.jpg", "what_"),
        (".hidden.jpg", ".hidden"),
    ],
)
def test_a_stem_is_safe(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


def test_a_long_name_is_cut_between_characters() -> None:
    stem = safe_stem("ü" * 200 + ".jpg")
    assert stem == "ü" * (LONGEST // 2)


def test_equal_names_get_numbers_that_no_other_has() -> None:
    names = ["a/cat.jpg", "b/cat.jpg", "c/cat.png", "cat-2.jpg", "Cat.jpg", "dog.jpg"]
    assert file_stems(names) == ["cat", "cat-3", "cat-4", "cat-2", "Cat-5", "dog"]
    assert len({stem.casefold() for stem in file_stems(names * 3)}) == 18
    assert file_stems(names) == file_stems(names)


def test_a_name_like_a_part_of_another_image_gets_a_number() -> None:
    assert file_stems(["cat.jpg", "cat.layer0.head1.jpg", "dog.layer0.jpg"]) == [
        "cat",
        "cat.layer0.head1-2",
        "dog.layer0",
    ]


def test_a_number_makes_no_name_whose_parts_another_image_has() -> None:
    names = ["a/cat.jpg", "b/cat.jpg", "cat-2.layer0.jpg", "cat-3.head1.jpg"]
    for order in (names, names[::-1]):
        stems = file_stems(order)
        assert sorted(stems) == ["cat", "cat-2.layer0", "cat-3.head1", "cat-4"]
        parts = {f"{stem}{part}" for stem in stems for part in (".layer0", ".head1")}
        assert not parts & set(stems)


def test_names_that_are_no_text_stay_apart() -> None:
    stems = file_stems(["\udcff.jpg", "\udcfe.jpg"])
    assert len(set(stems)) == 2
