"""ImageNet-1k classes by id, name and index."""

from __future__ import annotations

from vitkit.data.classnames import class_indices, class_names, distinct
from vitkit.data.samples import Sample, Source, match_classes

NAMES = class_names("imagenet1k")


def test_a_thousand_different_names_in_the_order_of_the_outputs() -> None:
    assert len(NAMES) == len(set(NAMES)) == 1000
    assert (NAMES[0], NAMES[207], NAMES[999]) == ("tench", "golden retriever", "toilet tissue")
    assert (NAMES[134], NAMES[517]) == ("crane (n02012849)", "crane (n03126707)")


def test_ids_names_and_indices_mean_the_same_class() -> None:
    for names in (["n02099601", "n01440764"], ["n02099601 golden retriever", "n01440764 tench"], ["207", "0"],
                  ["golden retriever", "Tinca tinca"], ["golden retriever", "tench, Tinca tinca"]):  # fmt: skip
        assert class_indices(NAMES, names) == [207, 0], names


def test_what_means_no_class_or_two_is_not_guessed() -> None:
    assert class_indices(NAMES, ["crane", "n99999999", "1000"]) == [-1, -1, -1]
    assert class_indices(NAMES, ["0", "tench"]) == [-1, 0]  # a number among names is a name
    assert class_indices(["cat", "dog"], ["n02099601", "dog"]) == [-1, 1]  # another model's classes have no ids


def test_names_that_two_classes_share_are_told_apart() -> None:
    assert distinct(["a", "crane", "b", "crane"]) == ("a", "crane (1)", "b", "crane (3)")
    lemmas = list(NAMES)
    lemmas[134] = lemmas[517] = "crane"  # as published in other libraries' files
    assert class_indices(distinct(lemmas), ["n02012849", "n03126707"]) == [134, 517]


def test_data_named_by_wordnet_id_is_matched_to_a_model_with_names() -> None:
    source = Source("x", ("n01443537", "n01440764"), {"test": [Sample("a", b"", 0), Sample("b", b"", 1)]})
    matched = match_classes(source, NAMES)
    assert [s.label for s in matched.splits["test"]] == [1, 0]
    assert "no images of 998 of the model's classes" in matched.notes[-1]
