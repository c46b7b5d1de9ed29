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
from image_curation.duplicates.nearest import finder
from image_curation.duplicates.products import Products
from image_curation.duplicates.sketches import Sketcher
from image_curation.duplicates.vectors import Float16s, Float64s, check_threshold, chunks
from image_curation.errors import ConfigError

SAMPLE_PER_CELL = 64  # vectors to train on, a cell; with 128 and a round more comparing costs a sixth less
MIN_CELLS = 256
TILE_VALUES = {"cpu": 1 << 22, "cuda": 1 << 26}  # scores, and values of vectors, at a time: 16 and 512 MB each


@dataclass(frozen=True, eq=False)
class Cells:
    """A generation. Whether two vectors are compared depends on them, this and the threshold alone.

    Attributes:
        centroids: float32 [k, d], unit vectors rounded to fp16 values, so that products with them are exact in fp64.
        margin: share of the worst-case bound within which a vector becomes a ghost.
        max_ghosts: cells that a vector may be a ghost in, nearest first.
        sketcher: makes the sketches that have to be near too; None asks for none.
    """

    centroids: npt.NDArray[np.float32]
    margin: float
    max_ghosts: int
    sketcher: Sketcher | None = None


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
    iterations: int = 3,
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
    hashes = products.row_hashes(block.values).cpu().numpy()
    _, distinct = np.unique(hashes, return_index=True)  # in an order of their own
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
    found_by = finder(cells.centroids.astype(np.float64), reach, cells.max_ghosts, vectors.device)
    none = torch.empty(0, dtype=torch.int64, device=vectors.device)
    parts = [(none, none, none)]
    for rows in _tiles(vectors, cells.centroids):
        best, owner, ghost = found_by.find(vectors[rows])
        parts.append((best, owner + rows.start, ghost))
    return Assignment(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _reach(margin: float, threshold: float) -> float:
    return margin * math.sqrt(1 - threshold * threshold) / threshold  # margin tan(arccos t)


def _moved(values: torch.Tensor, centroids: Float64s) -> Float64s:
    """One step: the sum of the vectors of each cell."""
    sums = torch.zeros(centroids.shape, dtype=torch.float64, device=values.device)
    cell = torch.empty(len(values), dtype=torch.int64, device=values.device)
    nearest = finder(centroids, 0.0, 0, values.device)
    for rows in _tiles(values, centroids):
        cell[rows] = best = nearest.find(values[rows])[0]
        sums.index_add_(0, best, values[rows].float().double())
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
