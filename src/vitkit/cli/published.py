"""The command about published data sets."""

from __future__ import annotations

import click

from vitkit.cli.options import common, console_for, print_json

__all__ = ["datasets"]


@click.command(
    short_help="Published data sets that are read by name: images, classes, licence, where to put the files."
)
@click.argument("name", required=False)
@common
def datasets(name: str | None, as_json: bool, offline: bool) -> None:
    """List the published data sets that are read from the publisher's own files, or show the one called NAME.

    DATA is then NAME=FOLDER with the folder that holds these files.
    """
    from vitkit.jobs.datasets import describe_dataset, list_datasets

    rows = list_datasets(name, console=None if as_json else console_for(as_json, offline))
    if as_json:
        found = [describe_dataset(row) for row in rows]
        print_json(found if name is None else found[0])
