"""How vectors lie in an artifact: the options to write it so, and the footer of a file -> where each vector is.

A column of vectors is stored plain, uncompressed and as one page a row group. So its numbers are the end of each column
chunk, behind the levels that say which rows are null; a null takes no place among them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from image_curation.errors import ArtifactError

HEADER_BYTES = 32
"""As far as the header of a page says how many entries it has."""

_MARK = b"image_curation.vectors"  # the columns that are laid out so
_LARGEST_PAGE_BYTES = 2**31 - 1  # a larger one is an error of Parquet's, not two pages
_I32, _STRUCT = 0x5, 0xC  # types of Thrift's compact protocol


@dataclass(frozen=True)
class Chunk:
    """The vectors of one row group: where its page begins, how many entries it has, where vectors begin, how many."""

    page: int
    entries: int
    start: int
    count: int


@dataclass(frozen=True)
class Layout:
    """Where the vectors of a file lie."""

    dim: int
    chunks: tuple[Chunk, ...]


def vector_columns(schema: pa.Schema) -> list[str]:
    """The columns whose values all have one length: vectors as lists or packed."""
    return [
        field.name
        for field in schema
        if pa.types.is_fixed_size_list(field.type) or pa.types.is_fixed_size_binary(field.type)
    ]


def leaf_name(field: pa.Field) -> str:
    """What Parquet calls the numbers of a column of vectors."""
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else str(field.name)


def mark(schema: pa.Schema) -> dict[bytes, bytes]:
    """The metadata that tells a reader which columns are laid out so."""
    columns = vector_columns(schema)
    return {_MARK: json.dumps(columns).encode()} if columns else {}


def write_options(row_group_rows: int) -> dict[str, Any]:
    """What `pq.write_table` needs beside encodings: one page a row group."""
    return {"data_page_size": _LARGEST_PAGE_BYTES, "max_rows_per_page": row_group_rows}


def layout_of(url: str, parquet: pq.ParquetFile, column: str) -> Layout:
    """Where the vectors of a column lie in an opened file, if what its footer says adds up.

    Raises:
        ArtifactError: the file was not written so, or the column holds no vectors in fp16.
    """
    schema, footer = parquet.schema_arrow, parquet.metadata
    if column not in json.loads((schema.metadata or {}).get(_MARK, b"[]")):
        raise _unfit(url, column, "is not marked as one that is one page a row group")
    field = schema.field(column)
    dim = _dim(field.type)
    if not dim:
        raise _unfit(url, column, f"is of type {field.type}, which is no vector in fp16")
    groups = [group for i in range(footer.num_row_groups) if (group := footer.row_group(i)).num_rows]
    return Layout(dim, tuple(_chunk(url, group, field, dim) for group in groups))


def check_page(url: str, column: str, chunk: Chunk, header: bytes | bytearray) -> None:
    """Refuse a chunk whose first page, with this header [HEADER_BYTES], is not its only one.

    A program that writes a file anew may copy the mark with the other metadata, but no layout.

    Raises:
        ArtifactError: there are more pages.
    """
    found = _entries(header)
    if found != chunk.entries:
        raise _unfit(
            url, column, f"has {chunk.entries:,} entries in a row group, of which its first page holds {found:,}"
        )


def _dim(kind: pa.DataType) -> int:
    """The length of a vector in fp16 of this type; 0 where it is none."""
    if pa.types.is_fixed_size_binary(kind):
        return int(kind.byte_width) // 2 if kind.byte_width % 2 == 0 else 0
    return int(kind.list_size) if pa.types.is_float16(kind.value_type) else 0


def _chunk(url: str, group: Any, field: pa.Field, dim: int) -> Chunk:
    columns = (group.column(i) for i in range(group.num_columns))
    column = next(column for column in columns if column.path_in_schema == leaf_name(field))
    if column.compression != "UNCOMPRESSED" or not set(column.encodings) <= {"PLAIN", "RLE"} or not column.statistics:
        raise _unfit(url, field.name, "is compressed, encoded or without statistics")
    nulls = column.statistics.null_count
    count = group.num_rows - nulls
    start = column.data_page_offset + column.total_compressed_size - count * 2 * dim
    entries = nulls + count * (dim if pa.types.is_fixed_size_list(field.type) else 1)
    if column.num_values != entries or start < column.data_page_offset:
        raise _unfit(url, field.name, f"has {count:,} vectors in {column.total_compressed_size:,} bytes")
    return Chunk(column.data_page_offset, entries, start, count)


def _entries(header: bytes | bytearray) -> int:
    """How many entries, nulls among them, a data page has, by the first fields of its header (Thrift); 0: no header."""
    rest = iter(header)
    for byte in rest:  # its type, its sizes and a checksum are numbers; the struct behind them begins with the entries
        if byte & 0xF == _STRUCT and next(rest, 0) & 0xF == _I32:
            return _number(rest)
        if byte & 0xF != _I32:
            break
        _number(rest)
    return 0


def _number(rest: Iterator[int]) -> int:
    """The next number, 7 bits a byte and the lowest first; zigzag, which is twice a number that is not negative."""
    value = shift = 0
    for byte in rest:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value >> 1


def _unfit(url: str, column: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"{url}: column {column} {what}, so its vectors cannot be found by their place. The file was written by an "
        "older image-curation, or by something else: delete it; the next run makes it again."
    )
