"""The embedding engine: shards' indexes and tars -> their embeddings, read, decoded and encoded at the same time.

One engine serves all threads of a process, each with a shard of its own:

    each caller        reads image bytes, as far ahead as the memory for them allows
    a thread a decoder decodes them, batch after batch, of whatever shard
    one or two more    encode the pixels, in full batches across the borders of shards
    each caller        waits for its rows and makes the table

A row's content depends on its image alone, never on its neighbours. What is held does not grow with a shard's size, but
for the rows that are made: 1/4 GiB of encoded images over all shards, 1/32 GiB a caller while it reads, and the pixels
of a few batches. `benchmarks/memory.py` sees 0.3 GiB above the loaded model, for shards of 20,000 samples as of 5,000.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_curation import storage
from image_curation.decode.picture import joined_pixels
from image_curation.embedding import EmbeddingRows
from image_curation.errors import ShardError
from image_curation.shards.header import Header

if TYPE_CHECKING:  # DALI and the models are loaded by those who bring them
    from image_curation.decode.decoder import ImageDecoder
    from image_curation.encoders import Encoder
    from image_curation.encoders.base import Pixels

_HELD_BYTES = 1 << 28  # of encoded images, over all shards, from before they are read until they are decoded
_BATCH_BYTES = 1 << 25  # of encoded images that are read and decoded at a time
_BATCHES_AHEAD = 2  # of decoded images that may wait for the encoder


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done since it was made: images encoded, and seconds that its threads were at each stage.

    Several callers read and two threads may encode at once: the seconds can add up to more than have passed.
    """

    images: int = 0
    wait_for_memory_s: float = 0.0
    read_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0


class EmbeddingEngine:
    """Decoders and an encoder with the threads that keep them busy. It owns the decoders.

    The threads end when the engine is closed or collected, or the process ends.

    Args:
        decoders: each makes uint8 [m, size, size, 3] of image bytes, on a thread of its own. On a GPU several are
            needed: each of a decoder's many small kernels has to wait for the encoder's to leave it room.
        encoder: makes unit vectors, fp16 [m, dim], of these.
        encode_threads: how many batches may be with the encoder at once. On a GPU a second one queues behind the first,
            so that the GPU never waits for the host; on a CPU one has all the cores.
    """

    def __init__(self, decoders: Sequence["ImageDecoder"], encoder: "Encoder", encode_threads: int = 1) -> None:
        self.encoder = encoder
        self._stages = _Stages(decoders, encoder)
        self._stages.start(encode_threads)
        self._stop = weakref.finalize(self, self._stages.stop)  # the threads know the stages, not the engine

    def __enter__(self) -> "EmbeddingEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the threads finish the batch that they are at, and end. A call of `embed` that still waits raises."""
        self._stop()

    def stats(self) -> EngineStats:
        """The work done up to now."""
        return self._stages.stats

    def embed(self, index: pa.Table, tar_url: str) -> pa.Table:
        """Decode and embed every sample of a shard that its index found good. Several threads may call it at once.

        Args:
            index: n rows of a `shard_index` table, with `embedding.INDEX_COLUMNS` at least.
            tar_url: the tar that it describes.

        Returns:
            n rows in the order of the index, see `embedding.embeddings_schema`. A bad image costs its row: it gets a
            status and an error, and no vector.

        Raises:
            StorageError: the tar cannot be read.
            ShardError: the tar ends before the index says.
            Exception: what the decoder or the encoder raised for a batch that had images of this shard.
        """
        shard = _Shard(tar_url, EmbeddingRows(index, self.encoder.dim))
        try:
            for batch in _batches(shard, index, self.encoder.batch):
                self._stages.read(batch)
            self._stages.wait_for(shard)
        except BaseException as error:
            shard.error = shard.error or error  # what is still on its way is not worth any work
            raise
        return shard.rows.table()


@dataclass
class _Shard:
    """One call of `embed`: its rows, how many of its images are on their way, and what stopped it."""

    url: str
    rows: EmbeddingRows
    on_their_way: int = 0
    error: BaseException | None = None


@dataclass
class _Batch:
    """Images of one shard to read and decode: m of them, at `positions` int64 [m] of its index."""

    shard: _Shard
    positions: npt.NDArray[np.int64]
    ranges: list[tuple[int, int]]
    headers: list[Header]
    images: list[bytes] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size in self.ranges)


