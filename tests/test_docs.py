"""The documentation is real: links lead somewhere, commands and their options exist, the tree is the tree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import formats_page
from shared import ROOT
from vitkit.cli.main import cli

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in [*re.findall(r"^(vit .*)$", text, re.M), *re.findall(r"`(vit [^`]*)`", text)]:
        words = shlex.split(line.split("#")[0])
        assert words[1] in cli.commands, line
        options = {name for option in cli.commands[words[1]].params for name in option.opts}
        for word in words[2:]:
            if word.startswith("-") and word not in ("-h", "--help"):
                assert word.split("=")[0] in options, f"{page.name}: {line}"


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for target in re.findall(r"^make ([a-z]+)", page.read_text(encoding="utf-8"), re.M):
            assert target in targets, f"{page.name} names make {target}"


def test_the_readme_draws_the_tree_that_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "vitkit"
    for folder in sorted(p for p in package.iterdir() if p.is_dir() and (p / "__init__.py").exists()):
        assert re.search(rf"^  {folder.name}/ ", text, re.M), folder.name
    for name in re.findall(r"\b(\w+\.py)\b", text.split("## The tree")[1]):
        assert (package / name).exists(), name


def test_the_page_of_formats_says_what_the_tests_compare() -> None:
    assert formats_page.PAGE.read_text(encoding="utf-8") == formats_page.page(), (
        "write it again: python tests/formats_page.py"
    )
