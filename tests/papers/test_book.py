"""Every table and figure is found, says what it is, and names commands, recipes, models and data sets that exist."""

from __future__ import annotations

import re
import shlex

import pytest

from vitkit.cli.main import cli
from vitkit.config import UserError
from vitkit.console import Console
from vitkit.datasets.book import find_dataset
from vitkit.papers.book import all_items, find_item, run_item
from vitkit.papers.item import KINDS, Item, Request, settled
from vitkit.recipes.book import find_recipe
from vitkit.recipes.recipe import changed
from vitkit.zoo.rows import find_row

ITEMS = all_items()
PAPER = {f"table{n}" for n in range(1, 10)} | {f"figure{n}" for n in range(1, 15)}


def test_every_table_and_figure_of_the_paper_is_an_item() -> None:
    names = [item.name for item in all_items()]
    assert set(names) == PAPER
    tables = [name for name in names if name.startswith("table")]
    assert names[: len(tables)] == tables == sorted(tables)
    assert names[-1] == "figure14"


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_an_item_names_only_what_exists(item: Item) -> None:
    assert item.kind in KINDS
    assert item.title
    assert not item.title.endswith(".")
    assert item.shows
    for name in item.weights:
        assert find_row(name) is not None, name
    for name in item.sets:
        find_dataset(name)
    for command in item.commands:
        words = shlex.split(command.split("#")[0])
        assert words[0] == "vit"
        assert words[1] in cli.commands, command
        options = {name for option in cli.commands[words[1]].params for name in option.opts}
        assert {word for word in words[2:] if word.startswith("-")} <= options, command
        if words[1] == "pretrain":
            recipe = find_recipe(words[2])
            settings = {k: v for k, v in (word.split("=", 1) for word in words[3:] if "=" in word) if k != "data"}
            assert find_row(settings["start"]) is not None if settings.get("start") else True
            numbers = {k: v if k == "start" else float(v) if "." in v else int(v) for k, v in settings.items()}
            changed(recipe, numbers)


def test_names_are_guessed() -> None:
    assert find_item("Table 6").name == find_item("table_6").name == find_item("tab6").name == "table6"
    assert find_item("Fig. 12").name == "figure12"
    with pytest.raises(UserError, match=r"no 'tabel6' here.*Did you mean 'table6'\?"):
        find_item("tabel6")
    with pytest.raises(UserError, match="it has table1 to table9 and figure1 to figure14"):
        find_item("figure15")


@pytest.mark.parametrize(
    "item", [item for item in ITEMS if not item.needs and item.name != "figure12"], ids=lambda i: i.name
)
def test_what_needs_nothing_runs_and_every_row_has_its_source(item: Item) -> None:
    outcome = run_item(item, Request(), Console())
    assert outcome.rows
    heads, *lines = outcome.table
    assert all(len(line) == len(heads) for line in lines)
    for row in outcome.rows:
        assert re.search(r"2010\.11929v2, (Table|Figure) \d", row["source"])
        assert "published" in row or item.name == "figure1"


def test_settings_are_typed() -> None:
    item = Item("figure1", "t", "s", "computed", settings={"seconds": 2.0, "precision": "fp32", "runs": 3})
    assert settled(item, Request(settings={"seconds": 5})) == {"seconds": 5, "precision": "fp32", "runs": 3}
    with pytest.raises(UserError, match=r"figure1 has no setting 'secnds'. Did you mean 'seconds'\? Known: seconds"):
        settled(item, Request(settings={"secnds": 5}))
    for wrong in ({"runs": 2.5}, {"runs": True}, {"precision": 3}, {"seconds": "long"}):
        with pytest.raises(UserError, match="expected a value like"):
            settled(item, Request(settings=wrong))
