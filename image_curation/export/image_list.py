"""The selection -> a list-only release: where each kept image lies in the raw tars, what is known of it, no bytes."""

import pyarrow as pa
import pyarrow.parquet as pq

from image_curation import storage
from image_curation.errors import ConfigError
from image_curation.export import Exported
from image_curation.project import Project
from image_curation.steps.curated_shards import kept_rows

_ROW_GROUP = 50_000


def export(project: Project, out: str) -> Exported:
    """Write one Parquet file, shard by shard.

    Columns: `url` of the raw tar, `image_offset` and `image_size` in bytes, `sha256` of the image, `sidecars` with the
    same for each of them, shard and key, caption, metadata (JSON text), format, size in pixels, scores and measures.
    A reader needs nothing but range requests; the raw tars must stay as they are.

    Raises:
        ConfigError: `out` is no name of a Parquet file, or nothing was curated.
    """
    if not out.endswith(".parquet"):
        raise ConfigError(f"a list is written as one Parquet file: {out} should end with .parquet.")
    written = 0
    with storage.write_atomic(out) as file:
        writer: pq.ParquetWriter | None = None
        for shard in project.selected_shards():
            rows = _ordered(kept_rows(project, shard))
            writer = writer or pq.ParquetWriter(file, rows.schema, compression="zstd")
            writer.write_table(rows, row_group_size=_ROW_GROUP)
            written += rows.num_rows
        if writer:
            writer.close()
    return Exported(written, {})


def _ordered(rows: pa.Table) -> pa.Table:
    """Where an image lies, first."""
    first = ["url", "image_offset", "image_size", "sha256"]
    return rows.select([*first, *(name for name in rows.column_names if name not in first)])
