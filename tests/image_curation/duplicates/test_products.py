"""Products propose and decide: every type and device that proposes finds the pairs of plain fp64, to the last bit."""

import numpy as np
import pytest
import torch

from image_curation.duplicates import products as module
from image_curation.duplicates.cells import Grouped
from image_curation.duplicates.perceptual import _near_pairs, _near_pairs_on_gpu, perceptual_edges
from image_curation.duplicates.products import Products
from image_curation.duplicates.vectors import Vectors

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]


def found(products: Products, x, y, threshold: float, cells=None) -> list[tuple[int, int, float]]:
    pairs = [np.concatenate(part) for part in zip(*products.close_pairs(x, y, threshold, cells), strict=True)]
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

    between = [pair for pair in expected if pair[0] < 700 <= pair[1]]
    parts = products.load(vectors[:700])[0], products.load(vectors[700:])[0]
    assert [(i, j + 700, c) for i, j, c in found(products, *parts, 0.9)] == between


@pytest.mark.parametrize("device", DEVICES)
def test_only_rows_of_the_same_cell_are_compared(planted, device):
    """Rows in cells of 1, 0, 255 and some hundreds: pairs of a cell with itself, and of a row's cell with another's."""
    products, vectors = Products(device), planted.vectors[-1_500:]
    block, _ = products.load(vectors)
    every = torch.arange(len(block), device=products.device)
    cell = torch.bucketize(every, torch.tensor([0, 255, 600], device=products.device))
    cell += cell > 0  # none lies in cell 1
    grouped, moved = Grouped.by_cell(cell, every, 6), Grouped.by_cell((cell + 1) % 6, every, 6)
    assert np.diff(grouped.bounds).tolist() == [1, 0, 255, 345, 899, 0]
    of, to = cell.tolist(), moved
    close = found(products, block, block, 0.9)
    assert found(products, block, block, 0.9, (grouped, grouped)) == [p for p in close if of[p[0]] == of[p[1]]]
    both = sorted(close + [(j, i, c) for i, j, c in close])
    expected = [p for p in both if of[p[0]] == (of[p[1]] + 1) % 6]
    assert found(products, block, block, 0.9, (grouped, to)) == expected
    assert len(expected) > 20


@on_gpu
def test_a_full_kernel_is_run_again_in_parts_and_with_more_memory(planted, monkeypatch):
    from image_curation.duplicates import cuda_cells, cuda_pairs

    monkeypatch.setattr(module, "_SMALL_PRODUCT", 0)
    block, _ = Products("cuda").load(planted.vectors)
    every = torch.arange(len(block), device="cuda")
    one = (Grouped.by_cell(torch.zeros_like(every), every, 1),) * 2
    expected = found(Products("cuda"), block, block, 0.9)
    for search in (
        lambda room: cuda_pairs.pairs_above(block.unit, block.unit, 0.9, is_same=True, room=room),
        lambda room: cuda_cells.pairs_in_cells(block.unit, block.unit, one, 0.9, is_same=True, room=room),
    ):
        whole, parts = (
            {(i, j) for a, b in search(room) for i, j in zip(a.tolist(), b.tolist(), strict=True) if i < j}
            for room in (1 << 20, 3)
        )
        assert whole == parts
        assert {(i, j) for i, j, cosine in expected if cosine > 0.905} <= whole


def test_rows_without_a_vector_are_left_out_and_copies_share_a_hash():
    vectors = np.array([[0, 0], [1, 0], [np.nan, 1], [np.inf, 0], [0, 1], [1, 0]], np.float16)
    products = Products("cpu")
    block, there = products.load(vectors)
    assert there.tolist() == [1, 4, 5]
    hashes = products.row_hashes(block.values)
    assert hashes[0] == hashes[2] != hashes[1]


def near_hashes(distance: int) -> np.ndarray:
    """Hashes around 40 of chance, up to 19 bits from them, some hundreds of which share a band."""
    rng = np.random.default_rng(distance)
    base = rng.integers(0, 2**64, 40, np.uint64)
    flips = np.array([sum(1 << int(bit) for bit in rng.choice(64, n, replace=False)) for n in range(20)], np.uint64)
    crowd = rng.integers(0, 2**48, 300, np.uint64) << np.uint64(16)
    return np.unique(np.concatenate([(base[:, None] ^ flips).ravel(), crowd]))


def pairs_of(batches) -> set[tuple[int, int, int]]:
    return {
        (min(i, j), max(i, j), d) for batch in batches for i, j, d in zip(*(p.tolist() for p in batch), strict=True)
    }


@pytest.mark.parametrize("distance", [0, 4, 8, 16])
def test_only_pairs_with_a_new_hash_are_wanted(distance):
    hashes = near_hashes(distance)
    fresh = np.arange(len(hashes)) % 7 == 0
    whole = pairs_of(_near_pairs(hashes, distance))
    assert pairs_of(_near_pairs(hashes, distance, fresh)) == {
        pair for pair in whole if fresh[pair[0]] or fresh[pair[1]]
    }
    assert distance == 0 or len(whole) > 100


@on_gpu
@pytest.mark.parametrize("distance", [0, 4, 8, 16])
def test_a_gpu_finds_the_near_hashes_that_a_cpu_finds(distance):
    hashes = near_hashes(distance)
    fresh = np.arange(len(hashes)) % 7 == 0
    on_gpu, fresh_on_gpu = (torch.from_numpy(part).cuda() for part in (hashes.view(np.int64), fresh))
    assert pairs_of(_near_pairs_on_gpu(on_gpu, distance)) == pairs_of(_near_pairs(hashes, distance))
    assert pairs_of(_near_pairs_on_gpu(on_gpu, distance, fresh_on_gpu)) == pairs_of(
        _near_pairs(hashes, distance, fresh)
    )


@on_gpu
@pytest.mark.parametrize("distance", [0, 4, 8])
def test_a_gpu_ties_the_hashes_that_a_cpu_ties(distance):
    rng = np.random.default_rng(distance)
    hashes = rng.permutation(np.repeat(near_hashes(distance), 3))
    usable, new = rng.random(len(hashes)) < 0.9, rng.random(len(hashes)) < 0.1
    for asked in (None, new):
        cpu, gpu = (perceptual_edges(hashes, distance, usable, asked, device) for device in ("cpu", "cuda"))
        assert len(cpu) > 100
        assert [getattr(gpu, name).tolist() for name in ("a", "b", "similarity")] == [
            getattr(cpu, name).tolist() for name in ("a", "b", "similarity")
        ]


def test_an_old_row_of_a_new_hash_is_joined_to_what_the_new_one_is_near_to():
    hashes = np.array([5, 4, 5], np.uint64)
    new = np.array([False, False, True])
    edges = perceptual_edges(hashes, 1, None, new)
    assert sorted(zip(edges.a.tolist(), edges.b.tolist(), strict=True)) == [(0, 1), (0, 2)]
