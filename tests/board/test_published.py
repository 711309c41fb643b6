"""The published values, against figures computed apart from the files: counts and sums of every table, and how tables agree."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from importlib import resources
from statistics import fmean

import pytest

from vitkit.board.catalogue import DATASETS, PAPERS, TASKS, metrics_of
from vitkit.board.entries import COMMUNITY, PUBLISHED, Entry, published

# Rows and the sum of their values, counted and added from the text of the sources by another program.
SUMS = {
    ("ViT paper", "Table 2"): (31, 2837.42),
    ("ViT paper", "Table 5"): (84, 7667.35),
    ("ViT paper", "Table 6"): (108, 10049.41),
    ("ViT paper", "Table 7"): (24, 2195.11),
    ("ViT paper", "Table 8"): (8, 509.945),
    ("ViT paper", "Table 9"): (60, 4532.6),
    ("ViT paper", "Table 9, group means"): (9, 699.38),
    ("ViT paper", "Appendix D.9"): (2, 82.1 + 61.7),
    ("official README", "Fine-tuned from ImageNet-21k"): (30, 2746.73),
    ("official README", "Short schedules"): (4, 98.59 + 98.86 + 89.17 + 91.15),
    ("official README", "Models fine-tuned at 224"): (2, 81.2 + 82.7),
    ("official README", "First release"): (6, 99.02 + 98.90 + 92.17 + 92.19 + 84.61 + 84.62),
    ("official README", "MLP-Mixer"): (4, 96.82 + 98.34 + 96.72 + 96.59),
    ("official README", "LiT"): (14, 821.3),
    ("AugReg paper", "Table 3"): (75, 5867.5),
    ("AugReg paper", "VTAB"): (27, 2330.5),
    ("Better plain ViT", "Main results"): (12, 878.7),
    ("Better plain ViT", "Ablation"): (24, 1808.0),
    ("big_vision", "transfer.py"): (5, 466.38),
    ("timm", "AugReg weights"): (35, 3054.216),
    ("timm", "Original weights"): (4, 84.988 + 84.212 + 81.782 + 81.508),
    ("timm", "SAM weights"): (2, 80.246 + 73.704),
    ("timm", "AugReg weights, ImageNet only"): (6, 78.842 + 81.130 + 79.154 + 81.102 + 74.908 + 78.750),
    ("PWC Archive", "Listing of the paper"): (8, 2 * (49 + 450) + 82.1 + 99.5 + 99.42 + 99.68),
}
FIVE = ("imagenet", "cifar10", "cifar100", "pets", "flowers102")


def table(source: str, name: str) -> list[Entry]:
    return [entry for entry in published() if (entry.source_short, entry.table) == (source, name)]


def test_every_table_has_its_rows_and_their_sum() -> None:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in published():
        found[entry.source_short, entry.table].append(entry.value)
    assert {key: len(values) for key, values in found.items()} == {key: n for key, (n, _) in SUMS.items()}
    for key, (_, total) in SUMS.items():
        assert math.fsum(found[key]) == pytest.approx(total, abs=1e-6), key


@pytest.mark.parametrize(
    ("model", "pretraining", "mean", "groups"),
    [
        ("ViT-H/14", "JFT-300M", 77.63, (86.69, 87.00, 65.03)),
        ("ViT-L/16", "JFT-300M", 76.28, (85.56, 86.72, 62.96)),
        ("ViT-L/16", "ImageNet-21k", 72.72, (83.27, 84.65, 57.50)),
    ],
)
def test_vtab_means_are_those_of_table_2(model: str, pretraining: str, mean: float, groups: tuple[float, ...]) -> None:
    own = [e for e in table("ViT paper", "Table 9") if (e.model, e.pretraining) == (model, pretraining)]
    tasks = {e.dataset: e.value for e in own if e.dataset != "vtab"}
    assert len(tasks) == 19
    assert fmean(tasks.values()) == pytest.approx(mean, abs=0.04)  # of values printed with one digit
    [printed] = [e.value for e in own if e.dataset == "vtab"]
    assert printed == round(mean, 1)
    [of_table_2] = [
        e for e in table("ViT paper", "Table 2")
        if (e.model, e.pretraining, e.dataset) == (model, pretraining, "vtab")
    ]  # fmt: skip
    assert of_table_2.value == mean
    members = {d.name: d.group for d in DATASETS if d.name in tasks}
    for group, value in zip(("natural", "specialized", "structured"), groups, strict=True):
        assert fmean(v for name, v in tasks.items() if members[name] == group) == pytest.approx(value, abs=0.006)


def test_tables_5_and_6_agree_but_for_the_huge_model() -> None:
    """VIT_SPEC 0.19: the paper's own two tables differ for ViT-H/14 only."""
    epochs = {"ViT-B/32": 7, "ViT-B/16": 7, "ViT-L/32": 7, "ViT-L/16": 14, "ViT-H/14": 14}
    five = {(e.model, e.dataset): e.value for e in table("ViT paper", "Table 5") if e.pretraining == "JFT-300M"}
    six = {
        (e.model, e.dataset): e.value for e in table("ViT paper", "Table 6") if epochs.get(e.model) == e.extra["epochs"]
    }
    assert five.keys() == six.keys()
    differ = {key: (five[key], six[key]) for key in five if five[key] != six[key]}
    assert differ == {
        ("ViT-H/14", "imagenet"): (88.04, 88.08),
        ("ViT-H/14", "imagenet-real"): (90.33, 90.36),
        ("ViT-H/14", "cifar100"): (94.55, 94.71),
        ("ViT-H/14", "flowers102"): (99.68, 99.71),
        ("ViT-H/14", "pets"): (97.56, 97.11),
    }


