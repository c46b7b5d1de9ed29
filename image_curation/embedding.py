"""The embedding engine: a shard's index and tar -> one row a sample with its vector, or with the error that it met."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_curation import storage
from image_curation.decode.phash import phash
from image_curation.decode.quality import contrast, exposure, sharpness

if TYPE_CHECKING:  # DALI and the models are loaded by those who bring them
    from image_curation.decode.decoder import Decoded, ImageDecoder
    from image_curation.encoders import Encoder

CODE_VERSION = "1"

_BATCH_BYTES = 1 << 28  # of encoded images held at a time

_FACTS = (
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("decoder", pa.string()),
    pa.field("damaged", pa.bool_()),
    pa.field("phash", pa.uint64()),
    pa.field("sharpness", pa.float32()),
    pa.field("exposure", pa.float32()),
    pa.field("contrast", pa.float32()),
)


def embeddings_schema(dim: int) -> pa.Schema:
    """One row a sample of the index, in its order. `vector` is a unit vector in fp16, null where `status` is not ok."""
    text = [pa.field(name, pa.string(), nullable=name == "error") for name in ("shard", "key", "status", "error")]
    return pa.schema([*text, pa.field("vector", pa.list_(pa.float16(), dim)), *_FACTS])


def embed_shard(
    index: pa.Table, tar_url: str, decoder: "ImageDecoder", encoder: "Encoder", batch_size: int
) -> pa.Table:
    """Decode and embed every sample of a shard that its index found good.

    Args:
        index: a `shard_index` table of n rows.
        tar_url: the tar that it describes.
        decoder: makes uint8 [m, size, size, 3] of image bytes.
        encoder: makes unit vectors, fp16 [m, dim], of these.
        batch_size: images read, decoded and embedded at a time, fewer where they are large; bounds memory whatever the
            shard's size.

    Returns:
        n rows in the order of the index. A bad image costs its row: it gets a status and an error, and no vector.
    """
    rows: list[dict[str, Any]] = [
        {name: row[name] for name in ("shard", "key", "status", "error")}
        for row in index.select(["shard", "key", "status", "error"]).to_pylist()
    ]
    vectors = np.zeros((len(rows), encoder.dim), np.float16)
    for positions, images in _read_batches(index, tar_url, batch_size):
        decoded = decoder.decode(images)
        for place, (status, error) in decoded.errors.items():
            rows[positions[place]].update(status=status, error=f"{_where(rows[positions[place]])}: {error}")
        if len(decoded.rows):
            _fill(rows, vectors, positions[decoded.rows], decoded, encoder.encode(decoded.pixels))
    return _table(rows, vectors)


def _read_batches(
    index: pa.Table, tar_url: str, batch_size: int
) -> Iterator[tuple[npt.NDArray[np.int64], list[bytes]]]:
    """Positions and image bytes of the samples that the index found good, `batch_size` at a time."""
    good = np.flatnonzero(np.array(index["status"].to_pylist(), dtype=object) == "ok")
    offsets, sizes = index["image_offset"].to_pylist(), index["image_size"].to_pylist()
    for positions in _batches(good, sizes, batch_size):
        yield positions, storage.read_ranges(tar_url, [(offsets[i], sizes[i]) for i in positions])


def _batches(positions: npt.NDArray[np.int64], sizes: list[int], batch_size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Runs of at most `batch_size` positions, shorter where their images are more than `_BATCH_BYTES` together."""
    start, held = 0, 0
    for end, position in enumerate(positions):
        if end > start and (end - start == batch_size or held + sizes[position] > _BATCH_BYTES):
            yield positions[start:end]
            start, held = end, 0
        held += sizes[position]
    if start < len(positions):
        yield positions[start:]


def _fill(
    rows: list[dict[str, Any]],
    vectors: npt.NDArray[np.float16],
    positions: npt.NDArray[np.int64],
    decoded: "Decoded",
    encoded: npt.NDArray[np.float16],
) -> None:
    """Write one batch's results to its rows. `decoded` and `encoded` are aligned with `positions`."""
    pixels = decoded.pixels if isinstance(decoded.pixels, np.ndarray) else decoded.pixels.cpu().numpy()
    measures: dict[str, npt.NDArray[Any]] = {
        "phash": phash(decoded.thumbs),
        "sharpness": sharpness(pixels),
        "exposure": exposure(decoded.thumbs),
        "contrast": contrast(decoded.thumbs),
    }
    finite = np.asarray(np.isfinite(encoded).all(axis=1))
    for i, position in enumerate(positions):
        row, facts = rows[position], decoded.facts[i]
        row.update({name: values[i].item() for name, values in measures.items()})
        row.update(width=facts.width, height=facts.height, decoder=facts.decoder, damaged=facts.damaged)
        if finite[i]:
            vectors[position] = encoded[i]
        else:
            row.update(status="encode_failed", error=f"{_where(row)}: the encoder gave a vector that is not finite.")


def _where(row: dict[str, Any]) -> str:
    return f"{row['shard']}/{row['key']}"


def _table(rows: list[dict[str, Any]], vectors: npt.NDArray[np.float16]) -> pa.Table:
    schema = embeddings_schema(vectors.shape[1])
    bad = pa.array([row["status"] != "ok" for row in rows], pa.bool_())
    columns = {
        field.name: pa.array([row.get(field.name) for row in rows], field.type)
        for field in schema
        if field.name != "vector"
    }
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1], mask=bad)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def vectors_of(table: pa.Table) -> npt.NDArray[np.float16]:
    """The `vector` column as fp16 [n, dim]; rows without a vector are zeros."""
    column = table["vector"].combine_chunks()
    dim = column.type.list_size
    flat = column.values.slice(column.offset * dim, len(column) * dim)
    vectors: npt.NDArray[np.float16] = flat.to_numpy(zero_copy_only=False).reshape(len(column), dim).copy()
    vectors[~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    return vectors
