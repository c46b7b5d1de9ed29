"""Kept samples -> what other programs read: a list without bytes, document rows, or MosaicML's shards.

| name | what is written | from |
|---|---|---|
| `list` | one Parquet: URL of the raw tar, offset and size of each image, and all that is known of it | the selection |
| `documents` | JSON lines or Parquet: caption as text, the rest as metadata | the selection |
| `mds` | a folder that mosaicml-streaming reads: image, caption, JSON | the release |
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from image_curation.project import Project


@dataclass(frozen=True)
class Exported:
    """How many samples were written, and reason -> how many were not."""

    written: int
    left_out: dict[str, int]


EXPORTS = {"list": "image_list", "documents": "documents", "mds": "mds"}
"""Name -> the module here that has `export`."""


def export(name: str, project: Project, out: str) -> Exported:
    """Write one kind of export, named in `EXPORTS`, to a file or folder."""
    run: Callable[[Project, str], Exported] = import_module(f"{__name__}.{EXPORTS[name]}").export
    return run(project, out)
