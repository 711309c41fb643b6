"""The command of the results board."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vitkit.cli.options import common, console_for, print_json

__all__ = ["results"]


@click.command(short_help="Published results and ours beside them; add a run's; write them as a site.")
@click.argument("words", nargs=-1, metavar="[FILTER...] | add RUN | site OUT")
@click.option("--dataset", metavar="D", help="Only of this data set; with add: what the scored DATA is on the board.")
@click.option("--task", metavar="T", help="Only of this task; with add: the task on the board.")
@click.option("--model", metavar="M", help="Only of models whose name holds this.")
@click.option("--source", metavar="paper|community|ours", help="Only from there.")
@click.option("--sort", default="metric", show_default=True, metavar="metric|date", help="Best or newest first.")
@click.option("--model-name", metavar="NAME", help="With add: the model's name on the board.")
@click.option("--part", is_flag=True, help="With add: mark it as scored on a part of the published images.")
@common
def results(
    words: Sequence[str],
    dataset: str | None,
    task: str | None,
    model: str | None,
    source: str | None,
    sort: str,
    model_name: str | None,
    part: bool,
    as_json: bool,
    offline: bool,
) -> None:
    """Print the results that answer to every word of FILTER, such as `cifar10`, `vtab` or `h/14`; without one an overview.

    `add RUN` checks the results of a run and keeps them in $VITKIT_BOARD, else ./results-board. RUN is a run folder of
    finetune or pretrain, or what `vit evaluate --out` wrote. `site OUT` writes the board as a static site.
    """
    from vitkit.board.entries import all_entries
    from vitkit.jobs import results as job

    console = console_for(as_json, offline)
    verb = words[0] if words else ""
    if verb in ("add", "site"):
        what = "RUN" if verb == "add" else "OUT"
        if len(words) != 2:
            raise click.UsageError(f"name one {what}: vit results {verb} {what}.")
        unused = {"--model": model, "--source": source} if verb == "add" else (
            {"--dataset": dataset, "--task": task, "--model": model, "--source": source, "--model-name": model_name,
             "--part": part or None}
        )  # fmt: skip
        if given := [option for option, value in unused.items() if value is not None]:
            raise click.UsageError(f"{given[0]} says nothing to vit results {verb}.")
    elif model_name or part:
        raise click.UsageError("--model-name and --part belong to vit results add RUN.")
    if verb == "site":
        job.write_results_site(words[1], console=console)
        return
    if verb == "add":
        entries = job.add_result(
            words[1], dataset=dataset or "", task=task or "", model_name=model_name or "", part=part, console=console
        )
    else:
        entries = job.results(
            *words,
            dataset=dataset,
            task=task,
            model=model,
            source=source,
            sort=sort,
            console=None if as_json else console,
        )
    if as_json:
        everything = all_entries()
        print_json([job.describe_entry(entry, everything) for entry in entries])
