"""`image-curation inspect SHARD`: what is in one tar, without curating anything."""

from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def inspect(
    shard: Annotated[str, typer.Argument(help="path or URL of a tar")],
    limit: Annotated[int, typer.Option(help="samples to list; 0 lists none")] = 20,
) -> None:
    """Show the samples of one tar: key, fields, image format and size, and what is wrong with them."""
    from image_curation.decode.limits import DecodeLimits
    from image_curation.shards.discover import discover
    from image_curation.shards.index import index_shard

    console = Console()
    tars, _ = discover(shard)
    if len(tars) > 1:
        raise typer.BadParameter(f"{shard} holds {len(tars)} tars; name one of them, e.g. {tars[0].url}")
    index = index_shard(tars[0], DecodeLimits())
    rows = index.table.to_pylist()
    table = Table("key", "image", "size", "fields", "caption", "status")
    for row in rows[:limit]:
        fields = ", ".join(sidecar["field"] for sidecar in row["sidecars"])
        size = f"{row['width']} x {row['height']}" if row["width"] else ""
        status = "ok" if row["status"] == "ok" else f"[red]{row['status']}[/]: {escape(row['error'] or '')}"
        table.add_row(
            escape(row["key"]), row["format"] or "", size, escape(fields), escape(row["caption"] or "")[:60], status
        )
    if limit:
        console.print(table)
    statuses = Counter(row["status"] for row in rows)
    console.print(f"{len(rows):,} samples: " + ", ".join(f"{n:,} {status}" for status, n in statuses.most_common()))
    for stray in index.strays[: limit or None]:
        console.print(f"member of no sample: {stray['name']} ({stray['reason']})", markup=False)
    if index.problem:
        console.print(f"[red]damage[/]: {escape(index.problem)}")
