"""Cosine pairs: a chain by hand, the threshold decided exactly, planted duplicates, tiles, order, copies, recall."""

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from image_curation.duplicates import products, semantic, vectors
from image_curation.duplicates.cells import Cells, train_cells
from image_curation.duplicates.edges import Edges, Kind, concatenate
from image_curation.duplicates.groups import connected_groups
from image_curation.duplicates.semantic import (
    estimate_recall,
    semantic_edges,
    semantic_pairs,
    wilson_interval,
)
from image_curation.duplicates.vectors import Vectors
from image_curation.errors import ArtifactError, ConfigError

Float16s = npt.NDArray[np.float16]
Items = set[tuple[int, int, float]]

# Directions at 0, p, 2p, 3p (cos p = 24/25), and at 90 degrees; all numbers and norms are exact in fp16.
CHAIN = np.array(
    [
        [1, 0],  # 0: A
        [3, 7 / 8],  # 1: B, cosine with A is 24/25 = 0.96
        [527 / 256, 336 / 256],  # 2: C, with B 0.96, with A 527/625 = 0.8432
        [0, 0],  # 3: no vector
        [0, 1],  # 4: with C 336/625 = 0.5376
        [np.nan, 1],  # 5: no vector
        [1, 0],  # 6: a copy of A
        [np.inf, 0],  # 7: no vector
    ],
    np.float16,
)


def items(edges: Edges) -> Items:
    return set(zip(edges.a.tolist(), edges.b.tolist(), edges.similarity.tolist(), strict=True))


def all_items(x: Float16s, threshold: float, cells: Cells | None = None) -> Items:
    return items(concatenate(list(semantic_pairs(x, threshold, cells))))


def pairs_in_fractions(x: Float16s, threshold: Fraction) -> set[tuple[int, int]]:
    """All pairs of nonzero rows with a cosine of at least the threshold, in rational arithmetic."""
    rows = [[Fraction(float(value)) for value in row] for row in x]
    dot = [[sum(p * q for p, q in zip(u, v, strict=True)) for v in rows] for u in rows]
    return {
        (i, j)
        for j in range(len(rows))
        for i in range(j)
        if dot[i][j] > 0 and dot[i][j] ** 2 >= threshold**2 * dot[i][i] * dot[j][j]
    }


def test_a_chain_by_hand_joins_its_ends_through_the_middle():
    edges = semantic_edges(CHAIN, 0.95)
    assert items(edges) == {(0, 6, 1.0), (0, 1, 0.96), (1, 2, 0.96)}
    assert edges.kind.tolist() == [Kind.SEMANTIC] * 3
    assert connected_groups(edges, 8).tolist() == [0, 0, 0, 3, 4, 5, 0, 7]


def test_a_pair_exactly_at_the_threshold_is_taken_and_one_below_it_is_not():
    assert (0, 1, 0.96) in items(semantic_edges(CHAIN, 0.96))
    assert items(semantic_edges(CHAIN, np.nextafter(0.96, 1))) == {(0, 6, 1.0)}
    assert (0, 2, 0.8432) in all_items(CHAIN, 0.8432)


def test_decisions_near_the_threshold_equal_rational_arithmetic():
    rng = np.random.default_rng(3)
    base = rng.standard_normal(24)
    x = base + 0.23 * rng.standard_normal((60, 24))  # cosines crowd around 0.95
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    expected = pairs_in_fractions(x, Fraction(0.95))
    assert {(a, b) for a, b, _ in all_items(x, 0.95)} == expected
    assert 50 < len(expected) < 1_720  # of 1,770: both answers occur often


def test_planted_duplicates_are_joined_to_their_source(planted):
    labels = connected_groups(semantic_edges(planted.vectors, 0.92), len(planted.vectors))
    copies = np.arange(planted.originals, len(planted.vectors))
    assert (labels[copies] == labels[planted.source]).all()


