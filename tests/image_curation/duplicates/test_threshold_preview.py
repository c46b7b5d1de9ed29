"""What thresholds would do, counted by hand on six rows: a chain of three by cosine, and pairs of other kinds."""

import numpy as np
import pytest

from image_curation.duplicates.edges import Edges, Kind, concatenate
from image_curation.duplicates.forest import spanning_forests
from image_curation.duplicates.groups import connected_groups, filter_edges
from image_curation.duplicates.preview import Thresholds, cosine_cuts, cosine_steps, distance_cuts, pairs_around
from image_curation.duplicates.vectors import Vectors

CHOSEN = Thresholds(0.9, 4, True)


def plane(*degrees: float) -> Vectors:
    """Unit vectors at these angles."""
    turns = np.radians(degrees)
    return Vectors.measure(np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float16))


@pytest.fixture
def edges() -> Edges:
    """0 and 1 at 0.98, 1 and 2 at 0.92, 2 and 3 at 0.86 by cosine; 3 and 4 differ by 2 bits, 4 and 5 by 6."""
    return concatenate(
        [
            Edges.between([0, 1, 2], [1, 2, 3], [0.98, 0.92, 0.86], Kind.SEMANTIC),
            Edges.between([3, 4], [4, 5], [1 - 2 / 64, 1 - 6 / 64], Kind.PERCEPTUAL),
        ]
    )


ANGLES = plane(0, 11, 34, 65, 70, 75)
EVERY = np.ones(6, bool)


def test_counts_by_cosine(edges):
    cuts = cosine_cuts(edges, EVERY, ANGLES, CHOSEN, floor=0.85)
    found = {cut.thresholds.min_similarity: (cut.goes, cut.groups, cut.largest) for cut in cuts}
    assert found[0.85] == found[0.86] == (4, 1, 5)  # 0-1-2-3-4; 5 is too many bits away
    assert found[0.87] == found[0.9] == found[0.92] == (3, 2, 3)  # 0-1-2 and 3-4
    assert found[0.93] == found[0.98] == (2, 2, 2)  # 0-1 and 3-4
    assert found[0.99] == found[1.0] == found[None] == (1, 1, 2)  # 3-4
    assert [cut.thresholds for cut in cuts].count(CHOSEN) == 1
    assert {cut.thresholds[1:] for cut in cuts} == {(4, True)}


def test_counts_by_distance(edges):
    cuts = distance_cuts(edges, EVERY, ANGLES, CHOSEN, searched=8)
    assert [cut.thresholds.max_distance for cut in cuts] == [*range(9), None]
    assert [cut.goes for cut in cuts] == [2, 2, 3, 3, 3, 3, 4, 4, 4, 2]
    assert {cut.thresholds.min_similarity for cut in cuts} == {0.9}


def test_lowest_cosine_of_the_largest_group_tells_of_chaining(edges):
    by_cosine = {cut.thresholds.min_similarity: cut for cut in cosine_cuts(edges, EVERY, ANGLES, CHOSEN, 0.85)}
    assert by_cosine[0.9].least_alike == pytest.approx(np.cos(np.radians(34)), abs=1e-3)  # rows 0 and 2
    assert by_cosine[0.85].least_alike == pytest.approx(np.cos(np.radians(70)), abs=1e-3)  # rows 0 and 4


def test_rows_that_another_rule_drops_join_but_neither_stay_nor_go(edges):
    eligible = np.array([True, False, True, False, False, True])
    cuts = {cut.thresholds.min_similarity: cut for cut in cosine_cuts(edges, eligible, ANGLES, CHOSEN, 0.85)}
    assert (cuts[0.9].goes, cuts[0.9].groups, cuts[0.9].largest) == (1, 1, 3)  # 3-4 has nobody who could stay
    assert (cuts[0.95].goes, cuts[0.95].groups, cuts[0.95].largest) == (0, 1, 2)


