"""Cells: the ghost rule by hand and in rational arithmetic, k-means, order, tiles, and what it refuses."""

import numpy as np
import pytest
import torch

from image_curation.duplicates import cells as module
from image_curation.duplicates.cells import Cells, cell_count, train_cells
from image_curation.errors import ConfigError

AXES = Cells(np.eye(3, dtype=np.float32), margin=1.0, max_ghosts=2)


def assign(x: np.ndarray, cells: Cells, threshold: float) -> tuple[list[int], list[list[int]]]:
    """The cell of each row, and the cells that it is a ghost in."""
    found = module.assign(torch.from_numpy(x), cells, threshold)
    ghosts: list[list[int]] = [[] for _ in x]
    for owner, ghost in zip(found.owner.tolist(), found.ghost.tolist(), strict=True):
        ghosts[owner].append(ghost)
    return found.cell.tolist(), ghosts


def test_a_vector_near_a_border_is_a_ghost_in_the_next_cell():
    """At t = 0.8, tan(arccos t) = 0.75, so the reach is 0.75 sqrt(2) = 1.06 between any two axes."""
    x = np.array([[1, 0, 0], [0.75, 0.625, 0.25], [0, 0, 1]], np.float16)
    # gaps of row 0: 1, 1 (both below 1.06); of row 1: 0.125 and 0.5; of row 2: 1, 1
    assert assign(x, AXES, 0.8) == ([0, 0, 2], [[1, 2], [1, 2], [0, 1]])


def test_margin_and_cap_take_ghosts_away_the_nearest_stay():
    x = np.array([[0.75, 0.25, 0.625]], np.float16)
    assert assign(x, Cells(AXES.centroids, 0.2, 2), 0.8)[1] == [[2]]  # reach 0.212, gaps 0.5 and 0.125
    assert assign(x, Cells(AXES.centroids, 1.0, 1), 0.8)[1] == [[2]]
    assert assign(x, Cells(AXES.centroids, 1.0, 0), 0.8)[1] == [[]]


def test_a_gap_exactly_at_the_reach_is_no_ghost_and_a_tie_goes_to_the_first_cell():
    two = Cells(np.array([[1, 0], [0, 1]], np.float32), margin=1.0, max_ghosts=1)
    assert assign(np.array([[0.5, 0.5]], np.float16), two, 0.8)[0] == [0]
    opposite = Cells(np.array([[1, 0], [-1, 0]], np.float32), margin=1.0, max_ghosts=1)  # distance 2, reach 1.5
    x = np.array([[0.75, 0.5], [0.7495, 0.5]], np.float16)  # gaps 1.5 and a little less
    assert assign(x, opposite, 0.8)[1] == [[], [1]]


def test_the_full_margin_meets_every_pair(planted):
    """margin 1 without a cap is the worst-case bound: of two vectors within t, each is shown to the other's cell."""
    x = planted.vectors[-3_000:]
    trained = train_cells(x, 64, margin=1.0, max_ghosts=64)
    cell, ghosts = assign(x, trained, 0.93)
    seen = [{own, *others} for own, others in zip(cell, ghosts, strict=True)]
    wide = x.astype(np.float64)
    a, b = np.nonzero(np.triu(wide @ wide.T >= 0.931, 1))  # norms are within 0.001 of 1
    assert len(a) > 100
    assert sum(cell[i] != cell[j] for i, j in zip(a, b, strict=True)) > 10
    assert all(cell[j] in seen[i] and cell[i] in seen[j] for i, j in zip(a, b, strict=True))


def test_assignment_of_a_row_depends_on_that_row_alone(planted, monkeypatch: pytest.MonkeyPatch):
    x = planted.vectors[-1_000:]
    trained = train_cells(x, 20)
    cell, ghosts = assign(x, trained, 0.9)
    monkeypatch.setitem(module.TILE_VALUES, "cpu", 96 * 7)
    for row in (0, 13, 999):
        assert assign(x[row : row + 1], trained, 0.9) == ([cell[row]], [ghosts[row]])
    assert assign(x, trained, 0.9) == (cell, ghosts)
    assert sum(map(len, ghosts)) > 500


def test_training_ignores_order_and_copies_and_rows_without_a_vector(planted):
    x = planted.vectors[:2_000]
    trained = train_cells(x, 16, seed=3)
    shuffled = np.concatenate([x[np.random.default_rng(0).permutation(2_000)], x[:50], np.zeros((3, 96), np.float16)])
    assert np.array_equal(train_cells(shuffled, 16, seed=3).centroids, trained.centroids)
    assert not np.array_equal(train_cells(x, 16, seed=4).centroids, trained.centroids)
    assert np.linalg.norm(trained.centroids, axis=1) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(trained.centroids.astype(np.float16).astype(np.float32), trained.centroids)


def test_training_finds_clusters_that_are_there():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), 40)
    x = np.eye(8)[truth] + 0.05 * rng.standard_normal((200, 8))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    found = np.array(assign(x, train_cells(x, 5), 0.9)[0])
    assert len(set(zip(truth.tolist(), found.tolist(), strict=True))) == len(set(found.tolist())) == 5


@pytest.mark.parametrize("seed", range(12))
def test_empty_cells_start_again_where_the_fit_is_worst(seed: int):
    """Five of seven rows share a direction: some starts put all centroids there, and two of them get no vector."""
    x = np.array([[0, 0, 1 / 2**i] for i in range(5)] + [[1, 0, 0], [0, 1, 0]], np.float16)
    assert sorted(train_cells(x, 3, seed).centroids.tolist()) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_training_beats_random_centroids(planted):
    x = planted.vectors.astype(np.float64)
    trained = train_cells(planted.vectors, 32).centroids
    untrained = train_cells(planted.vectors, 32, iterations=0).centroids
    assert (x @ trained.T).max(axis=1).mean() > (x @ untrained.T).max(axis=1).mean() + 0.02


def test_a_sample_of_copies_gives_a_cell_for_each_distinct_vector():
    x = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float16)
    assert sorted(train_cells(x, 256).centroids.tolist()) == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("n_cells", "rows"), [(0, 1), (2, 0)])
def test_no_cells_or_no_vectors_are_refused_with_both_numbers(n_cells: int, rows: int):
    with pytest.raises(ConfigError, match=f"n_cells={n_cells} and the {rows} distinct vectors"):
        train_cells(np.ones((rows, 2), np.float16), n_cells)


def test_cells_of_another_dimension_are_refused():
    with pytest.raises(ConfigError, match="vectors have 4 dimensions, the cells 3"):
        assign(np.ones((2, 4), np.float16), AXES, 0.9)


def test_cell_count_is_the_power_of_two_next_to_the_root():
    assert [cell_count(n) for n in (0, 65_536, 65_537, 1_000_000, 1_000_000_000)] == [256, 256, 512, 1_024, 32_768]
