"""Equal hashes: a star, null rows left out, and 300,000 copies without a quadratic number of pairs."""

import numpy as np
import pyarrow as pa

from image_curation.duplicates.edges import Kind
from image_curation.duplicates.exact import exact_edges, hash_digits, packed_hashes


def test_each_copy_is_tied_to_the_first_row_of_its_hash():
    edges = exact_edges(packed_hashes(["b", "a", "b", None, "c", "b", "a", None]))
    assert sorted(zip(edges.a.tolist(), edges.b.tolist(), strict=True)) == [(0, 2), (0, 5), (1, 6)]
    assert edges.similarity.tolist() == [1.0, 1.0, 1.0]
    assert edges.kind.tolist() == [Kind.EXACT] * 3


def test_a_chunked_arrow_column_gives_the_same_edges_as_a_list():
    chunked = pa.chunked_array([["b", "a"], ["b", None, "c"], ["b", "a", None]])
    edges, expected = exact_edges(packed_hashes(chunked)), exact_edges(packed_hashes(chunked.to_pylist()))
    assert edges.a.tolist() == expected.a.tolist()
    assert edges.b.tolist() == expected.b.tolist()
    assert len(edges) == 3


def test_300_000_copies_cost_one_edge_each():
    edges = exact_edges(packed_hashes(pa.array(["f" * 64] * 300_000)))
    assert len(edges) == 299_999
    assert (edges.a == 0).all()
    assert np.array_equal(edges.b, np.arange(1, 300_000))


def test_no_rows_and_only_nulls_give_no_edges():
    assert len(exact_edges(packed_hashes([]))) == 0
    assert len(exact_edges(packed_hashes([None, None]))) == 0


def test_touched_rows_are_tied_with_all_that_equal_them():
    hashes = packed_hashes([f"{i % 5 + 1:032x}" for i in range(20)] + [None, None])
    touched = np.isin(np.arange(22), [7, 13, 20])
    edges, every = exact_edges(hashes, touched), exact_edges(hashes)
    wanted = np.isin(every.b % 5, [2, 3])
    assert edges.a.tolist() == every.a[wanted].tolist()
    assert edges.b.tolist() == every.b[wanted].tolist()
    assert len(edges) == 6


def test_digits_are_those_of_the_first_half():
    whole = ["0123456789abcdef" * 4, "f" * 64]
    assert hash_digits(packed_hashes(whole)).to_pylist() == [one[:32] for one in whole]
