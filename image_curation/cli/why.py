"""`image-curation why KEY`: why one image was kept or dropped."""

from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from image_curation.cli.options import Root


def why(
    key: Annotated[str, typer.Argument(help="key of a sample, or SHARD/KEY where several shards have the key")],
    root: Root,
) -> None:
    """Say why an image was kept or dropped: its measures, its duplicate group and what made it, and the rule."""
    from image_curation.project import Project
    from image_curation.why import explain

    console = Console()
    explanations = explain(Project.recall(root), key)
    for one in explanations:
        colour = {"kept": "green", "dropped": "yellow", "failed": "red"}[one.decision]
        console.print(
            f"[bold]{escape(one.shard)}/{escape(one.key)}[/]  [{colour}]{one.decision}[/]  {escape(one.sentence)}"
        )
        console.print(_facts(one.facts))
        for line in one.group:
            console.print(f"  {line}", markup=False, highlight=False)
        if one.chain:
            console.print("  pairs that lead to its representative:")
        for line in one.chain:
            console.print(f"    {line}", markup=False, highlight=False)
        if one.lineage:
            console.print("  what made the group:")
            console.print(_facts(one.lineage))


def _facts(facts: Mapping[str, str]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), escape(value))
    return table
