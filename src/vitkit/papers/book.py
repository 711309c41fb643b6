"""Every table and figure, found by the modules of this package: each module with ``ITEM`` is one."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from types import ModuleType

from vitkit import papers
from vitkit.config import UserError, did_you_mean
from vitkit.console import Console
from vitkit.papers.item import Item, Outcome, Request

__all__ = ["all_items", "find_item", "run_item"]

NAMED = re.compile(r"(table|figure)(\d+)")


@cache
def _modules() -> dict[str, ModuleType]:
    found = [NAMED.fullmatch(module.name) for module in pkgutil.iter_modules(papers.__path__)]
    names = sorted((match for match in found if match), key=lambda match: (match[1] != "table", int(match[2])))
    return {match[0]: importlib.import_module(f"vitkit.papers.{match[0]}") for match in names}


@cache
def all_items() -> tuple[Item, ...]:
    """Tables, then figures, by number."""
    return tuple(module.ITEM for module in _modules().values())


def find_item(name: str) -> Item:
    """The item of a name: ``table6``, also ``Table 6`` or ``fig6``.

    Raises:
        UserError: none of that name, with the nearest.
    """
    plain = re.sub(r"[\s_.-]", "", name.lower())
    plain = re.sub(r"^fig(?=\d)", "figure", re.sub(r"^tab(?=\d)", "table", plain))
    items = {item.name: item for item in all_items()}
    if plain not in items:
        raise UserError(
            f"the paper has no {name!r} here; it has table1 to table9 and figure1 to figure14.{did_you_mean(plain, items)} "
            "vit paper lists them."
        )
    return items[plain]


def run_item(item: Item, request: Request, console: Console) -> Outcome:
    """Make it.

    Raises:
        UserError: what it needs was not given, or whatever its module raises.
    """
    outcome: Outcome = _modules()[item.name].run(request, console)
    return outcome