def test_table_7_repeats_table_6_and_its_averages_are_means() -> None:
    seven = {(e.model, e.extra["pretraining_optimizer"], e.dataset): e.value for e in table("ViT paper", "Table 7")}
    six = {(e.model, e.dataset): e.value for e in table("ViT paper", "Table 6") if e.extra["epochs"] == 7}
    for model, name in (("ResNet50", "ResNet50x1"), ("ResNet152x2", "ResNet152x2")):
        for dataset in FIVE:
            assert seven[model, "Adam", dataset] == six[name, dataset]
        for optimizer in ("Adam", "SGD"):
            mean = fmean(seven[model, optimizer, dataset] for dataset in FIVE)
            assert seven[model, optimizer, "average-five"] == pytest.approx(mean, abs=0.006)


def test_what_stands_beside_the_values() -> None:
    six = {(e.model, e.extra["epochs"]): e.extra["exaFLOPs"] for e in table("ViT paper", "Table 6")}
    assert len(six) == 18
    assert sum(six.values()) == 55 + 224 + 196 + 783 + 1567 + 4262 + 50 + 199 + 96 + 141 + 563 + 1126 + 3306 + 106 + 274 + 246 + 859 + 1668  # fmt: skip  # noqa: E501
    two = {e.dataset: e.spread for e in table("ViT paper", "Table 2") if e.model.startswith("BiT")}
    assert two == {
        "imagenet": 0.02, "imagenet-real": None, "cifar10": 0.06, "cifar100": 0.08, "pets": 0.23, "flowers102": 0.03,
        "vtab": 1.70,
    }  # fmt: skip
    hours = [e.extra["hours"] for e in table("official README", "Fine-tuned from ImageNet-21k")]
    assert sum(hours) == pytest.approx(299.7)
    speeds = {
        (e.model, e.extra["resolution"]): e.extra["v100_images_per_second"] for e in table("AugReg paper", "Table 3")
    }
    assert sum(speeds.values()) == 228 + 659 + 1508 + 1047 + 1814 + 3097 + 3597 + 8342 + 9371 + 50 + 138 + 300 + 327 + 560 + 610 + 955 + 2154 + 2426  # fmt: skip  # noqa: E501
    ranges = [(e.low, e.value, e.high) for e in table("big_vision", "transfer.py")]
    assert all(low < value < high for low, value, high in ranges)
    assert math.fsum(low + high for low, _, high in ranges) == pytest.approx(932.81)


