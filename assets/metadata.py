"""Outcomes and pictures -> Dagster metadata."""

import base64
from typing import Any

import dagster as dg

from image_curation.ledger import Ledger

Metadata = dict[str, Any]

KEPT, DROPPED, FAILED = "#0072b2", "#e69f00", "#d55e00"  # the report's colours, of which none need be told from red

_BAR = 20  # characters; Dagster shows Markdown in place only below a thousand


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG, one click away: Dagster shows in place only what is small."""
    return dg.MetadataValue.md(f"![](data:image/png;base64,{base64.b64encode(png).decode()})")


def shares(ledger: Ledger) -> dg.MarkdownMetadataValue:
    """What was kept, dropped and failed, as a bar that is small enough to be shown in place."""
    parts = [(ledger.kept, KEPT), (sum(ledger.dropped.values()), DROPPED), (sum(ledger.failed.values()), FAILED)]
    rects, left, unit = "", 0.0, 400 / max(1, ledger.read)
    for count, colour in parts:
        rects += f'<rect x="{left:.1f}" width="{count * unit:.1f}" height="14" fill="{colour}"/>'
        left += count * unit
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="400" height="14">{rects}</svg>'
    return dg.MetadataValue.md(f"![](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})")


def counts(values: dict[str, int], name: str, of: str = "samples") -> dg.MarkdownMetadataValue:
    """A table of counts of `of`, with a bar for the share of each."""
    all_of_them = max(1, sum(values.values()))
    rows = [f"| {key} | {n:,} | {'━' * round(_BAR * n / all_of_them)} |\n" for key, n in values.items()]
    return dg.MetadataValue.md(f"| {name} | {of} | |\n|:--|--:|:--|\n{''.join(rows) or '| none | 0 | |' + chr(10)}")


def link(url: str) -> dg.UrlMetadataValue | dg.PathMetadataValue:
    """A place that a browser can open as a link, any other as a path to copy."""
    return dg.MetadataValue.url(url) if url.startswith(("http://", "https://")) else dg.MetadataValue.path(url)


def speed(rows: int, seconds: float) -> Metadata:
    """How long it took, in numbers that people read and Dagster plots."""
    return {"samples_per_second": round(rows / max(seconds, 1e-9), 1), "seconds": round(seconds, 2)}
