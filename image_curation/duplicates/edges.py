"""The relation that every search for duplicates ends in: pairs of rows, how alike they are, and how that was found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
HASH_BITS = 64


class Kind(IntEnum):
    """How a pair was found, strongest first. Similarities of different kinds are on different scales."""

    EXACT = 0  # the same bytes: similarity 1
    PERCEPTUAL = 1  # similarity 1 - Hamming distance / 64
    SEMANTIC = 2  # similarity is the cosine


@dataclass(frozen=True, eq=False)
class Edges:
    """m undirected pairs of rows.

    Attributes:
        a, b: int64 [m], row numbers, a < b.
        similarity: float64 [m], 1 is most alike; its scale is that of the kind.
        kind: uint8 [m], a `Kind`.
    """

    a: Rows
    b: Rows
    similarity: npt.NDArray[np.float64]
    kind: npt.NDArray[np.uint8]

    @classmethod
    def between(cls, x: npt.ArrayLike, y: npt.ArrayLike, similarity: npt.ArrayLike, kind: Kind) -> Self:
        """Edges of one kind from x[i] to y[i], ends in either order; a single similarity serves all."""
        ends = np.asarray(x, np.int64), np.asarray(y, np.int64)
        a, b = np.minimum(*ends), np.maximum(*ends)
        return cls(
            a, b, np.broadcast_to(np.asarray(similarity, np.float64), a.shape).copy(), np.full(a.shape, kind, np.uint8)
        )

    @classmethod
    def none(cls) -> Self:
        """No edges."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.uint8))

    def __len__(self) -> int:
        return len(self.a)

    def take(self, which: npt.NDArray[Any]) -> "Edges":
        """The edges that an index array or a mask names, in its order."""
        return Edges(self.a[which], self.b[which], self.similarity[which], self.kind[which])

    def of(self, kind: Kind) -> "Edges":
        """The edges of one kind."""
        return self.take(self.kind == kind)


def in_blocks(rows: Rows, size: int) -> Iterator[Rows]:
    """Rows in their order, at most `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def concatenate(parts: Sequence[Edges]) -> Edges:
    """All edges of all parts, in their order; a pair that is in two parts stays twice."""
    parts = [Edges.none(), *parts]
    return Edges(
        np.concatenate([part.a for part in parts]),
        np.concatenate([part.b for part in parts]),
        np.concatenate([part.similarity for part in parts]),
        np.concatenate([part.kind for part in parts]),
    )


def collapse(values: npt.NDArray[Any], rows: Rows, kind: Kind) -> tuple[Rows, Edges]:
    """Tie rows of equal value to the first of them: m - 1 edges for m copies, where all pairs would be m^2 / 2.

    Args:
        values: [m], anything that sorts.
        rows: int64 [m], ascending, the row that each value belongs to.

    Returns:
        The first row of each distinct value, ascending, and an edge of similarity 1 from it to each further row.
    """
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    hubs = rows[first[inverse]]
    copy = hubs != rows
    return np.sort(rows[first]), Edges.between(hubs[copy], rows[copy], 1.0, kind)