def test_no_edges_and_no_rows():
    for n in (0, 3):
        cuts = cosine_cuts(Edges.none(), np.ones(n, bool), plane(*range(n)), CHOSEN, 0.85)
        assert {cut[1:] for cut in cuts} == {(0, 0, 0, None)}


def test_group_without_vectors_has_no_lowest_cosine():
    nothing = Vectors.measure(np.zeros((2, 4), np.float16))
    copies = Edges.between([0], [1], 1.0, Kind.EXACT)
    cuts = cosine_cuts(copies, np.ones(2, bool), nothing, CHOSEN, 0.85)
    assert {cut[1:] for cut in cuts} == {(1, 1, 2, None)}


def test_forest_counts_as_all_edges_do():
    rng = np.random.default_rng(3)
    n, m = 60, 400
    x, y = rng.integers(0, n, (2, m))
    pairs = [
        Edges.between(x[x != y], y[x != y], rng.uniform(0.8, 1, (x != y).sum()), kind)
        for kind in (Kind.SEMANTIC, Kind.PERCEPTUAL)
    ]
    every = concatenate(pairs)
    vectors, eligible = plane(*rng.uniform(0, 90, n)), rng.random(n) < 0.8
    of_forest = cosine_cuts(spanning_forests(every, n), eligible, vectors, CHOSEN, 0.8)
    assert of_forest == cosine_cuts(every, eligible, vectors, CHOSEN, 0.8)
    goes = [cut.goes for cut in of_forest]
    assert goes == sorted(goes, reverse=True)
    assert goes[0] > goes[-1]
    for cut in of_forest:  # another way to count: the eligible rows less the groups that have one
        labels = connected_groups(filter_edges(every, *cut.thresholds), n)
        assert cut.goes == eligible.sum() - len(set(labels[eligible]))


@pytest.mark.parametrize(
    ("floor", "chosen", "steps"),
    [
        (0.85, 0.9, [round(0.85 + i / 100, 2) for i in range(16)]),
        (0.85, None, [round(0.85 + i / 100, 2) for i in range(16)]),
        (0.977, 0.9812, [0.977, 0.978, 0.98, 0.9812, 0.982, 0.984, 0.986, 0.988, 0.99, 0.992, 0.994, 0.996, 0.998, 1]),
        (1.0, 1.0, [1.0]),
    ],
)
def test_steps_are_round_and_hold_both_ends_and_the_chosen(floor, chosen, steps):
    assert cosine_steps(floor, chosen) == steps


@pytest.mark.parametrize("floor", [0.05, 0.123456, 0.5, 0.75, 0.899999])
def test_steps_are_few_whatever_the_floor(floor):
    steps = cosine_steps(floor, 0.95)
    assert 10 <= len(steps) <= 25
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (floor, 1.0)


def test_pairs_next_to_the_threshold_nearest_first(edges):
    more = concatenate([edges, Edges.between([0, 3, 2], [5, 4, 4], [0.95, 0.97, 0.88], Kind.SEMANTIC)])
    above, below = pairs_around(more, EVERY, CHOSEN)
    assert list(zip(above.a, above.b, strict=True)) == [(1, 2), (0, 5), (0, 1)]  # not 3-4: the bits join it anyway
    assert list(zip(below.a, below.b, strict=True)) == [(2, 4), (2, 3)]
    above, _ = pairs_around(more, np.array([True, False, True, True, True, True]), CHOSEN)
    assert list(zip(above.a, above.b, strict=True)) == [(0, 5)]


def test_pair_on_the_threshold_is_above_and_without_one_all_are_below(edges):
    above, _ = pairs_around(edges, EVERY, CHOSEN._replace(min_similarity=0.92))
    assert above.similarity.tolist() == [0.92, 0.98]
    above, below = pairs_around(edges, EVERY, CHOSEN._replace(min_similarity=None))
    assert len(above) == 0
    assert below.similarity.tolist() == [0.98, 0.92, 0.86]
