"""The selection -> document rows for text pipelines: the caption is the text, all else that is known is metadata."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from image_curation import storage
from image_curation.errors import ConfigError
from image_curation.export import Exported
from image_curation.project import Project
from image_curation.steps.curated_shards import kept_rows

Document = dict[str, Any]

_APART = ("caption", "metadata", "sidecars", "vector")


def export(project: Project, out: str) -> Exported:
    """Write `id`, `text` and `metadata` of each kept sample with a caption, as datatrove and its like read them.

    `out` ends with `.jsonl`, `.jsonl.gz` (metadata is an object) or `.parquet` (metadata is JSON text). The id is shard
    and key. Samples without a caption are counted as `no_caption`.

    Raises:
        ConfigError: another ending, or nothing was curated.
    """
    write = next((_WRITERS[ending] for ending in _WRITERS if out.endswith(ending)), None)
    if write is None:
        raise ConfigError(f"documents are written as {', '.join(_WRITERS)}: {out} should end with one of these.")
    counts: Counter[str] = Counter()
    with storage.write_atomic(out) as file:
        write(file, _documents(project, counts))
    written = counts.pop("written", 0)
    return Exported(written, {reason: n for reason, n in counts.items() if n})


def _documents(project: Project, counts: Counter[str]) -> Iterator[list[Document]]:
    """The documents of each shard; `counts` learns how many were written and left out."""
    for shard in project.selected_shards():
        rows = kept_rows(project, shard).to_pylist()
        told = [row for row in rows if row["caption"]]
        counts.update(written=len(told), no_caption=len(rows) - len(told))
        yield [
            {"id": f"{row['shard']}/{row['key']}", "text": row["caption"], "metadata": _metadata(row)} for row in told
        ]


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    """The sample's own JSON under `original`, the rest beside it; nothing that is null."""
    known = {name: value for name, value in row.items() if name not in _APART and value is not None}
    known = {name: value for name, value in known.items() if not isinstance(value, float) or isfinite(value)}
    return known | ({"original": _parsed(row["metadata"])} if row["metadata"] else {})


def _parsed(text: str) -> Any:
    """What Python takes for JSON, with null for the numbers that JSON has not: NaN, infinity, 1e999."""

    def number(digits: str) -> float | None:
        value = float(digits)
        return value if isfinite(value) else None

    return json.loads(text, parse_float=number, parse_constant=number)


def _printed(value: Any) -> bytes:
    """JSON in UTF-8. Half of a surrogate pair, which JSON can spell out but which is no text, becomes `?`."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _write_lines(file: BinaryIO, parts: Iterable[list[Document]]) -> None:
    for documents in parts:
        file.write(b"".join(_printed(document) + b"\n" for document in documents))


def _write_gzipped(file: BinaryIO, parts: Iterable[list[Document]]) -> None:
    with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped:  # no time: equal rows give equal bytes
        _write_lines(cast(BinaryIO, zipped), parts)


def _write_parquet(file: BinaryIO, parts: Iterable[list[Document]]) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("id", "text", "metadata")])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for documents in parts:
            rows = [document | {"metadata": _printed(document["metadata"]).decode()} for document in documents]
            writer.write_table(pa.Table.from_pylist(rows, schema))


_WRITERS = {".jsonl": _write_lines, ".jsonl.gz": _write_gzipped, ".parquet": _write_parquet}
