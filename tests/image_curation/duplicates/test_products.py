"""Products propose and decide: every type and device that proposes finds the pairs of plain fp64, to the last bit."""

import numpy as np
import pytest
import torch

from image_curation.duplicates import products as module
from image_curation.duplicates.perceptual import _multiplied, _near_pairs, perceptual_edges
from image_curation.duplicates.products import Products
from image_curation.duplicates.semantic import semantic_edges
from image_curation.duplicates.vectors import Vectors

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


def found(products: Products, x, y, threshold: float, rows=None) -> list[tuple[int, int, float]]:
    pairs = [np.concatenate(part) for part in zip(*products.close_pairs(x, y, threshold, rows), strict=True)]
    return sorted(zip(*(part.tolist() for part in pairs), strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pairs_and_cosines_are_those_of_plain_fp64_whatever_proposes(planted, device, dtype, monkeypatch):
    products = Products(device)
    monkeypatch.setattr(products, "proposes", dtype if device == "cpu" else torch.float16)
    vectors = planted.vectors[-1_500:]
    measured, every = Vectors.measure(vectors), np.arange(len(vectors))
    a, b = (rows.ravel() for rows in np.meshgrid(every, every, indexing="ij"))
    cosine = measured.cosine(a, b)
    close = (cosine >= 0.9) & (a < b)
    expected = sorted(zip(a[close].tolist(), b[close].tolist(), cosine[close].tolist(), strict=True))
    block, there = products.load(vectors)
    assert there.tolist() == every.tolist()
    assert found(products, block, block, 0.9) == expected
    assert len(expected) > 500

    left, right = np.arange(0, 700), np.arange(700, 1_500)
    between = [pair for pair in expected if pair[0] < 700 <= pair[1]]
    assert found(products, block, block, 0.9, (left, right)) == between
    parts = products.load(vectors[:700])[0], products.load(vectors[700:])[0]
    assert [(i, j + 700, c) for i, j, c in found(products, *parts, 0.9)] == between


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_full_kernel_is_run_again_in_parts(planted, monkeypatch):
    expected = semantic_edges(planted.vectors, 0.9, device="cpu")
    monkeypatch.setattr(module, "_SMALL_PRODUCT", 0)
    monkeypatch.setattr(module, "_KERNEL_PAIRS", 2_000)
    again = semantic_edges(planted.vectors, 0.9, device="cuda")
    assert (again.a.tolist(), again.b.tolist()) == (expected.a.tolist(), expected.b.tolist())
    assert again.similarity.tolist() == expected.similarity.tolist()


def test_rows_without_a_vector_are_left_out_and_copies_share_a_hash():
    vectors = np.array([[0, 0], [1, 0], [np.nan, 1], [np.inf, 0], [0, 1], [1, 0]], np.float16)
    products = Products("cpu")
    block, there = products.load(vectors)
    assert there.tolist() == [1, 4, 5]
    hashes = products.row_hashes(block)
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("distance", [0, 4, 8, 16])
def test_hashes_multiplied_are_as_far_apart_as_hashes_counted(device, distance):
    rng = np.random.default_rng(distance)
    base = rng.integers(0, 2**64, 40, np.uint64)
    flips = np.array([sum(1 << int(bit) for bit in rng.choice(64, n, replace=False)) for n in range(20)], np.uint64)
    hashes = np.unique((base[:, None] ^ flips).ravel())

    def pairs(batches) -> set[tuple[int, int, int]]:
        return {
            (min(i, j), max(i, j), d) for batch in batches for i, j, d in zip(*(p.tolist() for p in batch), strict=True)
        }

    fresh = np.arange(len(hashes)) % 7 == 0
    whole = pairs(_near_pairs(hashes, distance))
    assert pairs(_multiplied(hashes, distance, None, device)) == whole
    assert pairs(_multiplied(hashes, distance, fresh, device)) == pairs(_near_pairs(hashes, distance, fresh))
    assert pairs(_near_pairs(hashes, distance, fresh)) == {pair for pair in whole if fresh[pair[0]] or fresh[pair[1]]}
    assert distance == 0 or len(whole) > 100


def test_an_old_row_of_a_new_hash_is_joined_to_what_the_new_one_is_near_to():
    hashes = np.array([5, 4, 5], np.uint64)
    new = np.array([False, False, True])
    edges = perceptual_edges(hashes, 1, None, new)
    assert sorted(zip(edges.a.tolist(), edges.b.tolist(), strict=True)) == [(0, 1), (0, 2)]
