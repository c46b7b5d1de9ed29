"""Vectors and centroids -> the nearest centroid of each vector, and the further ones whose dot product is within reach.

A centroid c is within reach where s1 - sc < reach |c1 - c|, s being dot products with the vector and c1 its nearest.
Answers are those of exact arithmetic, on every machine. On a GPU scores are exact: products of fp16 values in fp64, see
`vectors`. On a CPU fp32 is twice as fast, and the few rows for which its error could matter are done again in fp64.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch

from image_curation.duplicates.edges import Rows
from image_curation.duplicates.vectors import Float64s

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_ROUNDING = 2.0**-24  # of a number below 1, to fp32
_GRAIN = 2.0**-48  # of products of fp16 numbers


class Finder(ABC):
    """Finds the centroids of vectors, tile by tile."""

    def __init__(self, centroids: Float64s, reach: float, most: int) -> None:
        self._exact, self._reach, self._most = centroids, reach, most

    @abstractmethod
    def find(self, values: torch.Tensor) -> Found:
        """Of fp16 [m, d]: the nearest of each row, and pairs (row, one within reach), int64, by row, then centroid.

        A tie goes to the smaller number. Of those within reach there are at most `most` a row, the nearest.
        """

    def _done_again(
        self, values: torch.Tensor, rows: torch.Tensor, best: torch.Tensor, owner: torch.Tensor, cell: torch.Tensor
    ) -> Found:
        """What was found, with exact answers for some rows, of which no pair was found yet."""
        if not len(rows):
            return best, owner, cell
        wide = values[rows].double().cpu().numpy()
        exact = _found(wide, self._exact, self._reach, self._most)
        exact_best, exact_owner, exact_cell = (torch.from_numpy(part).to(values.device) for part in exact)
        best[rows] = exact_best
        owner, cell = torch.cat([owner, rows[exact_owner]]), torch.cat([cell, exact_cell])
        order = torch.argsort(owner, stable=True)  # by centroid within a row they are
        return best, owner[order], cell[order]


def finder(centroids: Float64s, reach: float, most: int, device: torch.device) -> Finder:
    """For centroids float64 [k, d], of fp16 values."""
    reach = reach if most else 0.0
    return Proposing(centroids, reach, most) if device.type == "cpu" else Exact(centroids, reach, most, device)


class Proposing(Finder):
    """By scores in fp32, and exact ones for what they leave in doubt. On a CPU: numpy finds the few that are near."""

    def __init__(self, centroids: Float64s, reach: float, most: int) -> None:
        super().__init__(centroids, reach, most)
        self._centroids = torch.from_numpy(centroids.astype(np.float32))
        self._reaches = torch.from_numpy((reach * _distances(centroids, centroids)).astype(np.float32))
        # Products of two fp16 numbers are exact in fp32. A sum in 8 lanes or more, as every library for processors has
        # them, rounds at most d / 8 + 8 times. So do the two scores of a gap; it and what is added are rounded too.
        self._doubt = (2 * (centroids.shape[1] / 8 + 8) + 4 + 4 * reach) * _ROUNDING

    def find(self, values: torch.Tensor) -> Found:
        """See `Finder`."""
        scores = values.float() @ self._centroids.T
        best, every = scores.numpy().argmax(1), np.arange(len(values))
        scores.sub_(scores[every, best][:, None])
        if self._reach:
            scores.add_(self._reaches.index_select(0, torch.from_numpy(best)))
        within = scores.numpy()
        within[every, best] = -np.inf
        row, cell = np.divmod(np.flatnonzero(within > -self._doubt), within.shape[1])
        near = within[row, cell]
        as_good = near - self._reaches.numpy()[best[row], cell] > -self._doubt
        again = np.zeros(len(values), np.bool_)
        again[row[as_good | (near < self._doubt)]] = True
        again |= np.bincount(row, minlength=len(values)) > self._most
        certain = ~again[row]
        found = (np.flatnonzero(again), best, row[certain], cell[certain])
        return self._done_again(values, *map(torch.from_numpy, found))


class Exact(Finder):
    """By exact scores in fp64, on any device; what is so near that roots could differ is done again on the host."""

    def __init__(self, centroids: Float64s, reach: float, most: int, device: torch.device) -> None:
        super().__init__(centroids, reach, most)
        self._centroids = torch.from_numpy(centroids).to(device)
        self._distances = _all_distances(self._centroids) if reach else None

    def find(self, values: torch.Tensor) -> Found:
        """See `Finder`."""
        scores = values.double() @ self._centroids.T
        top, best = scores.max(1)
        again = (scores >= top[:, None] - 2 * _GRAIN).sum(1) > 1
        ghost = torch.zeros((len(values), 0), dtype=torch.bool, device=values.device)
        if self._distances is not None:
            within = scores.sub_(top[:, None]).add_(self._distances[best], alpha=self._reach)
            ghost = within > 0
            doubtful = within.abs_() <= 3 * _GRAIN
            doubtful[torch.arange(len(values), device=values.device), best] = False
            crowded = ghost.sum(1) > self._most
            ghost[crowded] = self._nearest(values[crowded], ghost[crowded])
            again |= doubtful.any(1)
        ghost[again] = False
        owner, cell = torch.nonzero(ghost, as_tuple=True)
        return self._done_again(values, torch.nonzero(again)[:, 0], best, owner, cell)

    def _nearest(self, values: torch.Tensor, ghost: torch.Tensor) -> torch.Tensor:
        """Of those within reach, bool [m, k], as many of the nearest as there may be."""
        scores = (values.double() @ self._centroids.T).masked_fill_(~ghost, -torch.inf)
        nearest = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, : self._most]
        return torch.zeros_like(ghost).scatter_(1, nearest, value=True)


def _all_distances(centroids: torch.Tensor) -> torch.Tensor:
    """|c_i - c_j| for all of float64 [k, d]: [k, k]."""
    squares = (centroids * centroids).sum(1)
    squared = squares[:, None] + squares - 2 * (centroids @ centroids.T)
    return squared.clamp_(min=0).sqrt_()


def _found(x: Float64s, centroids: Float64s, reach: float, most: int) -> tuple[Rows, Rows, Rows]:
    """As `Finder.find`, of rows float64 [m, d], on the host in exact arithmetic."""
    scores = _dots(x, centroids)
    best = scores.argmax(axis=1)
    gap = scores[np.arange(len(x)), best][:, None] - scores
    used, place = np.unique(best, return_inverse=True)
    row, cell = np.nonzero(gap < reach * _distances(centroids[used], centroids)[place])  # not the best: 0 < 0 is false
    order = np.lexsort((cell, gap[row, cell], row))
    row, cell = row[order], cell[order]
    nth = np.arange(len(row)) - np.searchsorted(row, row)  # 0 for the nearest of a row
    row, cell = row[nth < most], cell[nth < most]
    order = np.lexsort((cell, row))
    return best, row[order], cell[order]


def _distances(some: Float64s, centroids: Float64s) -> Float64s:
    """The distance of each of float64 [m, d] from each centroid: [m, k]."""
    squared = (some * some).sum(1)[:, None] + (centroids * centroids).sum(1) - 2 * _dots(some, centroids)
    distances: Float64s = np.sqrt(np.maximum(squared, 0))
    return distances


def _dots(x: Float64s, y: Float64s) -> Float64s:
    """x @ y.T by torch: numpy's threads go on spinning for some time after each product."""
    dots: Float64s = (torch.from_numpy(x) @ torch.from_numpy(y).T).numpy()
    return dots