@dataclass(frozen=True)
class _Part:
    """Images of one shard to encode: `pixels` uint8 [m, size, size, 3] of those at `positions` int64 [m]."""

    shard: _Shard
    positions: npt.NDArray[np.int64]
    pixels: "Pixels"


class _Stages:
    """The stages, their threads, and the queues between them, which one condition guards.

    Nobody waits for what cannot come. A reader waits for memory that other images hold, and these go on without it. The
    decoding threads wait only while there is a full batch to encode. An encoding thread waits for a full batch only
    while there are images to come: being read, waiting to be decoded, or being decoded.
    """

    def __init__(self, decoders: Sequence["ImageDecoder"], encoder: "Encoder") -> None:
        self.stats = EngineStats()
        self._decoders, self._encoder = decoders, encoder
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()  # readers wait for memory one after the other: none is overtaken for ever
        self._changed = threading.Condition()
        self._ended: BaseException | None = None  # why no stage works any more
        self._held_bytes = 0  # of encoded images
        self._to_come = 0  # images that are not decoded yet
        self._to_decode: deque[_Batch] = deque()
        self._to_encode: deque[_Part] = deque()
        self._waiting = 0  # images in `_to_encode`

    def start(self, encode_threads: int) -> None:
        stages = [("decode", partial(self._decode, decoder)) for decoder in self._decoders]
        for name, stage in [*stages, *[("encode", self._encode)] * encode_threads]:
            thread = threading.Thread(target=self._run, args=[stage], name=f"engine_{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._end(RuntimeError("the embedding engine was closed"))
        if threading.current_thread() not in self._threads:  # where the collector of garbage runs, nobody can know
            for thread in self._threads:
                thread.join()
            for decoder in self._decoders:
                decoder.close()

    def wait_for(self, shard: _Shard) -> None:
        """Wait until all images of a shard have their rows; raise what stopped it."""
        with self._changed:
            self._changed.wait_for(lambda: shard.error or self._ended or not shard.on_their_way)
        error = shard.error or (self._ended if shard.on_their_way else None)
        if error is not None:
            raise error

    def read(self, batch: _Batch) -> None:
        """Read a batch, once there is memory for it, and queue it for decoding. This stage is the callers' own."""
        start = time.perf_counter()
        with self._turn, self._changed:
            self._wait(lambda: not self._held_bytes or self._held_bytes + batch.size_bytes <= _HELD_BYTES)
            self._hold(batch, 1)
        admitted = time.perf_counter()
        try:
            if batch.shard.error is None:
                batch.images = _images(batch)
        except BaseException:  # also an interrupt: who waits for this memory would wait for ever
            with self._changed:
                self._hold(batch, -1)
            raise
        now = time.perf_counter()
        with self._changed:
            batch.shard.on_their_way += len(batch.positions)
            self._to_decode.append(batch)
            self._count(wait_for_memory_s=admitted - start, read_s=now - admitted)

    def _decode(self, decoder: "ImageDecoder") -> None:
        with self._changed:
            self._wait(lambda: self._to_decode and self._waiting < _BATCHES_AHEAD * self._encoder.batch)
            batch = self._to_decode.popleft()
        shard, start, part = batch.shard, time.perf_counter(), None
        try:
            if shard.error is None:
                part = self._decoded(batch, decoder)
        except Exception as error:  # noqa: BLE001 - raised by the call whose images these are
            shard.error = error
        with self._changed:
            self._hold(batch, -1)
            shard.on_their_way -= len(batch.positions) - (len(part.positions) if part else 0)
            if part:
                self._to_encode.append(part)
                self._waiting += len(part.positions)
            self._count(decode_s=time.perf_counter() - start)

    def _decoded(self, batch: _Batch, decoder: "ImageDecoder") -> _Part:
        decoded = decoder.decode(batch.images, batch.headers)
        batch.shard.rows.add_decoded(batch.positions, decoded)
        return _Part(batch.shard, batch.positions[decoded.rows], decoded.pixels)

    def _encode(self) -> None:
        size = self._encoder.batch
        with self._changed:
            self._wait(lambda: self._waiting >= size or (self._waiting and not self._to_come))
            taken = list(self._take(size))
            self._changed.notify_all()
        parts, start, failed = [part for part in taken if part.shard.error is None], time.perf_counter(), None
        try:
            if parts:
                self._encode_parts(parts)
        except Exception as error:  # noqa: BLE001 - raised by the calls whose images these are
            failed = error
        with self._changed:
            for part in taken:
                part.shard.on_their_way -= len(part.positions)
                part.shard.error = part.shard.error or failed
            images = sum(len(part.positions) for part in parts)
            self._count(encode_s=time.perf_counter() - start, images=images)

    def _encode_parts(self, parts: Sequence[_Part]) -> None:
        vectors = self._encoder.encode(joined_pixels([part.pixels for part in parts]))
        start = 0
        for part in parts:
            end = start + len(part.positions)
            part.shard.rows.add_vectors(part.positions, vectors[start:end])
            start = end

    def _take(self, size: int) -> Iterator[_Part]:
        """Parts with at most `size` images from the front of the queue; the last one is cut where need be."""
        while size and self._to_encode:
            part = self._to_encode.popleft()
            if len(part.positions) > size:
                self._to_encode.appendleft(replace(part, positions=part.positions[size:], pixels=part.pixels[size:]))
                part = replace(part, positions=part.positions[:size], pixels=part.pixels[:size])
            size -= len(part.positions)
            self._waiting -= len(part.positions)
            yield part

    def _hold(self, batch: _Batch, sign: int) -> None:
        """Take (1) or free (-1) the memory of a batch, whose images are to come meanwhile."""
        self._held_bytes += sign * batch.size_bytes
        self._to_come += sign * len(batch.positions)
        self._changed.notify_all()

    def _count(self, **more: float) -> None:
        self.stats = replace(self.stats, **{name: getattr(self.stats, name) + value for name, value in more.items()})
        self._changed.notify_all()

    def _wait(self, ready: Callable[[], object]) -> None:
        """Wait for a change after which it is `ready`; raise where there will be none."""
        self._changed.wait_for(lambda: self._ended is not None or ready())
        if self._ended is not None:
            raise self._ended

    def _run(self, stage: Callable[[], None]) -> None:
        try:
            while True:
                stage()
        except BaseException as error:  # noqa: BLE001 - raised by all who wait
            self._end(error)

    def _end(self, why: BaseException) -> None:
        with self._changed:
            self._ended = self._ended or why
            self._changed.notify_all()


def _batches(shard: _Shard, index: pa.Table, batch_size: int) -> Iterator[_Batch]:
    """The samples that the index found good, `batch_size` at a time, fewer where they are large."""
    good = np.flatnonzero(np.array(index["status"].to_pylist(), dtype=object) == "ok")
    offsets, sizes = index["image_offset"].to_pylist(), index["image_size"].to_pylist()
    headers = _headers(index)
    for positions in _runs(good, sizes, batch_size):
        ranges = [(offsets[i], sizes[i]) for i in positions]
        yield _Batch(shard, positions, ranges, [headers[i] for i in positions])


def _headers(index: pa.Table) -> list[Header]:
    """What the index read of each image; nonsense where it is not a good one."""
    columns = (index[name].to_pylist() for name in ("format", "width", "height", "orientation", "damaged"))
    return [
        Header(kind, *((height, width) if (turn or 1) >= 5 else (width, height)), turn, damaged)
        for kind, width, height, turn, damaged in zip(*columns, strict=True)
    ]


def _runs(positions: npt.NDArray[np.int64], sizes: list[int], batch_size: int) -> Iterator[npt.NDArray[np.int64]]:
    """Runs of at most `batch_size` positions, shorter where their images are more than `_BATCH_BYTES` together."""
    start, held = 0, 0
    for end, position in enumerate(positions.tolist()):
        if end > start and (end - start == batch_size or held + sizes[position] > _BATCH_BYTES):
            yield positions[start:end]
            start, held = end, 0
        held += sizes[position]
    if start < len(positions):
        yield positions[start:]


def _images(batch: _Batch) -> list[bytes]:
    images = storage.read_ranges(batch.shard.url, batch.ranges)
    for image, (offset, size) in zip(images, batch.ranges, strict=True):
        if len(image) < size:
            raise ShardError(
                f"tar {batch.shard.url} ends before its index says: of the {size} bytes from byte {offset} there are "
                f"{len(image)}. Materialize `shard_index` for it again, then `embeddings`."
            )
    return images
