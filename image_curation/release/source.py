"""Ranges of source tars -> their bytes in the order asked for, some megabytes at a time, the next read ahead."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from image_curation import storage
from image_curation.errors import ReleaseError, StorageError

_PIECE_BYTES = 8 << 20  # longer members are read in pieces
_BATCH_BYTES = 16 << 20  # two batches are in memory at once: one is written while the next is read
_GAP_BYTES = 64 << 10  # neighbours this close are read as one: a request costs more than these bytes


class Range(NamedTuple):
    """A part of a tar."""

    url: str
    offset: int
    size: int


def pieces(url: str, offset: int, size: int) -> list[Range]:
    """A member as ranges that are small enough to be held in memory; one, even of no bytes."""
    starts = range(offset, offset + max(size, 1), _PIECE_BYTES)
    return [Range(url, start, min(_PIECE_BYTES, offset + size - start)) for start in starts]


def read_pieces(ranges: Iterable[Range]) -> Iterator[memoryview]:
    """The bytes of each range in the order given; shorter where a tar ends before.

    Raises:
        ReleaseError: a tar cannot be read.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="release-read") as reader:
        current: Future[list[memoryview]] | None = None
        for batch in _batches(ranges):
            following = reader.submit(_read_batch, batch)
            if current is not None:
                yield from current.result()
            current = following
        if current is not None:
            yield from current.result()


def _batches(ranges: Iterable[Range]) -> Iterator[list[Range]]:
    batch: list[Range] = []
    size = 0
    for piece in ranges:
        if batch and size + piece.size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += piece.size
    if batch:
        yield batch


def _read_batch(batch: list[Range]) -> list[memoryview]:
    contents = [memoryview(b"")] * len(batch)
    for url in dict.fromkeys(piece.url for piece in batch):
        spans = _spans([(i, piece) for i, piece in enumerate(batch) if piece.url == url and piece.size])
        bounds = [(members[0][1].offset, max(piece.offset + piece.size for _, piece in members)) for members in spans]
        try:
            blocks = storage.read_ranges(url, [(start, end - start) for start, end in bounds])
        except StorageError as error:
            raise ReleaseError(
                f"the source tar {url} can no longer be read: {error} If it moved or changed, materialize its "
                "shard_index again, and then the release."
            ) from error
        for members, (start, _), block in zip(spans, bounds, blocks, strict=True):
            for i, piece in members:
                contents[i] = memoryview(block)[piece.offset - start :][: piece.size]
    return contents


def _spans(pieces_of_one: list[tuple[int, Range]]) -> list[list[tuple[int, Range]]]:
    """Group the pieces of one tar into runs with small gaps, each no longer than a piece may be."""
    spans: list[list[tuple[int, Range]]] = []
    end = 0
    for i, piece in sorted(pieces_of_one, key=lambda numbered: numbered[1].offset):
        stop = piece.offset + piece.size
        if spans and piece.offset - end <= _GAP_BYTES and stop - spans[-1][0][1].offset <= _PIECE_BYTES:
            spans[-1].append((i, piece))
            end = max(end, stop)
        else:
            spans.append([(i, piece)])
            end = stop
    return spans
