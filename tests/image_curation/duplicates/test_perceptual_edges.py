"""Hashes within a Hamming distance: two pairs by hand, completeness against brute force, degenerate hashes, chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_curation.duplicates import perceptual
from image_curation.duplicates.edges import Kind
from image_curation.duplicates.perceptual import _near_pairs, nearest_hashes, perceptual_edges
from image_curation.errors import ConfigError


def brute_force(hashes: list[int], max_distance: int) -> set[tuple[int, int, int]]:
    """Every pair by Python's own integers."""
    return {
        (i, j, (x ^ y).bit_count())
        for i, x in enumerate(hashes)
        for j, y in enumerate(hashes[:i])
        if (x ^ y).bit_count() <= max_distance
    }


def found(hashes: list[int], max_distance: int) -> list[tuple[int, int, int]]:
    return [
        (max(i, j), min(i, j), d)
        for batch in _near_pairs(np.array(hashes, np.uint64), max_distance)
        for i, j, d in zip(*(part.tolist() for part in batch), strict=True)
    ]


@st.composite
def crowded_hashes(draw: st.DrawFn) -> list[int]:
    """Distinct hashes of which many are a few bit flips from each other, anywhere in the 64 bits."""
    seeds = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = draw(st.lists(st.tuples(st.sampled_from(seeds), st.sets(st.integers(0, 63), max_size=20)), max_size=40))
    return list({*seeds, *(seed ^ sum(1 << bit for bit in bits) for seed, bits in flips)})


def test_two_bits_apart_are_joined_at_two_and_not_at_one():
    hashes = np.array([0b1011, 0b1000, 2**63], np.uint64)  # 1011 ^ 1000 = 0011
    edges = perceptual_edges(hashes, 2)
    assert (edges.a.tolist(), edges.b.tolist()) == ([0, 1], [1, 2])  # 1000 ^ 2^63 also differ in two bits
    assert edges.similarity.tolist() == [1 - 2 / 64, 1 - 2 / 64]
    assert edges.kind.tolist() == [Kind.PERCEPTUAL] * 2
    assert len(perceptual_edges(hashes, 1)) == 0


def test_one_flip_in_every_band_is_found_at_four_and_not_at_three():
    hashes = np.array([0, 1 | 1 << 16 | 1 << 32 | 1 << 48], np.uint64)
    assert perceptual_edges(hashes, 4).similarity.tolist() == [0.9375]
    assert len(perceptual_edges(hashes, 3)) == 0


@settings(deadline=None)
@given(crowded_hashes(), st.integers(0, 16))
def test_every_near_pair_is_found_exactly_once(hashes: list[int], max_distance: int):
    pairs = found(hashes, max_distance)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == brute_force(hashes, max_distance)


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), min_size=1, max_size=16))
def test_no_way_to_spread_the_flips_over_the_bands_hides_a_pair(value: int, bits: set[int]):
    other = value ^ sum(1 << bit for bit in bits)
    assert found([value, other], len(bits)) == [(1, 0, len(bits))]


def test_many_hashes_in_one_band_are_compared_in_chunks_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    hashes = np.unique(rng.integers(0, 2**12, 300).astype(np.uint64) << np.uint64(40))
    whole = found(hashes.tolist(), 3)
    monkeypatch.setattr(perceptual, "CHUNK_PAIRS", 50)
    assert found(hashes.tolist(), 3) == whole
    assert set(whole) == brute_force(hashes.tolist(), 3)
    assert len(whole) > 1_000


def test_200_000_equal_hashes_and_their_neighbours_cost_one_edge_each():
    hashes = np.zeros(200_000, np.uint64)
    hashes[[5, 9]] = 1, 3
    edges = perceptual_edges(hashes, 2)
    assert len(edges) == 199_999
    assert edges.similarity.min() == 1 - 1 / 64  # 0-1 and 1-3; the pair 0-3 closes a cycle and is weaker
    assert (edges.a == 0).sum() == 199_998


def test_unusable_rows_take_no_part():
    hashes = np.array([7, 7, 7, 6], np.uint64)
    edges = perceptual_edges(hashes, 1, usable=np.array([True, False, True, True]))
    assert list(zip(edges.a.tolist(), edges.b.tolist(), strict=True)) == [(0, 2), (0, 3)]


@pytest.mark.parametrize("distance", [-1, 17])
def test_a_distance_out_of_range_is_refused(distance: int):
    with pytest.raises(ConfigError, match=f"max_distance={distance} should be from 0 to 16"):
        perceptual_edges(np.zeros(2, np.uint64), distance)


def test_no_hashes_give_no_edges():
    assert len(perceptual_edges(np.empty(0, np.uint64), 8)) == 0


@settings(deadline=None)
@given(crowded_hashes(), st.integers(0, 16))
def test_nearest_of_others_is_that_of_brute_force_and_of_equals_the_first(hashes: list[int], max_distance: int):
    asked, others = hashes[::2], [*hashes[1::2], *hashes[:1], *hashes[1::2]]
    row, distance = nearest_hashes(np.array(asked, np.uint64), np.array(others, np.uint64), max_distance)
    for x, r, d in zip(asked, row.tolist(), distance.tolist(), strict=True):
        bits = [(x ^ y).bit_count() for y in others]
        assert (r, d) == ((bits.index(min(bits)), min(bits)) if min(bits) <= max_distance else (-1, 0))


def test_nearest_of_none_and_for_a_hash_that_says_nothing():
    hashes = np.array([0, 0], np.uint64)
    assert nearest_hashes(hashes, hashes[:0], 8)[0].tolist() == [-1, -1]
    assert nearest_hashes(hashes, hashes, 8, np.array([True, False]))[0].tolist() == [0, -1]