def test_fractions_are_turned_into_percent_once() -> None:
    [plain] = [e for e in table("ViT paper", "Table 8") if e.extra["position_embedding"] == "none"]
    assert (plain.value, plain.unit, plain.metric) == (61.382, "%", "top1_5shot")


def test_the_community_listing_is_as_printed() -> None:
    titles = {d.name: d.title for d in DATASETS}
    tasks = {t.name: t.title for t in TASKS}
    rows = [e for e in published() if e.kind == COMMUNITY]
    assert [(tasks[e.task], titles[e.dataset], e.metric_title, e.value, e.model) for e in rows] == [
        ("Domain Adaptation", "VizWiz-Classification", "Accuracy - All Images", 49, "ViT-16/L-224"),
        ("Domain Adaptation", "VizWiz-Classification", "Accuracy - Clean Images", 450, "ViT-8/B-224"),
        ("Image Classification", "ObjectNet", "Top-5 Accuracy", 82.1, "ViT-H/14"),
        ("Image Classification", "CIFAR-10", "Percentage correct", 99.5, "ViT-H/14"),
        ("Image Classification", "CIFAR-10", "Percentage correct", 99.42, "ViT-L/16"),
        ("Image Classification", "Oxford Flowers-102", "Accuracy", 99.68, ""),
        ("Domain Generalization", "VizWiz-Classification", "Accuracy - All Images", 49, "ViT-16/L-224"),
        ("Domain Generalization", "VizWiz-Classification", "Accuracy - Clean Images", 450, "ViT-8/B-224"),
    ]
    assert [e.plausible for e in rows] == [True, False, True, True, True, True, True, False]
    assert all(e.reason for e in rows if not e.plausible)
    assert {(e.paper, e.date, e.licence) for e in rows} == {("vit", "2020-10-22", "CC BY-SA 4.0")}
    assert all("PWC Archive" in e.attribution for e in rows)
    files = {
        f.name: json.loads(f.read_text("utf-8"))
        for f in resources.files("vitkit").joinpath("board/published").iterdir()
    }
    assert [name for name, file in files.items() if file["source"]["kind"] == COMMUNITY] == ["community_pwc.json"]


def test_values_of_pages_that_are_edited_on_have_no_date_of_publication() -> None:
    undated = [e for e in published() if not e.date]
    assert {(e.source_short, e.table, e.as_of) for e in undated} == {
        ("official README", "Fine-tuned from ImageNet-21k", "2024-05-21"),
        ("official README", "Short schedules", "2024-05-21"),
        ("official README", "MLP-Mixer", "2024-05-21"),
        ("big_vision", "transfer.py", "2025-05-19"),
        *(("timm", e.table, "2026-08-08") for e in published() if e.source_short == "timm"),
    }
    dated = {(e.table, e.date) for e in published() if e.source_short == "official README" and e.date}
    assert dated == {
        ("Models fine-tuned at 224", "2020-10-29"), ("First release", "2020-10-22"), ("LiT", "2022-08-18"), ("LiT", "2022-04-14"),
    }  # fmt: skip


def test_every_entry_refers_to_what_the_catalogue_knows() -> None:
    tasks, datasets, papers = {t.name: t for t in TASKS}, {d.name: d for d in DATASETS}, {p.name for p in PAPERS}
    for entry in published():
        assert entry.paper in papers
        assert entry.task in datasets[entry.dataset].tasks
        assert entry.metric in metrics_of(tasks[entry.task], datasets[entry.dataset])
        assert entry.kind in (PUBLISHED, COMMUNITY)
        assert entry.source.startswith("https://")
        assert bool(entry.date) is not bool(entry.as_of)
        assert entry.licence
        assert entry.attribution
        assert entry.plausible is (entry.value != 450)
        assert 0 < entry.value <= 100 or not entry.plausible
