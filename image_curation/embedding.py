"""What a table of embeddings is: its schema, its rows while they are made, and its vectors as an array."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:  # DALI is loaded by those who bring it
    from image_curation.decode.decoder import Decoded

CODE_VERSION = "4"

INDEX_COLUMNS = (
    "shard", "key", "status", "error", "image_offset", "image_size", "format", "width", "height", "orientation",
    "damaged",
)  # fmt: skip
"""What is needed of a `shard_index` table to embed its samples."""

_MEASURES = (
    pa.field("phash", pa.uint64()),
    pa.field("sharpness", pa.float32()),
    pa.field("exposure", pa.float32()),
    pa.field("contrast", pa.float32()),
)
_FACTS = (
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("decoder", pa.string()),
    pa.field("damaged", pa.bool_()),
)


def embeddings_schema(dim: int) -> pa.Schema:
    """One row a sample of the index, in its order. `vector` is a unit vector in fp16, null where `status` is not ok."""
    text = [pa.field(name, pa.string(), nullable=name == "error") for name in ("shard", "key", "status", "error")]
    return pa.schema([*text, pa.field("vector", vector_type(dim)), *_FACTS, *_MEASURES])


def vector_type(dim: int) -> pa.DataType:
    """A list of `dim` numbers in fp16, none of which is null: so it is read a third faster."""
    return pa.list_(pa.field("element", pa.float16(), nullable=False), dim)


class EmbeddingRows:
    """The rows of one shard while they are made, column by column. Each method may run on a thread of its own.

    Args:
        index: the `INDEX_COLUMNS` of n samples. They begin with the index's status and error, and no vector.
        dim: length of a vector.
    """

    def __init__(self, index: pa.Table, dim: int) -> None:
        n = len(index)
        self._shard, self._key = index["shard"], index["key"]
        self._status: list[str] = index["status"].to_pylist()
        self._error: list[str | None] = index["error"].to_pylist()
        self._vectors = np.zeros((n, dim), np.float16)
        self._decoded = np.zeros(n, bool)
        self._columns: dict[str, npt.NDArray[Any]] = {
            field.name: np.zeros(n, object if pa.types.is_string(field.type) else field.type.to_pandas_dtype())
            for field in (*_FACTS, *_MEASURES)
        }

    def add_decoded(self, positions: npt.NDArray[np.int64], decoded: "Decoded") -> None:
        """Write down what decoding the samples at `positions` [m] showed: facts and measures, or the error."""
        for place, (status, error) in decoded.errors.items():
            self._fail(int(positions[place]), status, error)
        good = positions[decoded.rows]
        self._decoded[good] = True
        for field in _FACTS:
            self._columns[field.name][good] = [getattr(facts, field.name) for facts in decoded.facts]
        for name, values in decoded.measures.items():
            self._columns[name][good] = values

    def add_vectors(self, positions: npt.NDArray[np.int64], vectors: npt.NDArray[np.float16]) -> None:
        """Write down the vectors [m, dim] of the samples at `positions` [m]; one that is not finite is an error."""
        finite = np.asarray(np.isfinite(vectors).all(axis=1))
        self._vectors[positions[finite]] = vectors[finite]
        for position in positions[~finite].tolist():
            self._fail(position, status="encode_failed", error="the encoder gave a vector that is not finite.")

    def table(self) -> pa.Table:
        """All n rows, as `embeddings_schema` has them."""
        dim = self._vectors.shape[1]
        schema = embeddings_schema(dim)
        bad = pa.array([status != "ok" for status in self._status], pa.bool_())
        columns = {
            "shard": self._shard,
            "key": self._key,
            "status": pa.array(self._status, pa.string()),
            "error": pa.array(self._error, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(self._vectors.ravel()), type=vector_type(dim), mask=bad
            ),
        } | {
            field.name: pa.array(self._columns[field.name], field.type, mask=~self._decoded)
            for field in (*_FACTS, *_MEASURES)
        }
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _fail(self, position: int, status: str, error: str) -> None:
        self._status[position] = status
        self._error[position] = f"{self._shard[position]}/{self._key[position]}: {error}"


def vectors_of(table: pa.Table) -> npt.NDArray[np.float16]:
    """The `vector` column, a list of numbers or `packed`, as fp16 [n, dim]; rows without a vector are zeros."""
    column = table["vector"].combine_chunks()
    is_packed = pa.types.is_fixed_size_binary(column.type)
    dim = column.type.byte_width // 2 if is_packed else column.type.list_size
    dtype = np.float16 if is_packed else column.type.value_type.to_pandas_dtype()
    numbers = column.buffers()[1] if is_packed else column.values.buffers()[1]
    first = column.offset + (0 if is_packed else column.values.offset // dim)
    whole = np.frombuffer(numbers or b"", dtype).reshape(-1)[: (first + len(column)) * dim]
    vectors: npt.NDArray[np.float16] = whole.reshape(-1, dim)[first:].astype(np.float16)
    vectors[~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    return vectors


def packed(rows: npt.NDArray[Any]) -> pa.Array:
    """Rows of numbers [n, k] as values of a row's bytes: ten times as fast to write and read as lists of numbers."""
    n, k = rows.shape
    content = pa.py_buffer(np.ascontiguousarray(rows))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(k * rows.itemsize), n, [None, content])


def unpacked(column: pa.ChunkedArray, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """What `packed` made, [n, k]."""
    whole = column.combine_chunks()
    width = whole.type.byte_width
    content = np.frombuffer(whole.buffers()[1] or b"", np.uint8)[whole.offset * width :][: len(whole) * width]
    return content.view(dtype).reshape(len(whole), width // np.dtype(dtype).itemsize)
