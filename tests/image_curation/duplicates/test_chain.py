"""The way from one row of a group to another, on edges made by hand."""

import pytest

from image_curation.duplicates.chain import Link, shortest_chain
from image_curation.duplicates.edges import Edges, Kind, concatenate


@pytest.fixture
def edges() -> Edges:
    """0-1-2-3 by cosine, 1-4 by 3 bits, 3-4 and 1-2 by the same bytes; 5-6 apart."""
    return concatenate(
        [
            Edges.between([0, 1, 2, 5], [1, 2, 3, 6], [0.9731, 0.95, 0.92, 0.99], Kind.SEMANTIC),
            Edges.between([1], [4], 1 - 3 / 64, Kind.PERCEPTUAL),
            Edges.between([3, 1], [4, 2], 1.0, Kind.EXACT),
        ]
    )


def test_chain_crosses_kinds_and_is_the_same_way_back(edges):
    there = shortest_chain(edges, 8, 0, 4)
    assert [(link.row, str(link)) for link in there] == [(1, "semantic 0.9731"), (4, "perceptual 3 bits")]
    back = shortest_chain(edges, 8, 4, 0)
    assert [(link.row, str(link)) for link in back] == [(1, "perceptual 3 bits"), (0, "semantic 0.9731")]


def test_of_two_edges_between_the_same_rows_the_strongest_kind_is_shown(edges):
    assert shortest_chain(edges, 8, 1, 2) == [Link(2, Kind.EXACT, 1.0)]


def test_of_ways_as_short_the_strongest_is_taken(edges):
    chain = shortest_chain(edges, 8, 1, 3)  # over 2 (exact, semantic) or over 4 (perceptual, exact)
    assert [str(link) for link in chain] == ["exact", "semantic 0.9200"]


def test_few_edges_come_before_strong_ones():
    long = Edges.between([0, 1, 2], [1, 2, 3], 1.0, Kind.EXACT)
    short = Edges.between([0], [3], 0.9, Kind.SEMANTIC)
    assert shortest_chain(concatenate([long, short]), 4, 0, 3) == [Link(3, Kind.SEMANTIC, 0.9)]


def test_chain_does_not_depend_on_the_order_of_edges(edges):
    turned = edges.take(slice(None, None, -1))
    pairs = [(a, b) for a in range(5) for b in range(5)]
    assert [shortest_chain(edges, 8, *pair) for pair in pairs] == [shortest_chain(turned, 8, *pair) for pair in pairs]


def test_nothing_leads_to_another_group_or_to_a_row_alone(edges):
    assert shortest_chain(edges, 8, 0, 5) is None
    assert shortest_chain(edges, 8, 0, 7) is None
    assert shortest_chain(Edges.none(), 2, 0, 1) is None


def test_chain_to_itself_is_empty(edges):
    assert shortest_chain(edges, 8, 2, 2) == []


def test_one_bit_is_no_bits():
    (link,) = shortest_chain(Edges.between([0], [1], 1 - 1 / 64, Kind.PERCEPTUAL), 2, 0, 1)
    assert str(link) == "perceptual 1 bit"


def test_long_chain():
    n = 3_000
    chain = shortest_chain(Edges.between(range(n - 1), range(1, n), 0.95, Kind.SEMANTIC), n, 0, n - 1)
    assert [link.row for link in chain] == list(range(1, n))
