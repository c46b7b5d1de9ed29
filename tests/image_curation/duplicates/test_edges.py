"""Edges: ends in order, parts joined, copies collapsed onto the first of them."""

import numpy as np

from image_curation.duplicates.edges import Edges, Kind, collapse, concatenate


def test_ends_come_in_order_whichever_way_they_were_given():
    edges = Edges.between([5, 1], [2, 3], [0.9, 0.8], Kind.SEMANTIC)
    assert (edges.a.tolist(), edges.b.tolist()) == ([2, 1], [5, 3])
    assert edges.similarity.tolist() == [0.9, 0.8]
    assert (edges.a.dtype, edges.similarity.dtype, edges.kind.dtype) == (np.int64, np.float64, np.uint8)


def test_parts_are_joined_in_their_order_and_told_apart_by_kind():
    exact, near = Edges.between([0], [1], 1.0, Kind.EXACT), Edges.between([2, 0], [3, 1], 0.9, Kind.SEMANTIC)
    both = concatenate([near, exact])
    assert both.a.tolist() == [2, 0, 0]
    assert both.of(Kind.EXACT).b.tolist() == [1]
    assert len(both.of(Kind.PERCEPTUAL)) == 0
    assert len(concatenate([])) == 0


def test_copies_are_tied_to_their_first_row_and_first_rows_come_back_ascending():
    values = np.array([9, 4, 9, 4, 1, 9])
    distinct, copies = collapse(values, np.array([10, 20, 30, 40, 50, 60]), Kind.PERCEPTUAL)
    assert distinct.tolist() == [10, 20, 50]
    assert set(zip(copies.a.tolist(), copies.b.tolist(), strict=True)) == {(10, 30), (10, 60), (20, 40)}
