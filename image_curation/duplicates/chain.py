"""Edges -> the way from one row of a group to another: how images that are not alike came to be in one group."""

from typing import NamedTuple

import numpy as np

from image_curation.duplicates.edges import HASH_BITS, Edges, Kind
from image_curation.duplicates.groups import connected_groups


class Link(NamedTuple):
    """One step of a chain: the row that it leads to, and the edge that it takes."""

    row: int
    kind: Kind
    similarity: float

    def __str__(self) -> str:
        """The edge in words: `exact`, `perceptual 3 bits`, `semantic 0.9731`."""
        if self.kind == Kind.PERCEPTUAL:
            bits = round((1 - self.similarity) * HASH_BITS)
            return f"perceptual {bits} bit{'' if bits == 1 else 's'}"
        return "exact" if self.kind == Kind.EXACT else f"semantic {self.similarity:.4f}"


def shortest_chain(edges: Edges, n: int, start: int, end: int) -> list[Link] | None:
    """The fewest edges that lead from `start` to `end`, of equally few the strongest first; None where none lead there.

    Args:
        edges: between rows below `n`, all of them accepted.
    """
    came_from: dict[int, tuple[int, Link]] = {}
    neighbours = _neighbours(edges, n, start)
    seen, frontier = {start}, [start]
    while frontier and end not in seen:
        reached = []
        for row in frontier:
            for link in neighbours.get(row, ()):
                if link.row not in seen:
                    seen.add(link.row)
                    came_from[link.row] = row, link
                    reached.append(link.row)
        frontier = reached
    if end not in seen:
        return None
    chain: list[Link] = []
    while end != start:
        end, link = came_from[end]
        chain.insert(0, link)
    return chain


def _neighbours(edges: Edges, n: int, start: int) -> dict[int, list[Link]]:
    """row -> where its edges lead, strongest first; of the rows that `start` is connected with."""
    labels = connected_groups(edges, n)
    edges = edges.take(labels[edges.a] == labels[start])
    edges = edges.take(np.lexsort((edges.b, edges.a, -edges.similarity, edges.kind)))
    found: dict[int, list[Link]] = {}
    ends = edges.a.tolist(), edges.b.tolist()
    for a, b, kind, similarity in zip(*ends, edges.kind.tolist(), edges.similarity.tolist(), strict=True):
        found.setdefault(a, []).append(Link(b, Kind(kind), similarity))
        found.setdefault(b, []).append(Link(a, Kind(kind), similarity))
    return found
