"""An artifact with vectors -> all of them, or those at some places, as an array, without decoding lists."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from image_curation import storage
from image_curation.artifacts import opened
from image_curation.errors import ArtifactError
from image_curation.vector_layout import HEADER_BYTES, check_page, layout_of

Ints = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float16]


@contextmanager
def open_vectors(url: str, column: str = "vector") -> Iterator["VectorFile"]:
    """The vectors of an artifact, lists of fp16 or `packed`. What is on disk is read as it was when it was opened.

    Raises:
        ArtifactError: the file is not there, cannot be read, or was not laid out by `write_table`.
    """
    with opened(url) as (file, parquet):
        yield VectorFile(url, file, parquet, column)


class VectorFile:
    """The vectors of a column in the order of the file, without those that are null. Threads may share it.

    Attributes:
        dim: length of a vector.
        count: how many vectors there are.
        bytes_read: of vectors so far, with what lay between them and was read along.
    """

    def __init__(self, url: str, file: BinaryIO, parquet: pq.ParquetFile, column: str) -> None:
        layout = layout_of(url, parquet, column)
        self.url, self._column, self._file = url, column, file
        self.dim, self._chunks = layout.dim, layout.chunks
        self._starts: Ints = np.array([chunk.start for chunk in self._chunks], np.int64)  # bytes
        self._ends: Ints = np.cumsum([0, *(chunk.count for chunk in self._chunks)])  # places, behind a 0
        self.count = int(self._ends[-1])
        self.bytes_read, self._counting = 0, threading.Lock()

    def all(self) -> Vectors:
        """All vectors, fp16 [count, dim]."""
        return self._read(np.arange(len(self._chunks)), self._starts, np.diff(self._ends))

    def rows(self, places: Ints) -> Vectors:
        """The vectors at these places [m] among all, in any order and also twice: fp16 [m, dim].

        The rest of the file costs nothing.

        Raises:
            ArtifactError: there is no such place.
        """
        if not len(places):
            return np.empty((0, self.dim), np.float16)
        places = np.asarray(places, np.int64)
        self._check_places(int(places.min()), int(places.max()))
        mapped = storage.mapped(self._file)
        return self._requested(places) if mapped is None else self._looked_at(mapped, places)

    def _looked_at(self, mapped: npt.NDArray[np.uint8], places: Ints) -> Vectors:
        """Rows of a file on disk, by its bytes: a hundred thousand reads would be as many calls."""
        chunk = np.searchsorted(self._ends, places, "right") - 1
        vectors = np.empty((len(places), self.dim), np.float16)
        for c in np.unique(chunk).tolist():
            start, rows = self._chunks[c].start, self._chunks[c].count
            page = mapped[self._chunks[c].page :][:HEADER_BYTES]
            check_page(self.url, self._column, self._chunks[c], page.tobytes())
            whole = mapped[start : start + rows * 2 * self.dim].reshape(rows, 2 * self.dim)
            here = np.flatnonzero(chunk == c)
            vectors[here] = whole.take(places[here] - self._ends[c], axis=0).view(np.float16)
        with self._counting:
            self.bytes_read += vectors.nbytes
        return vectors

    def _requested(self, places: Ints) -> Vectors:
        """Rows of a file in a store; what lies between near ones is read along."""
        wanted, back = np.unique(places, return_inverse=True)
        chunk = np.searchsorted(self._ends, wanted, "right") - 1
        near = 1 + storage.GAP_BYTES // (2 * self.dim)
        begins = np.append(True, (np.diff(wanted) > near) | (np.diff(chunk) > 0))  # [places] a run of rows
        first, of = wanted[begins], chunk[begins]  # [runs]
        sizes = wanted[np.append(begins[1:], True)] + 1 - first
        read = self._read(of, self._starts[of] + (first - self._ends[of]) * 2 * self.dim, sizes)
        moved = np.cumsum(sizes) - sizes - first  # [runs] from a place in the file to one in what was read
        vectors: Vectors = read[(wanted + moved[np.cumsum(begins) - 1])[back]]
        return vectors

    def _read(self, chunk: Ints, offsets: Ints, sizes: Ints) -> Vectors:
        """Runs of rows, by the chunk that each lies in, its first byte and its number of rows, one behind the other."""
        vectors = np.empty((int(sizes.sum()), self.dim), np.float16)
        content, ends = vectors.reshape(-1).view(np.uint8).data, np.cumsum([0, *sizes]) * 2 * self.dim
        headers = {c: bytearray(HEADER_BYTES) for c in np.unique(chunk).tolist()}
        pieces = [(self._chunks[c].page, memoryview(header)) for c, header in headers.items()]
        runs = zip(offsets.tolist(), pairwise(ends.tolist()), strict=True)
        pieces += [(offset, content[start:end]) for offset, (start, end) in runs if start < end]
        storage.read_into(self._file, pieces)
        for c, header in headers.items():
            check_page(self.url, self._column, self._chunks[c], header)
        with self._counting:
            self.bytes_read += vectors.nbytes + len(headers) * HEADER_BYTES
        return vectors

    def _check_places(self, lowest: int, highest: int) -> None:
        if lowest < 0 or highest >= self.count:
            raise ArtifactError(
                f"{self.url} holds {self.count:,} vectors and none at place {lowest if lowest < 0 else highest:,}: "
                "it was made again after they were counted. Start the run again."
            )
