"""What the board knows hangs together, and names are found however they are spelled."""

from __future__ import annotations

import re

import pytest

from vitkit.board.catalogue import (
    DATASETS,
    METHODS,
    METRICS,
    PAPERS,
    TASKS,
    find_dataset,
    find_metric,
    find_paper,
    find_task,
    plain,
)
from vitkit.config import UserError


@pytest.mark.parametrize("rows", [DATASETS, METHODS, METRICS, PAPERS, TASKS])
def test_names_are_plain_and_belong_to_one_row(rows: tuple) -> None:
    assert len({row.name for row in rows}) == len(rows)
    assert all(re.fullmatch(r"[a-z0-9_-]+", row.name) for row in rows)
    owners: dict[str, str] = {}
    for row in rows:
        for name in (row.name, row.title, *row.aliases):
            if rows is TASKS and name == "robustness":  # which it is depends on the data set
                continue
            assert owners.setdefault(plain(name), row.name) == row.name, name


def test_what_rows_refer_to_is_there() -> None:
    tasks, metrics, papers = ({row.name for row in rows} for rows in (TASKS, METRICS, PAPERS))
    for task in TASKS:
        assert set(task.metrics) <= metrics
    for dataset in DATASETS:
        assert set(dataset.tasks) <= tasks
        assert dataset.tasks
        assert set(dataset.metrics) <= metrics
        assert {metric for _, metric in dataset.splits} <= metrics
    for paper in PAPERS:
        assert set(paper.tasks) <= tasks
        assert {name for name, _ in paper.builds_on} <= papers
    for method in METHODS:
        assert set(method.papers) <= papers
        assert method.source.startswith("https://")


def test_papers_are_dated_as_their_arxiv_ids_say_and_build_on_earlier_ones() -> None:
    dates = {paper.name: paper.date for paper in PAPERS}
    for paper in PAPERS:
        assert re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)
        month = f"20{paper.arxiv[:2]}-{paper.arxiv[2:4]}"
        assert paper.date[:7] == month or (paper.date, month) == ("2021-02-26", "2021-03")  # CLIP: numbered in March
        assert paper.summary.count(".") >= 2
        for earlier, how in paper.builds_on:
            assert dates[earlier][:7] <= paper.date[:7]
            assert how


def test_the_tree_leads_from_vit_to_its_followers() -> None:
    vit = find_paper("An image is worth 16x16 words")
    assert (vit.name, vit.date, vit.venue) == ("vit", "2020-10-22", "ICLR 2021")
    assert vit.code[0] == "https://github.com/google-research/vision_transformer"
    assert "semantic-segmentation" in vit.tasks
    reached, before = {"vit"}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {paper.name for paper in PAPERS if reached & {name for name, _ in paper.builds_on}}
    assert {
        "deit",
        "augreg",
        "dino",
        "mae",
        "dinov2",
        "siglip",
        "mixer",
        "lit",
        "sam-vit",
        "better-plain-vit",
    } <= reached


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("ImageNet-1k", "imagenet"), ("ILSVRC2012", "imagenet"), ("cifar-10", "cifar10"), ("CIFAR 100", "cifar100"),
        ("oxford_iiit_pet", "pets"), ("vtab/clevr_count", "vtab-clevr-count"), ("vtab/specialized", "vtab-specialized"),
        ("imagenet_real", "imagenet-real"), ("imagenet_v2_threshold", "imagenet-v2-threshold"),
        ("vizwiz_classification", "vizwiz"), ("uc_merced", "uc-merced"),
    ],
)  # fmt: skip
def test_data_sets_answer_to_many_spellings(typed: str, name: str) -> None:
    assert find_dataset(typed).name == name


def test_a_name_that_is_not_known_gets_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^dataset: the board does not know 'cifar11'\. Did you mean 'cifar1"):
        find_dataset("cifar11")
    with pytest.raises(UserError, match=r"metric: .*'topp1'.*Did you mean 'top1'\? Known: top1, "):
        find_metric("topp1")
    with pytest.raises(UserError, match=r"task: .*'clasify'.*Did you mean 'classify'"):
        find_task("clasify")


def test_robustness_means_what_the_data_set_is_listed_under() -> None:
    assert find_task("robustness", find_dataset("objectnet")).name == "image-classification"
    assert find_task("robustness", find_dataset("imagenet-a")).name == "domain-generalization"
    with pytest.raises(
        UserError, match=r"ImageNet-C has no results of k-Nearest Neighbours; its tasks are domain-gener"
    ):
        find_task("knn", find_dataset("imagenet-c"))


@pytest.mark.parametrize("group", [("natural", 7), ("specialized", 4), ("structured", 8), ("", 19)])
def test_vtab_means_are_of_all_images_of_their_tasks(group: tuple[str, int]) -> None:
    name, count = group
    tasks = [d for d in DATASETS if d.name.startswith("vtab-") and d.classes and name in ("", d.group)]
    assert len(tasks) == count
    assert find_dataset(f"vtab {name}").images == sum(d.images or 0 for d in tasks)
