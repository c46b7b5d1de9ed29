"""Edges of an earlier search and of what came since -> the edges of one search over all: what was found is kept.

Whether two vectors are a pair depends on them alone, and the forest of a forest and further edges is the forest of all
edges. So newcomers are compared with all, and the rest is put together. A forest leaves out the edges that it does not
need, so where a row has gone, its component's other rows are compared with each other once more.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_curation.duplicates.edges import Edges, Kind, Rows, concatenate
from image_curation.duplicates.forest import spanning_forests
from image_curation.duplicates.groups import connected_groups


@dataclass(frozen=True)
class Numbering:
    """Numbers for the rows of all shards: those of a shard follow each other, and shards come by name.

    So of two rows the same one is first, whichever other shards there are.
    """

    first: dict[str, int]
    """Shard -> the number of its first row."""
    rows: int

    @classmethod
    def of(cls, counts: dict[str, int]) -> "Numbering":
        """Shard -> how many rows it has."""
        names = sorted(counts)
        starts = np.cumsum([0, *(counts[name] for name in names)]).tolist()
        return cls(dict(zip(names, starts, strict=False)), starts[-1])

    def number(self, shards: pa.ChunkedArray, positions: Rows) -> Rows:
        """The number of each row, int64 [m], from its shard and its position there; -1 for unknown shards."""
        named = shards.combine_chunks()
        named = named if pa.types.is_dictionary(named.type) else named.dictionary_encode()
        firsts = np.array([self.first.get(name, -1) for name in named.dictionary.to_pylist()], np.int64)
        first = firsts[named.indices.to_numpy()] if len(named) else np.empty(0, np.int64)
        return np.where(first < 0, -1, first + positions)

    def placed(self, rows: Rows) -> tuple[list[str], Rows, Rows]:
        """The names of all shards; which of them each row lies in, and at which position there: int64 [m] both."""
        names = sorted(self.first)
        firsts = np.array([self.first[name] for name in names], np.int64)
        which = np.searchsorted(firsts, rows, side="right") - 1
        return names, which, rows - firsts[which]


def without(edges: Edges, there: npt.NDArray[np.bool_]) -> tuple[Edges, Rows]:
    """The edges of components that have lost no row, and the rows that are left of those that have.

    Args:
        edges: forests of an earlier search, between n rows.
        there: bool [n], whether a row still is what it was.
    """
    if there.all():
        return edges, np.empty(0, np.int64)
    component = connected_groups(edges, len(there))
    hurt = np.zeros(len(there), np.bool_)
    hurt[component[~there]] = True
    is_hurt = hurt[component]
    return edges.take(~is_hurt[edges.a]), np.flatnonzero(is_hurt & there)


def merged(edges: Edges, n: int, device: str = "cpu") -> Edges:
    """The spanning forests, one a kind, of what was found in parts, between n rows, made on "cpu" or "cuda".

    Rows of equal vectors are tied to the first of them, as a search over all would have it: a search of parts ties them
    to the first of each part.
    """
    semantic = edges.of(Kind.SEMANTIC)
    equal = connected_groups(semantic.take(semantic.similarity == 1.0), n)
    copies = np.flatnonzero(equal != np.arange(n))
    ties = Edges.between(equal[copies], copies, 1.0, Kind.SEMANTIC)
    rest = edges.take((edges.kind != Kind.SEMANTIC) | (edges.similarity < 1.0))
    return spanning_forests(concatenate([rest, ties]), n, device)


def compacted(edges: Edges, n: int) -> tuple[Rows, Edges]:
    """The rows below `n` that edges join, rising, and the edges between their places among these."""
    used = np.zeros(n, np.bool_)
    used[edges.a] = used[edges.b] = True
    place = np.cumsum(used) - 1
    return np.flatnonzero(used), renumbered(edges, place)


def renumbered(edges: Edges, number: Rows) -> Edges:
    """The edges between rows i under the names number[i], which come in the same order."""
    return replace(edges, a=number[edges.a], b=number[edges.b])
