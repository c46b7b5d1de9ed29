"""Vectors -> edges between samples whose cosine reaches a threshold, and how many such pairs a search has found."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from image_curation.duplicates.cells import Assignment, Cells, Grouped, assign
from image_curation.duplicates.edges import Edges, Kind, Rows, collapse, in_blocks
from image_curation.duplicates.forest import forest_of_batches
from image_curation.duplicates.groups import connected_groups
from image_curation.duplicates.products import Block, Pairs, Products
from image_curation.duplicates.sketches import Sketcher
from image_curation.duplicates.vectors import Float16s, Vectors, check_threshold, row_bytes

_RECALL_ROWS = 1 << 20  # that sampled rows are compared with at a time
Z_95 = 1.959963984540054  # standard normal quantile of a two-sided 95 % interval


def semantic_edges(vectors: Float16s, threshold: float, cells: Cells | None = None, device: str = "cpu") -> Edges:
    """The maximum spanning forest of all pairs that `semantic_pairs` finds, in the memory of a tile and the forest.

    Args:
        vectors: fp16 [n, d] unit vectors; rows of zeros or NaN have no vector and are left out.
        threshold: lowest cosine of a pair, 0 < t <= 1.
        cells: the generation to search by; None compares all.
        device: where to multiply, "cpu" or "cuda".

    Returns:
        At most n - 1 edges; similarity is the exact cosine, rounded to fp64.

    Raises:
        ConfigError: the threshold is out of range, or the cells were made for vectors of another dimension.
    """
    return forest_of_batches(semantic_pairs(vectors, threshold, cells, device), len(vectors), device)


def semantic_pairs(
    vectors: Float16s, threshold: float, cells: Cells | None = None, device: str = "cpu"
) -> Iterator[Edges]:
    """All pairs with a cosine of at least `threshold`, in batches; arguments and errors as for `semantic_edges`.

    Without cells every pair is compared: n^2 d operations. With cells, a pair is compared if one vector lies in a cell
    that the other lies in or is a ghost in, and their sketches are near. Either way, whether a pair is met, and its
    similarity to the last bit, depend on the two vectors, the threshold and the cells alone. A pair may come twice.
    Rows that are equal are tied to the first of them, and only that one meets the others.
    """
    check_threshold(threshold)
    products = Products(device)
    part, copies = distinct_part(vectors, products, threshold, cells, np.arange(len(vectors)))
    yield copies
    for a, b, cosine in part_pairs(products, part, part, threshold, cells):
        yield Edges.between(a, b, cosine, Kind.SEMANTIC)


@dataclass(frozen=True, eq=False)
class Part:
    """Some of all vectors, on a device, each of them distinct from the others.

    Attributes:
        block: m vectors.
        rows: int64 [m], the number of each among all.
        cells: where they lie; None where all are compared.
    """

    block: Block
    rows: Rows
    cells: "InCells | None" = None


@dataclass(frozen=True, eq=False)
class InCells:
    """Where m vectors lie, on a device; what may be known of them without the vectors.

    Attributes:
        found: the cell of each, and those that it is a ghost in.
        own, ghosts: the same by cell.
        sketches: int8 [m, k], of the generation's sketcher, if it has one.
    """

    found: Assignment
    own: Grouped
    ghosts: Grouped
    sketches: torch.Tensor | None

    @classmethod
    def of(cls, found: Assignment, n_cells: int, sketches: torch.Tensor | None) -> Self:
        """From the cells of each vector."""
        every = torch.arange(len(found.cell), device=found.cell.device)
        own = Grouped.by_cell(found.cell, every, n_cells)
        return cls(found, own, Grouped.by_cell(found.ghost, found.owner, n_cells), sketches)


def distinct_part(
    vectors: Float16s, products: Products, threshold: float, cells: Cells | None, numbers: Rows
) -> tuple[Part, Edges]:
    """The distinct ones of vectors fp16 [n, d], whose numbers among all, int64 [n], rise; and what ties the copies.

    Rows of zeros or NaN are left out.
    """
    block, there = products.load(vectors)
    numbers = numbers[there]
    copies = _copies(products, block)
    if len(copies):
        kept = np.delete(np.arange(len(block)), copies.b)
        block, distinct = block.take(kept), numbers[kept]
    else:
        distinct = numbers
    part = Part(block, distinct, _in_cells(block, cells, threshold) if cells else None)
    return part, Edges.between(numbers[copies.a], numbers[copies.b], 1.0, Kind.SEMANTIC)


def _in_cells(block: Block, cells: Cells, threshold: float) -> InCells:
    found = assign(block.values, cells, threshold)
    return InCells.of(found, len(cells.centroids), cells.sketcher.sketch(block.values) if cells.sketcher else None)


def _copies(products: Products, block: Block) -> Edges:
    """What ties each row that equals an earlier one to the first such row."""
    suspects = _repeated(block.squares)  # exact, so that equal rows have equal ones, and others hardly ever
    suspects = suspects[_repeated(products.row_hashes(block.values[suspects]))]
    values = block.values[suspects].cpu().numpy()
    return collapse(row_bytes(values), suspects.cpu().numpy(), Kind.SEMANTIC)[1]


def _repeated(keys: torch.Tensor) -> torch.Tensor:
    """The places of those of [n] keys that are there more than once, ascending."""
    ranked, order = torch.sort(keys)
    twice = torch.nonzero(ranked[1:] == ranked[:-1])[:, 0]
    places: torch.Tensor = torch.unique(torch.cat([order[twice], order[twice + 1]]))
    return places


def part_pairs(products: Products, x: Part, y: Part, threshold: float, cells: Cells | None) -> Iterator[Pairs]:
    """Rows of all, and cosines, of the close pairs of a vector of `x` and one of `y`, in batches.

    With `x is y` no pair comes but of different vectors. By cells it may come twice, and does if the sketches are near
    as well: so the same pairs are found where sketches are at hand alone.
    """
    if cells is None or x.cells is None or y.cells is None:
        for i, j, cosine in products.close_pairs(x.block, y.block, threshold):
            yield x.rows[i], y.rows[j], cosine
        return
    for compared in _compared(x.cells, y.cells):
        for i, j, cosine in products.close_pairs(x.block, y.block, threshold, compared):
            if cells.sketcher and x.cells.sketches is not None and y.cells.sketches is not None:
                sketches = x.cells.sketches[torch.from_numpy(i)], y.cells.sketches[torch.from_numpy(j)]
                near = cells.sketcher.may_be_close(*sketches).cpu().numpy()
                i, j, cosine = i[near], j[near], cosine[near]
            yield x.rows[i], y.rows[j], cosine


def sketched_pairs(products: Products, x: InCells, y: InCells, sketcher: Sketcher) -> Iterator[tuple[Rows, Rows]]:
    """Places in x and in y, in batches, of those vectors that are to be compared, by cells and sketches."""
    if x.sketches is None or y.sketches is None:
        raise ValueError("x and y should have sketches")
    for compared in _compared(x, y):
        for i, j in products.near_sketches(x.sketches, y.sketches, sketcher, compared):
            yield i.cpu().numpy(), j.cpu().numpy()


def _compared(x: InCells, y: InCells) -> Iterator[tuple[Grouped, Grouped]]:
    """What of x is to be compared with what of y, cell by cell."""
    yield x.own, y.own
    yield x.own, y.ghosts
    if x is not y:
        yield x.ghosts, y.own


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
    vectors: Float16s, edges: Edges, threshold: float, queries: int = 2_000, seed: int = 0, device: str = "cpu"
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
    products, measured = Products(device), Vectors.measure(vectors)
    semantic = edges.of(Kind.SEMANTIC)
    labels = connected_groups(semantic.take(semantic.similarity >= threshold), len(vectors))
    sample = _sampled(measured.rows, queries, seed)
    a, b, _ = _duplicates_of(products, measured, sample, threshold)
    return recall_of_pairs(len(sample), a, b, labels)


def recall_of_pairs(queries: int, a: Rows, b: Rows, labels: Rows) -> RecallEstimate:
    """See `estimate_recall`: from the number of sampled rows, and all duplicates b[i] of each sampled row a[i].

    Rows that have none need not be told. `labels` int64 [n] are equal for rows of one group.
    """
    duplicates = np.bincount(a, minlength=len(labels))
    joined = np.bincount(a[labels[a] == labels[b]], minlength=len(labels))
    sample = np.flatnonzero(duplicates)
    return _estimate(queries, len(sample), float((joined[sample] / duplicates[sample]).sum()))


def recall_together(x: RecallEstimate, y: RecallEstimate) -> RecallEstimate:
    """What two samples of rows say."""
    return _estimate(x.queries + y.queries, x.expected + y.expected, x.found + y.found)


def _sampled(rows: Rows, queries: int, seed: int = 0) -> Rows:
    return np.sort(np.random.default_rng(seed).choice(rows, min(queries, len(rows)), replace=False))


def _duplicates_of(products: Products, measured: Vectors, sample: Rows, threshold: float) -> Pairs:
    """All pairs of a sampled row and another row that are duplicates, from the sampled row's side."""
    asked, _ = products.load(measured.values[sample])
    parts: list[Pairs] = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for rows in in_blocks(measured.rows, _RECALL_ROWS):
        for i, j, cosine in products.close_pairs(asked, products.load(measured.values[rows])[0], threshold):
            a, b = sample[i], rows[j]
            parts.append((a[a != b], b[a != b], cosine[a != b]))
    a, b, cosine = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return a, b, cosine


def _estimate(queries: int, rows: int, found: float) -> RecallEstimate:
    if rows == 0:
        return RecallEstimate(queries, 0, 0.0, float("nan"), 0.0, 1.0)
    return RecallEstimate(queries, rows, found, found / rows, *wilson_interval(found / rows, rows))


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share observed in n trials (Wilson 1927)."""
    centre = share + Z_95**2 / (2 * n)
    half = Z_95 * (share * (1 - share) / n + Z_95**2 / (4 * n**2)) ** 0.5
    scale = 1 + Z_95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
