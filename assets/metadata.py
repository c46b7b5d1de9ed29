"""Outcomes and pictures -> Dagster metadata."""

import base64
from typing import Any

import dagster as dg

Metadata = dict[str, Any]


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG that Dagster shows in place."""
    return dg.MetadataValue.md(f"![](data:image/png;base64,{base64.b64encode(png).decode()})")


def counts(values: dict[str, int], name: str) -> dg.MarkdownMetadataValue:
    """A table of counts."""
    rows = "".join(f"| {key} | {n:,} |\n" for key, n in values.items()) or "| none | 0 |\n"
    return dg.MetadataValue.md(f"| {name} | samples |\n|:--|--:|\n{rows}")
