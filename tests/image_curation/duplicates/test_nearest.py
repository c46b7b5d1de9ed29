"""Finding centroids: products in fp32 and in fp64 find what exact arithmetic does, also where scores are close."""

import numpy as np
import pytest
import torch

from image_curation.duplicates import nearest
from image_curation.duplicates.cells import train_cells
from image_curation.duplicates.nearest import Exact, Proposing

Found = tuple[list[int], list[tuple[int, int]]]
CPU = torch.device("cpu")


def found(finder: nearest.Finder, x: np.ndarray) -> Found:
    best, row, cell = finder.find(torch.from_numpy(x))
    return best.tolist(), list(zip(row.tolist(), cell.tolist(), strict=True))


@pytest.mark.parametrize(("reach", "most"), [(0.0, 0), (0.1, 64), (0.2, 64), (0.2, 3), (20.0, 64), (20.0, 5)])
def test_both_find_what_exact_arithmetic_finds(planted, reach: float, most: int):
    x = planted.vectors[-1_000:]
    centroids = train_cells(x, 64).centroids.astype(np.float64)
    best, row, cell = nearest._found(x.astype(np.float64), centroids, reach, most)
    expected = best.tolist(), list(zip(row.tolist(), cell.tolist(), strict=True))
    assert found(Proposing(centroids, reach, most), x) == expected
    assert found(Exact(centroids, reach, most, CPU), x) == expected
    assert (len(expected[1]) > 500) == (reach > 0)


@pytest.mark.parametrize("reach", [0.0, 0.1])
def test_rows_between_centroids_are_decided_exactly(reach: float):
    """Sums of two centroids are as near to one as to the other, but for their rounding to fp16: fp32 cannot tell."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 768))
    centroids = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    between = (centroids[::2] + centroids[1::2]) / np.sqrt(2)
    x = np.concatenate([between, between]).astype(np.float16)
    scores = x.astype(np.float64) @ centroids.T
    nearest_two = np.sort(scores, 1)[:, -2:]
    assert (nearest_two[:, 1] - nearest_two[:, 0] < 1e-4).all()
    proposing = Proposing(centroids, reach, 8)
    assert found(proposing, x) == found(Exact(centroids, reach, 8, CPU), x)
    assert found(proposing, x)[0] == scores.argmax(1).tolist()
