"""`vit recipes`: every recipe, with what it trains, what it costs and the number to expect."""

from __future__ import annotations

from vitkit.analysis.flops import training_exaflops
from vitkit.console import Console, percent
from vitkit.recipes.book import all_recipes
from vitkit.recipes.recipe import Recipe, steps_of

__all__ = ["describe_recipe", "list_recipes"]


def list_recipes(text: str = "", *, console: Console | None = None) -> tuple[Recipe, ...]:
    """Print and return the recipes that have every word of ``text`` in name or title."""
    words = text.lower().split()
    found = tuple(r for r in all_recipes() if all(word in f"{r.name} {r.title}".lower() for word in words))
    if console is not None:
        for recipe in found:
            console.say(describe_recipe(recipe))
        console.say(f"{len(found)} of {len(all_recipes())} recipes. vit pretrain RECIPE data=FOLDER --out RUN")
    return found


def describe_recipe(recipe: Recipe) -> str:
    """Two or three lines for people."""
    steps = steps_of(recipe, recipe.images)
    flops = training_exaflops(recipe.model, steps * recipe.batch_size)
    cost = f"{flops:,.1f} exaFLOPs" if flops >= 0.1 else f"{1000 * flops:,.2g} petaFLOPs"
    needs = ", start=WEIGHTS" if recipe.needs_start else ""
    lines = [
        f"{recipe.name}",
        f"    {recipe.title}",
        f"    {steps:,} steps of {recipe.batch_size:,} images at {recipe.model.image_size[0]} pixels, {cost}{needs}",
    ]
    lines += [f"    expect {percent(number.value)} {number.what} ({number.source})" for number in recipe.expected]
    return "\n".join(lines)
