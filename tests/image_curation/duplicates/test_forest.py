"""The forest: unique, the same components at every threshold, composable, one a kind; against a plain Kruskal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_curation.duplicates.cuda_forest import forest_places
from image_curation.duplicates.edges import Edges, Kind, concatenate
from image_curation.duplicates.forest import forest_of_batches, maximum_spanning_forest, spanning_forests
from image_curation.duplicates.groups import connected_groups, filter_edges

N = 12
Item = tuple[int, int, float, int]
SIMILARITIES = {
    Kind.EXACT: [1.0],
    Kind.PERCEPTUAL: [1 - d / 64 for d in range(9)],
    Kind.SEMANTIC: [0.9, 0.93, 0.95, 1.0],
}


def edge_of(kind: Kind) -> st.SearchStrategy[Item]:
    pair = st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)).filter(lambda ab: ab[0] < ab[1])
    return st.tuples(pair, st.sampled_from(SIMILARITIES[kind])).map(lambda ps: (*ps[0], ps[1], int(kind)))


one_kind = st.lists(edge_of(Kind.SEMANTIC), max_size=30)
mixed = st.lists(st.one_of(*(edge_of(kind) for kind in Kind)), max_size=40)


def edges_of(items: list[Item]) -> Edges:
    a, b, similarity, kind = zip(*items, strict=True) if items else ((), (), (), ())
    return Edges(np.array(a, np.int64), np.array(b, np.int64), np.array(similarity, float), np.array(kind, np.uint8))


def items_of(edges: Edges) -> list[Item]:
    columns = (edges.a, edges.b, edges.similarity, edges.kind)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def groups_by_hand(items: list[Item]) -> list[int]:
    """Smallest row of each component, by relabelling until nothing changes."""
    labels = list(range(N))
    for _ in range(N):
        for a, b, *_ in items:
            low = min(labels[a], labels[b])
            labels = [low if label in (labels[a], labels[b]) else label for label in labels]
    return labels


def kruskal(items: list[Item]) -> list[Item]:
    kept: list[Item] = []
    for item in sorted(items, key=lambda e: (-e[2], e[3], e[0], e[1])):
        labels = groups_by_hand(kept)
        if labels[item[0]] != labels[item[1]]:
            kept.append(item)
    return kept


def test_a_triangle_loses_its_weakest_side():
    triangle = [(0, 1, 0.96, 2), (0, 2, 0.95, 2), (1, 2, 0.97, 2)]
    assert items_of(maximum_spanning_forest(edges_of(triangle), 3)) == [(1, 2, 0.97, 2), (0, 1, 0.96, 2)]


def test_a_pair_given_twice_counts_once_with_its_best_similarity():
    twice = [(0, 1, 0.91, 2), (0, 1, 0.99, 2), (1, 2, 0.95, 2), (0, 2, 0.96, 2)]
    assert items_of(maximum_spanning_forest(edges_of(twice), 3)) == [(0, 1, 0.99, 2), (0, 2, 0.96, 2)]


def test_a_row_beyond_n_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="row 3 of an edge should be < n=3"):
        maximum_spanning_forest(edges_of([(0, 3, 0.9, 2)]), 3)


@settings(deadline=None)
@given(mixed)
def test_equal_to_a_plain_kruskal_whatever_the_ties(items: list[Item]):
    assert items_of(maximum_spanning_forest(edges_of(items), N)) == kruskal(items)


@settings(deadline=None)
@given(mixed, st.randoms(use_true_random=False))
def test_order_of_the_edges_makes_no_difference(items: list[Item], random):
    shuffled = random.sample(items, len(items))
    assert items_of(spanning_forests(edges_of(shuffled), N)) == items_of(spanning_forests(edges_of(items), N))


@settings(deadline=None)
@given(mixed, mixed)
def test_forest_of_a_forest_and_more_edges_is_the_forest_of_all(first: list[Item], more: list[Item]):
    increment = concatenate([spanning_forests(edges_of(first), N), edges_of(more)])
    assert items_of(spanning_forests(increment, N)) == items_of(spanning_forests(edges_of(first + more), N))


@settings(deadline=None)
@given(one_kind, st.integers(0, 10))
def test_batches_give_the_forest_of_all(items: list[Item], batch_edges: int):
    batches = [edges_of(items[start : start + 4]) for start in range(0, len(items), 4)]
    whole = items_of(maximum_spanning_forest(edges_of(items), N))
    assert items_of(forest_of_batches(batches, N, batch_edges=batch_edges)) == whole


@settings(deadline=None)
@given(
    mixed,
    st.sampled_from([None, 0.9, 0.91, 0.93, 0.95, 0.99, 1.0]),
    st.sampled_from([None, *range(9)]),
    st.booleans(),
)
def test_components_at_every_mix_of_thresholds_are_those_of_all_edges(items, min_similarity, max_distance, exact):
    accepted = [
        item
        for item in items
        if (item[3] == Kind.EXACT and exact)
        or (item[3] == Kind.PERCEPTUAL and max_distance is not None and (1 - item[2]) * 64 <= max_distance)
        or (item[3] == Kind.SEMANTIC and min_similarity is not None and item[2] >= min_similarity)
    ]
    forest = filter_edges(spanning_forests(edges_of(items), N), min_similarity, max_distance, exact)
    assert connected_groups(forest, N).tolist() == groups_by_hand(accepted)


def test_one_forest_over_mixed_kinds_would_lose_a_component():
    """Why each kind keeps its own: an exact edge would displace the semantic one that a policy without it needs."""
    items = [(0, 1, 1.0, 0), (0, 1, 0.99, 2)]
    alone = filter_edges(maximum_spanning_forest(edges_of(items), 2), 0.95, None, exact=False)
    each = filter_edges(spanning_forests(edges_of(items), 2), 0.95, None, exact=False)
    assert connected_groups(alone, 2).tolist() == [0, 1]
    assert connected_groups(each, 2).tolist() == [0, 0]


@given(mixed, st.randoms())
def test_what_a_gpu_does_gives_the_same_forest_in_the_same_order(items: list[Item], random):
    items = [*items, *random.sample(items, len(items) // 2)]
    random.shuffle(items)
    edges = edges_of(items)
    places = forest_places(edges, N, "cpu").numpy()
    assert items_of(edges.take(places)) == items_of(maximum_spanning_forest(edges, N)) == kruskal(items)


def test_a_million_edges_take_seconds():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 300_000, (2, 1_000_000))
    keep = a != b
    edges = Edges.between(a[keep], b[keep], rng.uniform(0.9, 1, keep.sum()).round(3), Kind.SEMANTIC)
    forest = maximum_spanning_forest(edges, 300_000)
    assert np.array_equal(connected_groups(forest, 300_000), connected_groups(edges, 300_000))
    assert len(forest) == 300_000 - len(np.unique(connected_groups(edges, 300_000)))
