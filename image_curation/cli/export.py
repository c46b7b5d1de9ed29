"""`image-curation export OUT --as KIND`: what was kept, for programs that do not read WebDataset tars."""

from typing import Annotated

import typer
from rich.console import Console

from image_curation.cli.options import Root
from image_curation.cli.tables import say


def export(
    out: Annotated[str, typer.Argument(help="file (list, documents) or folder (mds) to write; URLs will do")],
    root: Root,
    kind: Annotated[str, typer.Option("--as", help="list, documents or mds")] = "list",
) -> None:
    """Write the kept samples as a list of places without bytes, as documents for text pipelines, or as MDS shards."""
    from image_curation.export import EXPORTS
    from image_curation.export import export as run
    from image_curation.project import Project

    if kind not in EXPORTS:
        raise typer.BadParameter(f"{kind!r} should be one of {', '.join(EXPORTS)}.", param_hint="--as")
    exported = run(kind, Project.recall(root), out)
    console = Console()
    say(console, kind, f"  {out}: {exported.written:,} samples")
    for reason, n in exported.left_out.items():
        say(console, "left out", f"  {n:,} samples: {reason.replace('_', ' ')}", "yellow")
