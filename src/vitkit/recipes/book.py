"""Every recipe, found by the modules of this package: each module with ``RECIPES`` holds some."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from vitkit import recipes
from vitkit.config import UserError, did_you_mean
from vitkit.recipes.recipe import Recipe

__all__ = ["all_recipes", "find_recipe"]


@cache
def all_recipes() -> tuple[Recipe, ...]:
    """All recipes, by module and then in the module's order."""
    names = sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))
    modules = (importlib.import_module(f"vitkit.recipes.{name}") for name in names if name != "book")
    return tuple(recipe for module in modules for recipe in getattr(module, "RECIPES", ()))


def find_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UserError: none of that name, with the nearest.
    """
    found = [recipe for recipe in all_recipes() if recipe.name == name]
    if not found:
        names = [recipe.name for recipe in all_recipes()]
        raise UserError(f"no recipe {name!r}.{did_you_mean(name, names)} `vit recipes` lists all {len(names)}.")
    return found[0]