def test_brute_force_equals_a_plain_fp64_product(planted):
    x = planted.vectors[-2_000:].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    a, b = np.nonzero(np.triu(x @ x.T >= 0.95, 1))
    assert {(i, j) for i, j, _ in all_items(planted.vectors[-2_000:], 0.95)} == set(
        zip(a.tolist(), b.tolist(), strict=True)
    )
    assert len(a) > 500


@pytest.mark.parametrize("tile", [37, 500])
def test_tiles_make_no_difference_to_the_last_bit(planted, monkeypatch: pytest.MonkeyPatch, tile: int):
    x = planted.vectors[-1_500:]
    cells = train_cells(x, 8)
    whole = all_items(x, 0.93), all_items(x, 0.93, cells)
    monkeypatch.setattr(products, "_TILE_ROWS", tile)
    monkeypatch.setattr(vectors, "CHUNK_VALUES", 96 * tile)
    assert (all_items(x, 0.93), all_items(x, 0.93, cells)) == whole
    assert len(whole[0]) > 500


def test_many_hits_in_a_tile_give_the_same_numbers_as_few():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 32)) + 8
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    measured, rows = Vectors.measure(x), np.arange(40)
    a, b, cosine = measured.close_pairs(rows, rows, 0.9)
    assert len(a) > 1_000  # of 1,600: decided by one product of the tile
    assert np.array_equal(cosine, measured.cosine(a, b))  # pair by pair
    assert cosine.max() == 1.0


@pytest.mark.parametrize("by_cells", [False, True])
def test_permuted_rows_give_the_same_pairs_and_groups(planted, by_cells: bool):
    x = planted.vectors[-2_000:]
    cells = train_cells(x, 16) if by_cells else None
    order = np.random.default_rng(1).permutation(len(x))
    back = {
        (min(order[a], order[b]), max(order[a], order[b]), similarity)
        for a, b, similarity in all_items(x[order], 0.93, cells)
    }
    assert back == all_items(x, 0.93, cells)
    groups = connected_groups(semantic_edges(x, 0.93, cells), len(x))
    permuted = connected_groups(semantic_edges(x[order], 0.93, cells), len(x))
    assert (
        len(set(zip(groups[order].tolist(), permuted.tolist(), strict=True))) == len(set(groups)) == len(set(permuted))
    )


def test_by_cells_a_part_of_the_rows_has_the_pairs_that_the_whole_has_within_it(planted):
    """What increments rest on: other rows have no say in whether two are compared."""
    x = planted.vectors
    cells = train_cells(x, 32)
    part = np.arange(0, len(x), 3)
    inside = {(a, b, s) for a, b, s in all_items(x, 0.93, cells) if a % 3 == 0 and b % 3 == 0}
    assert {(int(part[a]), int(part[b]), s) for a, b, s in all_items(x[part], 0.93, cells)} == inside
    assert len(inside) > 50


@pytest.mark.parametrize("threshold", [0.93, 0.95, 0.97])
def test_cells_with_ghosts_find_99_percent_of_what_brute_force_finds(planted, threshold: float):
    x = planted.vectors
    every = {(a, b) for a, b, _ in all_items(x, threshold)}
    with_ghosts = {(a, b) for a, b, _ in all_items(x, threshold, train_cells(x, 64))}
    without = {(a, b) for a, b, _ in all_items(x, threshold, train_cells(x, 64, max_ghosts=0))}
    assert with_ghosts <= every
    assert len(with_ghosts) >= 0.99 * len(every)
    assert len(without) < 0.97 * len(every)  # so it is the ghosts that find them


def test_20_000_copies_enter_the_comparison_once():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_200, 64))
    x[100:20_100] = x[100]
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    edges = semantic_edges(x, 0.9)
    assert len(edges) == 19_999
    assert (edges.a == 100).all()
    assert items(semantic_edges(x, 0.9, train_cells(x, 4))) == items(edges)


