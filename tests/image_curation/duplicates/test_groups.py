"""Groups, survivors and relations: by hand, per-kind thresholds, nobody eligible, and rows in another order."""

import numpy as np
import pytest

from image_curation.duplicates.alike import Alike
from image_curation.duplicates.edges import Edges, Kind, concatenate
from image_curation.duplicates.exact import exact_edges, packed_hashes
from image_curation.duplicates.forest import spanning_forests
from image_curation.duplicates.groups import choose_survivors, connected_groups, filter_edges, similarity_to_survivor
from image_curation.duplicates.perceptual import perceptual_edges
from image_curation.duplicates.semantic import semantic_edges

EDGES = concatenate(
    [
        Edges.between([0], [5], 1.0, Kind.EXACT),
        Edges.between([4, 1], [1, 2], [1 - 3 / 64, 1 - 4 / 64], Kind.PERCEPTUAL),
        Edges.between([2, 3], [5, 6], [0.97, 0.95], Kind.SEMANTIC),
    ]
)


@pytest.mark.parametrize(
    ("min_similarity", "max_distance", "exact", "labels"),
    [
        (0.95, 4, True, [0, 0, 0, 3, 0, 0, 3]),
        (0.96, 4, True, [0, 0, 0, 3, 0, 0, 6]),
        (0.96, 3, True, [0, 1, 0, 3, 1, 0, 6]),
        (0.96, 3, False, [0, 1, 2, 3, 1, 2, 6]),
        (None, None, True, [0, 1, 2, 3, 4, 0, 6]),
        (None, 0, False, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_each_kind_is_cut_by_its_own_threshold(min_similarity, max_distance, exact, labels):
    assert connected_groups(filter_edges(EDGES, min_similarity, max_distance, exact), 7).tolist() == labels


def test_no_rows_make_no_groups():
    assert connected_groups(Edges.none(), 0).tolist() == []
    assert connected_groups(Edges.none(), 3).tolist() == [0, 1, 2]


def test_the_best_ranked_eligible_row_of_each_group_survives():
    labels = np.array([0, 1, 0, 1, 0, 5, 6])
    rank = np.array([3, 1, 0, 2, 4, 6, 5])
    eligible = np.array([True, False, False, True, True, False, True])
    # group 0: row 2 ranks first but may not stay, so row 0; group 1: row 3; group 5: nobody; group 6: itself
    assert choose_survivors(labels, rank, eligible).tolist() == [0, 3, 0, 3, 0, -1, 6]


def test_nobody_eligible_leaves_no_survivor():
    assert choose_survivors(np.array([0, 0]), np.array([1, 0]), np.zeros(2, np.bool_)).tolist() == [-1, -1]


def test_relation_to_the_survivor_is_the_strongest_direct_one():
    """Survivor 0 of rows 0-6; row 7 has no survivor. Vectors at 0, p, 2p (cos p = 0.96), as in the chain by hand."""
    a, b, c = [1, 0], [3, 7 / 8], [527 / 256, 336 / 256]
    vectors = np.array([a, a, b, b, c, [0, 0], [0, 0], a], np.float16)
    sha256 = ["x", "x", "y", "z", "u", "v", None, "x"]
    phash = np.array([0, 0, 3, 7, 15, 1, 0, 0], np.uint64)
    usable = np.array([True, True, True, True, True, True, False, True])
    survivor = np.array([0, 0, 0, 0, 0, 0, 0, -1])
    got = similarity_to_survivor(survivor, Alike.measure(vectors, sha256, phash, 0.95, 2, usable=usable))
    assert got.similarity[:5].tolist() == [1.0, 1.0, 0.96, 0.96, 0.8432]
    assert np.isnan(got.similarity[5:]).all()
    assert got.found.tolist() == ["", "exact", "perceptual", "semantic", "chain", "perceptual", "chain", ""]
    nothing = Alike.measure(vectors, sha256, phash, None, None, exact=False, usable=usable)
    off = similarity_to_survivor(survivor, nothing)
    assert off.found.tolist() == ["", *["chain"] * 6, ""]
    assert similarity_to_survivor(survivor, Alike.measure(vectors, sha256, phash, 0.95, 2)).found[6] == "perceptual"


def test_two_rows_without_a_hash_are_no_exact_duplicates():
    vectors, phash = np.array([[1, 0], [0, 1]], np.float16), np.array([0, 2**64 - 1], np.uint64)
    got = similarity_to_survivor(np.array([0, 0]), Alike.measure(vectors, [None, None], phash, 0.9, 4))
    assert got.found.tolist() == ["", "chain"]


def curate(vectors, sha256, phash, rank):
    """All of it: hashes and vectors to groups, survivors and relations."""
    n = len(rank)
    edges = spanning_forests(
        concatenate([exact_edges(packed_hashes(sha256)), perceptual_edges(phash, 6), semantic_edges(vectors, 0.9)]), n
    )
    labels = connected_groups(filter_edges(edges, 0.93, 4), n)
    survivor = choose_survivors(labels, rank, np.ones(n, np.bool_))
    return labels, survivor, similarity_to_survivor(survivor, Alike.measure(vectors, sha256, phash, 0.93, 4))


def test_rows_in_another_order_give_the_same_groups_survivors_and_relations(planted):
    x = planted.vectors[-1_500:]
    n = len(x)
    rng = np.random.default_rng(2)
    phash = rng.integers(0, 2**64, n, dtype=np.uint64)
    phash[:100] = phash[100:200] ^ np.uint64(0b101)
    sha256 = [f"{i:032x}" for i in range(1, n + 1)]
    sha256[300:330] = sha256[400:430]
    quality = rng.integers(0, 3, n)  # many ties, which end at content
    total = np.lexsort((np.arange(n), quality))
    rank = np.empty(n, np.int64)
    rank[total] = np.arange(n)

    order = rng.permutation(n)  # row i of the new order is row order[i] of the old
    labels, survivor, relations = curate(x, sha256, phash, rank)
    labels_2, survivor_2, relations_2 = curate(x[order], [sha256[i] for i in order], phash[order], rank[order])

    pairs = set(zip(labels[order].tolist(), labels_2.tolist(), strict=True))
    assert len(pairs) == len(set(labels.tolist())) == len(set(labels_2.tolist())) < n - 200
    assert np.array_equal(order[survivor_2], survivor[order])
    assert np.array_equal(relations_2.similarity, relations.similarity[order])
    assert np.array_equal(relations_2.found, relations.found[order])
    assert set(relations.found.tolist()) == {"", "exact", "perceptual", "semantic", "chain"}
