"""Vectors -> cells: a frozen generation of centroids, and for each vector its cell and the cells that it is a ghost in.

A duplicate of a vector near a border may lie in the next cell. So a vector is also shown, as a ghost, to the cells that
a duplicate of it could be in. With y = x cos(phi) + u sin(phi), u a unit vector and cos(phi) >= t, y is nearer to
centroid c than to x's own c1 only if s1 - sc < tan(arccos t) |c1 - c|, s being dot products with x. That bound is for
the worst u; a `margin` of it is enough for nearly all. Measured at t = 0.95 on 200,000 synthetic vectors, duplicates
differing in the same directions as other images do: recall 0.91 without ghosts, 0.98 with one a vector (margin 0.1),
0.999 with five (margin 0.2).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from image_curation.duplicates.edges import Rows, in_blocks
from image_curation.duplicates.products import Products
from image_curation.duplicates.vectors import Float16s, Float64s, Vectors, check_threshold
from image_curation.errors import ConfigError

SAMPLE_PER_CELL = 128  # vectors to train on, a cell
MIN_CELLS = 256
TILE_VALUES = 1 << 22  # scores, and values of vectors, held at a time: 8 MB each


@dataclass(frozen=True, eq=False)
class Cells:
    """A generation. Whether two vectors are compared depends on them, this and the threshold alone.

    Attributes:
        centroids: float32 [k, d], unit vectors rounded to fp16 values, so that products with them are exact in fp64.
        margin: share of the worst-case bound within which a vector becomes a ghost.
        max_ghosts: cells that a vector may be a ghost in, nearest first.
    """

    centroids: npt.NDArray[np.float32]
    margin: float
    max_ghosts: int


@dataclass(frozen=True, eq=False)
class Assignment:
    """Where n vectors belong.

    Attributes:
        cell: int32 [n], the nearest centroid; -1 where there is no vector.
        ghost_offsets, ghost_cells: int64 [n + 1], int32 [g]: vector i is a ghost in
            ghost_cells[ghost_offsets[i] : ghost_offsets[i + 1]], by number.
    """

    cell: npt.NDArray[np.int32]
    ghost_offsets: Rows
    ghost_cells: npt.NDArray[np.int32]


def cell_count(n: int) -> int:
    """A fitting number of cells for n vectors: the next power of two to the root of n, at least 256.

    Then finding a vector's cell and comparing it within that cell cost about the same.
    """
    cells = MIN_CELLS
    while cells * cells < n:
        cells *= 2
    return cells


def train_cells(
    sample: Float16s,
    n_cells: int,
    seed: int = 0,
    margin: float = 0.2,
    max_ghosts: int = 15,
    iterations: int = 4,
    device: str = "cpu",
) -> Cells:
    """Spherical k-means (Dhillon and Modha 2001): centroids are unit vectors, the nearest has the largest dot product.

    The nearest are found exactly and sums of fp16 rows are exact in fp64, so the result is the same on every machine.
    An empty cell is started again at the vector that fits its own cell least.

    Args:
        sample: fp16 [n, d] unit vectors, some `SAMPLE_PER_CELL` a cell. Their order makes no difference.
        n_cells: centroids to make; fewer are made if the sample has fewer distinct vectors.
        device: where to multiply, "cpu" or "cuda".

    Raises:
        ConfigError: the sample holds no vector at all, or `n_cells` is below 1.
    """
    products = Products("cpu")
    block, there = products.load(sample)
    _, distinct = np.unique(products.row_hashes(block), return_index=True)  # by their hashes: in an order of their own
    values = np.ascontiguousarray(sample[there[distinct]])
    if n_cells < 1 or len(values) == 0:
        raise ConfigError(
            f"n_cells={n_cells} and the {len(values)} distinct vectors of the sample should be 1 or more."
        )
    centroids = values[np.random.default_rng(seed).permutation(len(values))[:n_cells]].astype(np.float64)
    for _ in range(iterations):
        centroids = _moved(values, _unit16(centroids), device)
    return Cells(_unit16(centroids).astype(np.float32), margin, max_ghosts)


def assign(vectors: Float16s, cells: Cells, threshold: float, device: str = "cpu") -> Assignment:
    """The cell of each vector and the cells it is a ghost in, for duplicates down to a cosine of `threshold`.

    Each row's answer depends on that row alone, to the last bit. On a GPU scores are exact. On a CPU a product in fp32
    comes first, and the rows for which its error could matter are done again in fp64. A tie goes to the cell with the
    smaller number.

    Args:
        vectors: fp16 [n, d] unit vectors; rows of zeros or NaN belong nowhere.
        threshold: 0 < t <= 1.
        device: where to multiply, "cpu" or "cuda".

    Raises:
        ConfigError: the threshold is out of range, or the cells were made for vectors of another dimension.
    """
    check_threshold(threshold)
    if vectors.shape[1] != cells.centroids.shape[1]:
        raise ConfigError(f"vectors have {vectors.shape[1]} dimensions, the cells {cells.centroids.shape[1]}.")
    measured = Vectors.measure(vectors)
    finder = _Finder(cells.centroids.astype(np.float64), _reach(cells.margin, threshold), cells.max_ghosts, device)
    cell = np.full(len(vectors), -1, np.int32)
    counts = np.zeros(len(vectors) + 1, np.int64)
    ghosts = [np.empty(0, np.int32)]
    for rows in _tiles(measured.rows, cells.centroids):
        best, owner, ghost = finder.find(measured.values[rows])
        cell[rows] = best
        counts[rows + 1] = np.bincount(owner, minlength=len(rows))
        ghosts.append(ghost.astype(np.int32))
    return Assignment(cell, np.cumsum(counts), np.concatenate(ghosts))


def _reach(margin: float, threshold: float) -> float:
    return margin * math.sqrt(1 - threshold * threshold) / threshold  # margin tan(arccos t)


class _Finder:
    """Finds the cells of vectors, tile by tile."""

    def __init__(self, centroids: Float64s, reach: float, max_ghosts: int, device: str) -> None:
        self._exact, self._reach, self._max_ghosts = centroids, reach, max_ghosts
        wide = torch.from_numpy(centroids).to(device)
        self._dtype = torch.float64 if device == "cuda" else torch.float32
        # What a score may be off by. Products of two fp16 numbers are exact in fp32; a sum in 8 lanes or more, as every
        # library for processors has them, rounds at most d / 8 + 8 times, by 2^-24 of no more than the norms each time.
        self._error = 2.0**-48 if device == "cuda" else (centroids.shape[1] / 8 + 8) * 2.0**-24
        self._centroids = wide.to(self._dtype)
        self._distances = _all_distances(wide, self._dtype) if reach else None

    def find(self, values: Float16s) -> tuple[Rows, Rows, Rows]:
        """Best cell of each of m rows, and pairs (row, ghost cell), by row, then cell."""
        x = torch.from_numpy(values).to(self._centroids.device, self._dtype)
        scores = x @ self._centroids.T
        top, best = scores.max(1)
        again = (scores >= top[:, None] - 2 * self._error).sum(1) > 1
        ghost = torch.zeros((len(x), 0), dtype=torch.bool, device=x.device)
        if self._distances is not None:
            within = scores.sub_(top[:, None]).add_(self._distances[best], alpha=self._reach)
            ghost = within > 0
            doubtful = within.abs_() <= 3 * self._error  # both scores, and the rounding of the distance
            doubtful[torch.arange(len(x), device=x.device), best] = False
            again |= doubtful.any(1) | (ghost.sum(1) > self._max_ghosts)
        ghost[again] = False
        owner, cell = (part.cpu().numpy() for part in torch.nonzero(ghost, as_tuple=True))
        found = best.cpu().numpy()
        rows = torch.nonzero(again)[:, 0].cpu().numpy()
        if len(rows):
            found[rows], exact_owner, exact_cell = _assign_tile(
                values[rows].astype(np.float64), self._exact, self._reach, self._max_ghosts
            )
            owner, cell = np.concatenate([owner, rows[exact_owner]]), np.concatenate([cell, exact_cell])
            order = np.lexsort((cell, owner))
            owner, cell = owner[order], cell[order]
        return found, owner, cell


def _all_distances(centroids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """|c_i - c_j| for all of float64 [k, d]: [k, k]."""
    squares = (centroids * centroids).sum(1)
    squared = squares[:, None] + squares - 2 * (centroids @ centroids.T)
    return squared.clamp_(min=0).sqrt_().to(dtype)


def _assign_tile(x: Float64s, centroids: Float64s, reach: float, max_ghosts: int) -> tuple[Rows, Rows, Rows]:
    """Best cell of each row of x, and pairs (row of x, ghost cell) sorted by row, then cell; in exact arithmetic."""
    scores = x @ centroids.T
    best = scores.argmax(axis=1)
    gap = scores[np.arange(len(x)), best][:, None] - scores
    used, place = np.unique(best, return_inverse=True)
    row, ghost = np.nonzero(gap < reach * _distances(centroids, used)[place])  # never the best: 0 < 0 is false
    order = np.lexsort((ghost, gap[row, ghost], row))
    row, ghost = row[order], ghost[order]
    nth = np.arange(len(row)) - np.searchsorted(row, row)  # 0 for the nearest ghost cell of a row
    row, ghost = row[nth < max_ghosts], ghost[nth < max_ghosts]
    order = np.lexsort((ghost, row))
    return best, row[order], ghost[order]


def _distances(centroids: Float64s, which: Rows) -> Float64s:
    """|c_i - c_j| for i in `which` and every j: float64 [len(which), k]."""
    squares = np.einsum("ij,ij->i", centroids, centroids)
    squared = squares[which][:, None] + squares - 2 * (centroids[which] @ centroids.T)
    distances: Float64s = np.sqrt(np.maximum(squared, 0))
    return distances


def _moved(values: Float16s, centroids: Float64s, device: str) -> Float64s:
    """One step: the sum of the vectors of each cell."""
    sums = np.zeros_like(centroids)
    cell = np.empty(len(values), np.int64)
    finder = _Finder(centroids, 0.0, 0, device)
    for rows in _tiles(np.arange(len(values)), centroids):
        cell[rows] = best = finder.find(values[rows])[0]
        members = csr_array((np.ones(len(rows)), (best, np.arange(len(rows)))), shape=(len(centroids), len(rows)))
        sums += members @ values[rows].astype(np.float64)
    empty = ~sums.any(axis=1)
    if empty.any():
        fit = np.einsum("ij,ij->i", values.astype(np.float64), centroids[cell])
        sums[empty] = values[np.argsort(fit, kind="stable")[: empty.sum()]]
    return sums


def _unit16(vectors: Float64s) -> Float64s:
    """Rows scaled to unit norm and rounded to fp16 values."""
    unit: Float64s = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    return unit


def _tiles(rows: Rows, centroids: npt.NDArray[Any]) -> Iterator[Rows]:
    return in_blocks(rows, max(1, TILE_VALUES // max(centroids.shape)))