def test_rows_of_equal_norm_are_not_taken_for_copies():
    x = np.random.default_rng(0).standard_normal((50, 64))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    same_norm = np.concatenate([x, x[:, ::-1], x[:10]])
    assert all_items(same_norm, 1.0) == {(i, 100 + i, 1.0) for i in range(10)}


def test_near_copies_beyond_the_batch_are_reduced_to_the_same_forest(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(48) + 0.02 * rng.standard_normal((300, 48))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    monkeypatch.setattr(products, "_TILE_ROWS", 32)
    whole = semantic_edges(x, 0.99)
    assert sum(len(batch) for batch in semantic_pairs(x, 0.99)) == 300 * 299 // 2
    assert len(whole) == 299
    reduced = semantic.forest_of_batches(semantic_pairs(x, 0.99), 300, batch_edges=500)
    assert np.array_equal(reduced.similarity, whole.similarity)
    assert items(reduced) == items(whole)


def test_without_any_vector_there_are_no_edges_and_recall_is_unknown():
    empty = np.zeros((5, 8), np.float16)
    assert len(semantic_edges(empty, 0.9)) == 0
    estimate = estimate_recall(empty, Edges.none(), 0.9)
    assert (estimate.queries, estimate.expected, estimate.low, estimate.high) == (0, 0, 0.0, 1.0)
    assert np.isnan(estimate.recall)


def test_vectors_that_are_far_from_unit_norm_are_refused():
    with pytest.raises(ArtifactError, match="vector 1 has norm 5 and should have 1"):
        semantic_edges(np.array([[1, 0], [3, 4]], np.float16), 0.9)


@pytest.mark.parametrize("threshold", [0, 1.01, np.nan])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float):
    with pytest.raises(ConfigError, match="should be a cosine"):
        semantic_edges(CHAIN, threshold)


def test_recall_is_the_share_of_each_rows_duplicates_that_are_joined():
    """Rows 0 to 3 are near each other, 4 and 5 too. Only 0-1 and 1-2 are given: 0-2 is joined by way of 1."""
    x = np.array(
        [[1, 0, 0], [1, 0.01, 0], [1, 0, 0.01], [1, 0.01, 0.01], [0, 1, 0], [0.01, 1, 0], [0, 0, 1]], np.float16
    )
    some = Edges.between([0, 1], [1, 2], 0.9999, Kind.SEMANTIC)
    estimate = estimate_recall(x, some, 0.99)
    assert (estimate.queries, estimate.expected) == (7, 6)
    assert estimate.found == pytest.approx(2 / 3 * 3)  # rows 0, 1, 2 miss row 3; rows 3, 4, 5 miss all they have
    assert estimate.recall == pytest.approx(1 / 3)
    assert (estimate.low, estimate.high) == wilson_interval(estimate.recall, 6)
    assert estimate_recall(x, Edges.none(), 0.99).found == 0
    weak = Edges.between([0, 1], [1, 2], 0.98, Kind.SEMANTIC)
    assert estimate_recall(x, weak, 0.99).recall == 0  # edges below the threshold in question join nothing


def test_wilson_interval_equals_the_textbook():
    """Newcombe 1998, table I: 15 of 148 is 0.0624 to 0.1605, 0 of 20 is 0 to 0.1611."""
    assert wilson_interval(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)


def test_sampled_recall_brackets_the_recall_of_all(planted):
    x = planted.vectors
    edges = semantic_edges(x, 0.95, train_cells(x, 64, max_ghosts=0))
    whole = estimate_recall(x, edges, 0.95, queries=len(x))
    sampled = estimate_recall(x, edges, 0.95, queries=1_500, seed=5)
    assert whole.recall < 0.995
    assert sampled.low <= whole.recall <= sampled.high
    assert sampled == estimate_recall(x, edges, 0.95, queries=1_500, seed=5)
    assert estimate_recall(x, semantic_edges(x, 0.95), 0.95).recall == 1.0
