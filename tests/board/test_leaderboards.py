"""Ranking, and the tree of papers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitkit.board.catalogue import Dataset, Metric, Paper, Task
from vitkit.board.entries import Entry
from vitkit.board.leaderboards import Leaderboard, Node, family, leaderboards
from vitkit.config import UserError

TASKS = (Task("t", "Telling", "Telling things apart.", ("acc", "loss")),)
DATASETS = (Dataset("d", "Dees", "Pictures of D.", ("t",)), Dataset("empty", "Empty", "Nothing yet.", ("t",)))
METRICS = (Metric("acc", "accuracy", "%", "higher"), Metric("loss", "loss", "nats", "lower", high=None))
ENTRY = Entry("published", "t", "d", "acc", 90.0, "%", "A", "2020-01-01", "https://example.org")


def boards_of(*entries: Entry) -> list[Leaderboard]:
    return leaderboards(entries, TASKS, DATASETS, METRICS)


def places(board: Leaderboard) -> list[tuple[str, int | None]]:
    return [(row.entry.model, row.rank) for row in board.rows]


def test_the_best_is_first_ties_share_a_place_and_what_is_not_comparable_has_none() -> None:
    (board,) = boards_of(
        replace(ENTRY, value=450.0, model="false", kind="community", plausible=False),
        replace(ENTRY, value=9.5, model="low"),
        replace(ENTRY, value=99.9, model="part", kind="ours", part=True),
        replace(ENTRY, value=95.0, model="ours", kind="ours"),
        ENTRY,
        replace(ENTRY, value=95.0, model="same"),
    )
    assert places(board) == [("same", 1), ("ours", 1), ("A", 3), ("low", 4), ("part", None), ("false", None)]
    assert [entry.model for entry in board.ranked] == ["same", "ours", "A", "low"]
    assert board.best() is board.ranked[0]
    assert board.best("ours") is board.ranked[1]
    assert board.best("community") is None


def test_a_metric_where_lower_is_better_is_ranked_by_it() -> None:
    (board,) = boards_of(
        *(replace(ENTRY, metric="loss", unit="nats", value=v, model=str(v)) for v in (0.5, 10.0, 0.25))
    )
    assert places(board) == [("0.25", 1), ("0.5", 2), ("10.0", 3)]


def test_a_leaderboard_is_one_task_dataset_and_metric_in_the_catalogues_order() -> None:
    found = boards_of(replace(ENTRY, metric="loss", unit="nats"), ENTRY)
    assert [(b.dataset.name, b.metric.name, b.anchor) for b in found] == [
        ("d", "acc", "t-acc"),
        ("d", "loss", "t-loss"),
    ]


@pytest.mark.parametrize("field", ["dataset", "task", "metric", "kind"])
def test_an_entry_of_what_the_board_does_not_know_is_refused(field: str) -> None:
    with pytest.raises(
        UserError, match=rf"'A' 90 .* is of the {field} 'other', which the board does not know. Known: \w+"
    ):
        boards_of(replace(ENTRY, **{field: "other"}))


def paper(name: str, date: str, *builds_on: str) -> Paper:
    edges = tuple((other, f"from {other}") for other in builds_on)
    return Paper(name, name.title(), name, "A. Author", date, "Ours.", "2010.11929", builds_on=edges)


def outline(nodes: tuple[Node, ...]) -> list[object]:
    return [(node.paper.name, outline(node.children)) if node.children else node.paper.name for node in nodes]


def test_papers_stand_below_what_they_build_on_earlier_ones_first() -> None:
    trees = family(
        [paper("mae", "2021-11", "vit", "deit"), paper("deit", "2020-12", "vit"), paper("v2", "2022-04", "deit"),
         paper("vit", "2020-10"), paper("alone", "2019-01")]
    )  # fmt: skip
    assert outline(trees) == ["alone", ("vit", [("deit", ["v2"]), "mae"])]
    mae = trees[1].children[1]
    assert (mae.edge, [other.name for other in mae.others]) == ("from vit", ["deit"])


def test_a_tree_with_a_hole_or_a_circle_is_refused() -> None:
    with pytest.raises(UserError, match="the paper 'b' builds on 'a', which the board does not know"):
        family([paper("b", "2020-01", "a")])
    with pytest.raises(UserError, match="the papers a, b build on each other in a circle"):
        family([paper("a", "2020-01", "b"), paper("b", "2020-01", "a"), paper("c", "2020-01")])
