"""Rows of a table -> a hash of what they say, whatever the chunks, buffers and offsets they are stored in."""

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc


def rows_hash(rows: pa.Table, *texts: str) -> str:
    """SHA-256 (hex) over `texts`, and names, types and values of all columns.

    Arrow's own serialization would not do: it keeps what lies below a null, and equal slices differ in it.
    """
    hasher = hashlib.sha256()
    for part in (*map(_text, texts), *(part for name in rows.column_names for part in _column(name, rows[name]))):
        hasher.update(part)
    return hasher.hexdigest()


def _text(text: str) -> bytes:
    content = text.encode()
    return len(content).to_bytes(8, "little") + content


def _column(name: str, column: pa.ChunkedArray) -> Iterator[bytes]:
    yield _text(name)
    yield from _values(column.combine_chunks())


def _values(array: pa.Array) -> Iterator[bytes]:
    """Type, lengths and values of an array in an order that makes them unambiguous; nothing for the value of a null."""
    kind = array.type
    yield _text(f"{_name(kind)} {len(array)} {array.null_count}")
    if array.null_count:
        yield _raw(array.is_valid())
        array = array.drop_null()
    if pa.types.is_struct(kind):
        for field in array.flatten():
            yield from _values(field)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield _raw(pc.list_value_length(array))
        yield from _values(array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield _raw(pc.binary_length(array))
        yield b"".join(array.cast(pa.large_binary()).to_pylist())
    elif not pa.types.is_null(kind):
        yield _raw(array)


def _name(kind: pa.DataType) -> str:
    """The name of a type, without that of a list's items, which depends on whether the list came from Parquet."""
    if pa.types.is_struct(kind):
        return f"struct {[field.name for field in kind]}"
    return str(kind) if kind.num_fields == 0 else "list"


def _raw(array: pa.Array) -> bytes:
    content: bytes = array.to_numpy(zero_copy_only=False).tobytes()
    return content
