"""Vectors -> edges between samples whose cosine reaches a threshold, and how many such pairs a search has found."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from image_curation.duplicates.cells import Cells, assign
from image_curation.duplicates.edges import Edges, Kind, Rows, collapse
from image_curation.duplicates.forest import forest_of_batches
from image_curation.duplicates.groups import connected_groups
from image_curation.duplicates.vectors import TILE_ROWS, Float16s, Vectors, check_threshold

Z_95 = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval


def semantic_edges(vectors: Float16s, threshold: float, cells: Cells | None = None) -> Edges:
    """The maximum spanning forest of all pairs that `semantic_pairs` finds, in the memory of a tile and the forest.

    Args:
        vectors: fp16 [n, d] unit vectors; rows of zeros or NaN have no vector and are left out.
        threshold: lowest cosine of a pair, 0 < t <= 1.
        cells: the generation to search by; None compares all.

    Returns:
        At most n - 1 edges; similarity is the exact cosine, rounded to fp64.

    Raises:
        ConfigError: the threshold is out of range, or the cells were made for vectors of another dimension.
    """
    return forest_of_batches(semantic_pairs(vectors, threshold, cells), len(vectors))


def semantic_pairs(vectors: Float16s, threshold: float, cells: Cells | None = None) -> Iterator[Edges]:
    """All pairs with a cosine of at least `threshold`, in batches; arguments and errors as for `semantic_edges`.

    Without cells every pair is compared: n^2 d operations. With cells, a pair is compared if one vector lies in a cell
    that the other lies in or is a ghost in. Either way, whether a pair is met, and its similarity to the last bit,
    depend on the two vectors, the threshold and the cells alone. A pair may come twice. Rows that are equal are tied to
    the first of them, and only that one meets the others.
    """
    check_threshold(threshold)
    measured = Vectors.measure(vectors)
    distinct, copies = collapse(measured.row_bytes(measured.rows), measured.rows, Kind.SEMANTIC)
    yield copies
    for left, right in _all_tiles(distinct) if cells is None else _cell_tiles(measured, distinct, cells, threshold):
        a, b, cosine = measured.close_pairs(left, right, threshold)
        once = a < b if left is right else np.ones(len(a), np.bool_)
        yield Edges.between(a[once], b[once], cosine[once], Kind.SEMANTIC)


@dataclass(frozen=True)
class RecallEstimate:
    """How much of what brute force finds a search has found, estimated from sampled rows.

    Recall is NaN, and the bounds 0 and 1, where no sampled row has a duplicate.
    """

    queries: int
    """Rows sampled."""
    expected: int
    """Those of them that have a duplicate."""
    found: float
    """Sum, over these, of the share of a row's duplicates that were joined to it: all of them would make `expected`."""
    recall: float
    """found / expected"""
    low: float
    high: float
    """95 % interval of the recall of all rows."""


def estimate_recall(
    vectors: Float16s, edges: Edges, threshold: float, queries: int = 2_000, seed: int = 0
) -> RecallEstimate:
    """Compare sampled rows with all rows, and see which of their duplicates the edges put into the same group.

    A pair that is joined by way of others counts as found: this is what groups are made of, and it is the only question
    that a forest can answer. Each row with duplicates counts once, however many it has: were pairs counted, one group
    of a thousand copies would outweigh all others, and its pairs, found or missed together, would feign certainty. The
    interval is Wilson's (1927), which is wide enough also for shares between 0 and 1.

    Args:
        vectors: fp16 [n, d], as given to the search.
        edges: what the search found, at this threshold or below it.
        threshold: cosine from which on two rows are duplicates.
        queries: rows to sample; all, if there are no more.
    """
    check_threshold(threshold)
    measured = Vectors.measure(vectors)
    semantic = edges.of(Kind.SEMANTIC)
    labels = connected_groups(semantic.take(semantic.similarity >= threshold), len(vectors))
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(measured.rows, min(queries, len(measured.rows)), replace=False))
    duplicates, joined = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.int64)
    for left in _blocks(sample):
        for right in _blocks(measured.rows):
            a, b, _ = measured.close_pairs(left, right, threshold)
            a, b = a[a != b], b[a != b]
            np.add.at(duplicates, a, 1)
            np.add.at(joined, a[labels[a] == labels[b]], 1)
    return _estimate(duplicates[sample], joined[sample])


def _estimate(duplicates: Rows, joined: Rows) -> RecallEstimate:
    """From each sampled row's number of duplicates, and of those that were joined to it."""
    some = duplicates > 0
    rows = int(some.sum())
    if rows == 0:
        return RecallEstimate(len(duplicates), 0, 0.0, float("nan"), 0.0, 1.0)
    found = float((joined[some] / duplicates[some]).sum())
    return RecallEstimate(len(duplicates), rows, found, found / rows, *wilson_interval(found / rows, rows))


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share observed in n trials (Wilson 1927)."""
    centre = share + Z_95**2 / (2 * n)
    half = Z_95 * (share * (1 - share) / n + Z_95**2 / (4 * n**2)) ** 0.5
    scale = 1 + Z_95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _blocks(rows: Rows) -> list[Rows]:
    return [rows[start : start + TILE_ROWS] for start in range(0, len(rows), TILE_ROWS)]


def _all_tiles(rows: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of blocks that together hold every pair of rows once; a block against itself is the same object twice."""
    blocks = _blocks(rows)
    for i, left in enumerate(blocks):
        for right in blocks[i:]:
            yield left, right


def _cell_tiles(measured: Vectors, rows: Rows, cells: Cells, threshold: float) -> Iterator[tuple[Rows, Rows]]:
    """Blocks of each cell's own rows against each other and against the cell's ghosts.

    A pair may come twice (each a ghost in the other's cell). Ghosts of one cell are not compared with each other.
    """
    assignment = assign(measured.values[rows], cells, threshold)
    owners = np.repeat(np.arange(len(rows)), np.diff(assignment.ghost_offsets))
    k = len(cells.centroids)
    members = _grouped(assignment.cell.astype(np.int64), rows, k)
    ghosts = _grouped(assignment.ghost_cells.astype(np.int64), rows[owners], k)
    for own, shown in zip(members, ghosts, strict=True):
        yield from _all_tiles(own)
        for left in _blocks(own):
            for right in _blocks(shown):
                yield left, right


def _grouped(cell: Rows, rows: Rows, k: int) -> list[Rows]:
    """The rows of each of k cells, in their order."""
    order = np.argsort(cell, kind="stable")
    return np.split(rows[order], np.searchsorted(cell[order], np.arange(1, k)))
