"""Parquet artifacts that carry their birth certificate: a table and how it was made -> one file, whole or absent.

A certificate names everything that decides an artifact's content. Equal certificate: the artifact is reused, also after
a crash and by another run. Unequal: it is stale and made again. Times and machines are no part of it, so that the same
inputs give the same bytes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from image_curation import storage, vector_layout
from image_curation.errors import ArtifactError, StorageError

_CERTIFICATE, _CONTENT, _FACTS = b"image_curation.certificate", b"image_curation.content", b"image_curation.facts"


class Certificate(BaseModel):
    """What made an artifact: its kind, the version of its code, the settings that matter, and its inputs by content."""

    model_config = ConfigDict(frozen=True)

    artifact: str
    code_version: str
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}


class Artifact(BaseModel):
    """What is known of a stored artifact without reading its rows."""

    model_config = ConfigDict(frozen=True)

    url: str
    certificate: Certificate
    content: str
    rows: int
    facts: dict[str, Any]


def digest(value: object) -> str:
    """A short SHA-256 of any JSON-like value, equal for equal values whatever the order of keys (32 hex digits)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def content_hash(table: pa.Table) -> str:
    """SHA-256 over the schema and rows of a table, without its metadata (32 hex digits)."""
    bare = table.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, bare.schema) as writer:
        writer.write_table(bare)
    return hashlib.sha256(memoryview(sink.getvalue())).hexdigest()[:32]


def write_table(
    url: str,
    table: pa.Table,
    certificate: Certificate,
    facts: dict[str, Any] | None = None,
    row_group_rows: int = 10_000,
) -> Artifact:
    """Write `table` (zstd Parquet) with its certificate, and facts about the making that are no rows.

    Vectors are laid out as `vector_files` reads them.
    """
    content = content_hash(table)
    metadata = {
        _CERTIFICATE: certificate.model_dump_json().encode(),
        _CONTENT: content.encode(),
        _FACTS: json.dumps(facts or {}, sort_keys=True).encode(),
        **vector_layout.mark(table.schema),
    }
    encoding = _encoding(table.schema, row_group_rows)
    with storage.write_atomic(url) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, row_group_size=row_group_rows, **encoding)
    return Artifact(url=url, certificate=certificate, content=content, rows=table.num_rows, facts=facts or {})


def read_artifact(url: str) -> Artifact:
    """Read the certificate and facts of an artifact, not its rows.

    Raises:
        ArtifactError: it is not there, or is no artifact of ours.
    """
    with opened(url) as (_, parquet):
        metadata = parquet.schema_arrow.metadata or {}
        if _CERTIFICATE not in metadata:
            raise ArtifactError(
                f"{url} carries no birth certificate, so it was not made by image-curation: move it away."
            )
        try:
            return Artifact(
                url=url,
                certificate=Certificate.model_validate_json(metadata[_CERTIFICATE]),
                content=metadata[_CONTENT].decode(),
                rows=parquet.metadata.num_rows,
                facts=json.loads(metadata[_FACTS]),
            )
        except (KeyError, ValueError) as error:
            raise ArtifactError(
                f"{url} has a birth certificate that this version does not understand: {error}. "
                "Delete it; the next run makes it again."
            ) from error


def fresh(url: str, certificate: Certificate) -> Artifact | None:
    """The stored artifact if it is there and was made exactly as `certificate` says, else None."""
    try:
        artifact = read_artifact(url)
    except ArtifactError:
        return None
    return artifact if artifact.certificate == certificate else None


def read_table(url: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read an artifact's rows (or some of its columns).

    Raises:
        ArtifactError: it is not there or cannot be read.
    """
    with opened(url) as (_, parquet):
        # In this thread: the file is a Python object, and a thread of Arrow that lets go of it while the interpreter
        # ends can abort the process. Columns in parallel gain nothing: nearly all there is to read is one, the vectors.
        return parquet.read(columns=None if columns is None else list(columns), use_threads=False)


@contextmanager
def opened(url: str) -> Iterator[tuple[BinaryIO, pq.ParquetFile]]:
    """An artifact opened from storage, as a file and as Parquet; errors of reading on are renamed too.

    Raises:
        ArtifactError: it is not there or cannot be read.
    """
    if not storage.exists(url):
        raise ArtifactError(f"{url} has not been made yet: materialize it, or run `image-curation curate`.")
    try:
        with storage.open_read(url) as file:
            yield file, pq.ParquetFile(file)
    except (pa.ArrowException, StorageError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{url} cannot be read: {reason}. Delete it; the next run makes it again.") from error


def _encoding(schema: pa.Schema, row_group_rows: int) -> dict[str, Any]:
    """zstd and dictionaries, but not for vectors, which do not compress: they lie plain, to be found by their place."""
    vectors = vector_layout.vector_columns(schema)
    others = [name for name in schema.names if name not in vectors]
    plain = dict.fromkeys([vector_layout.leaf_name(schema.field(name)) for name in vectors], "none")
    options = {"compression": dict.fromkeys(others, "zstd") | plain, "use_dictionary": others}
    return options | (vector_layout.write_options(row_group_rows) if vectors else {})
