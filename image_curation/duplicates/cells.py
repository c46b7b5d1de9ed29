"""Vectors -> cells: a frozen generation of centroids, and for each vector its cell and the cells that it is a ghost in.

A duplicate of a vector near a border may lie in the next cell. So a vector is also shown, as a ghost, to the cells that
a duplicate of it could be in. With y = x cos(phi) + u sin(phi), u a unit vector and cos(phi) >= t, y is nearer to
centroid c than to x's own c1 only if s1 - sc < tan(arccos t) |c1 - c|, s being dot products with x. That bound is for
the worst u; a `margin` of it is enough for nearly all. Measured at t = 0.95 on 200,000 synthetic vectors, duplicates
differing in the same directions as other images do: recall 0.91 without ghosts, 0.98 with one a vector (margin 0.1),
0.999 with five (margin 0.2).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from image_curation.duplicates.edges import Rows
from image_curation.duplicates.products import Products
from image_curation.duplicates.vectors import Float16s, Float64s, check_threshold, chunks
from image_curation.errors import ConfigError

SAMPLE_PER_CELL = 128  # vectors to train on, a cell
MIN_CELLS = 256
TILE_VALUES = {"cpu": 1 << 22, "cuda": 1 << 26}  # scores, and values of vectors, at a time: 16 and 512 MB each


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
    """Where n vectors belong, on the device where they lie.

    Attributes:
        cell: int64 [n], the nearest centroid.
        owner, ghost: int64 [g] both: vector owner[i] is a ghost in cell ghost[i]; by vector, then by cell.
    """

    cell: torch.Tensor
    owner: torch.Tensor
    ghost: torch.Tensor


@dataclass(frozen=True, eq=False)
class Grouped:
    """Rows by cell.

    Attributes:
        rows: int64 [m], on a device; those of a cell follow each other, ascending.
        bounds: int64 [k + 1], on the host: cell c has rows[bounds[c] : bounds[c + 1]].
    """

    rows: torch.Tensor
    bounds: Rows

    @classmethod
    def by_cell(cls, cell: torch.Tensor, rows: torch.Tensor, k: int) -> "Grouped":
        """Of rows int64 [m], ascending, in cells int64 [m] of k."""
        ranked, order = torch.sort(cell, stable=True)
        bounds = torch.searchsorted(ranked, torch.arange(k + 1, device=cell.device))
        return cls(rows[order], bounds.cpu().numpy())

    def of(self, cell: int) -> torch.Tensor:
        """The rows of one cell."""
        return self.rows[self.bounds[cell] : self.bounds[cell + 1]]


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
    products = Products(device)
    block, _ = products.load(sample)
    _, distinct = np.unique(products.row_hashes(block).cpu().numpy(), return_index=True)  # in an order of their own
    if n_cells < 1 or len(distinct) == 0:
        raise ConfigError(
            f"n_cells={n_cells} and the {len(distinct)} distinct vectors of the sample should be 1 or more."
        )
    values = block.values[torch.from_numpy(distinct).to(products.device)]
    chosen = np.random.default_rng(seed).permutation(len(values))[:n_cells]
    centroids = values[torch.from_numpy(chosen).to(products.device)].double().cpu().numpy()
    for _ in range(iterations):
        centroids = _moved(values, _unit16(centroids))
    return Cells(_unit16(centroids).astype(np.float32), margin, max_ghosts)


def assign(vectors: torch.Tensor, cells: Cells, threshold: float) -> Assignment:
    """The cell of each vector and the cells it is a ghost in, for duplicates down to a cosine of `threshold`.

    Each row's answer depends on that row alone, to the last bit. On a GPU scores are exact. On a CPU a product in fp32
    comes first, and the rows for which its error could matter are done again in fp64. A tie goes to the cell with the
    smaller number.

    Args:
        vectors: fp16 [n, d] unit vectors on a device, all of which hold one.
        threshold: 0 < t <= 1.

    Raises:
        ConfigError: the threshold is out of range, or the cells were made for vectors of another dimension.
    """
    check_threshold(threshold)
    if vectors.shape[1] != cells.centroids.shape[1]:
        raise ConfigError(f"vectors have {vectors.shape[1]} dimensions, the cells {cells.centroids.shape[1]}.")
    reach = _reach(cells.margin, threshold)
    finder = _Finder(cells.centroids.astype(np.float64), reach, cells.max_ghosts, vectors.device)
    none = torch.empty(0, dtype=torch.int64, device=vectors.device)
    parts = [(none, none, none)]
    for rows in _tiles(vectors, cells.centroids):
        best, owner, ghost = finder.find(vectors[rows])
        parts.append((best, owner + rows.start, ghost))
    return Assignment(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _reach(margin: float, threshold: float) -> float:
    return margin * math.sqrt(1 - threshold * threshold) / threshold  # margin tan(arccos t)


class _Finder:
    """Finds the cells of vectors, tile by tile."""

    def __init__(self, centroids: Float64s, reach: float, max_ghosts: int, device: torch.device) -> None:
        self._exact, self._reach, self._max_ghosts = centroids, reach, max_ghosts
        wide = torch.from_numpy(centroids).to(device)
        self._dtype = torch.float64 if wide.is_cuda else torch.float32
        # What a score may be off by. Products of two fp16 numbers are exact in fp32; a sum in 8 lanes or more, as every
        # library for processors has them, rounds at most d / 8 + 8 times, by 2^-24 of no more than the norms each time.
        self._error = 2.0**-48 if wide.is_cuda else (centroids.shape[1] / 8 + 8) * 2.0**-24
        self._centroids = wide.to(self._dtype)
        self._distances = _all_distances(wide, self._dtype) if reach else None

    def find(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of fp16 [m, d]: the best cell of each row, and pairs (row, ghost cell), by row, then cell."""
        scores = values.to(self._dtype) @ self._centroids.T
        top, best = scores.max(1)
        again = (scores >= top[:, None] - 2 * self._error).sum(1) > 1
        ghost = torch.zeros((len(values), 0), dtype=torch.bool, device=values.device)
        if self._distances is not None:
            within = scores.sub_(top[:, None]).add_(self._distances[best], alpha=self._reach)
            ghost = within > 0
            doubtful = within.abs_() <= 3 * self._error  # both scores, and the rounding of the distance
            doubtful[torch.arange(len(values), device=values.device), best] = False
            crowded = ghost.sum(1) > self._max_ghosts
            if self._dtype == torch.float64:
                ghost[crowded] = self._nearest(values[crowded], ghost[crowded])
            else:
                again |= crowded
            again |= doubtful.any(1)
        ghost[again] = False
        owner, cell = torch.nonzero(ghost, as_tuple=True)
        rows = torch.nonzero(again)[:, 0]
        return self._done_again(values, rows, best, owner, cell) if len(rows) else (best, owner, cell)

    def _nearest(self, values: torch.Tensor, ghost: torch.Tensor) -> torch.Tensor:
        """Of the ghost cells bool [m, k] of rows whose scores are exact, as many of the nearest as there may be."""
        scores = (values.to(self._dtype) @ self._centroids.T).masked_fill_(~ghost, -torch.inf)
        nearest = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, : self._max_ghosts]
        return torch.zeros_like(ghost).scatter_(1, nearest, value=True)

    def _done_again(
        self, values: torch.Tensor, rows: torch.Tensor, best: torch.Tensor, owner: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `find`, with exact answers for some rows."""
        wide = values[rows].double().cpu().numpy()
        exact = _assign_tile(wide, self._exact, self._reach, self._max_ghosts)
        exact_best, exact_owner, exact_cell = (torch.from_numpy(part).to(values.device) for part in exact)
        best[rows] = exact_best
        owner, cell = torch.cat([owner, rows[exact_owner]]), torch.cat([cell, exact_cell])
        order = torch.argsort(owner, stable=True)  # by cell within a row they are
        return best, owner[order], cell[order]


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


def _moved(values: torch.Tensor, centroids: Float64s) -> Float64s:
    """One step: the sum of the vectors of each cell."""
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=values.device)
    cell = torch.empty(len(values), dtype=torch.int64, device=values.device)
    finder = _Finder(centroids, 0.0, 0, values.device)
    for rows in _tiles(values, centroids):
        cell[rows] = best = finder.find(values[rows])[0]
        sums.index_add_(0, best, values[rows].double())
    moved: Float64s = sums.cpu().numpy()
    empty = ~moved.any(axis=1)
    if empty.any():
        wide = torch.from_numpy(centroids).to(values.device)
        fit = torch.cat([(values[rows].double() * wide[cell[rows]]).sum(1) for rows in _tiles(values, centroids)])
        worst = torch.argsort(fit, stable=True)[: int(empty.sum())]
        moved[empty] = values[worst].double().cpu().numpy()
    return moved


def _unit16(vectors: Float64s) -> Float64s:
    """Rows scaled to unit norm and rounded to fp16 values."""
    unit: Float64s = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    return unit


def _tiles(values: torch.Tensor, centroids: npt.NDArray[Any]) -> list[slice]:
    return chunks(len(values), max(centroids.shape), TILE_VALUES[values.device.type])
