"""What matches what: a few vectors and hashes by hand, brute force on many, and the same whatever the blocks."""

import numpy as np
import pyarrow as pa
import pytest

from image_curation.duplicates.edges import Kind
from image_curation.known import matches
from image_curation.known.matches import closest_matches, nearest_vectors
from image_curation.known.sets import Images
from image_curation.known.verdicts import verdicts


def images(vectors, names=None, sha256=None, phash=None, usable=None) -> Images:
    vectors = np.array(vectors, np.float16)
    n = len(vectors)
    return Images(
        names or [f"k{i}" for i in range(n)],
        pa.array(sha256 or [None] * n, pa.string()),
        np.zeros(n, np.uint64) if phash is None else np.array(phash, np.uint64),
        np.zeros(n, np.bool_) if phash is None else np.ones(n, np.bool_) if usable is None else np.array(usable),
        vectors,
    )


def test_nearest_vector_by_hand_and_of_equals_the_first():
    ours = np.array([[1, 0], [0, 1], [0, 0], [-1, 0]], np.float16)
    others = np.array([[0.6, 0.8], [0.8, 0.6], [0, 0], [0.8, 0.6]], np.float16)
    row, cosine = nearest_vectors(ours, others, 0.5)
    assert row.tolist() == [1, 0, -1, -1]
    np.testing.assert_allclose(cosine[:2], [0.8, 0.8], atol=1e-3)
    assert nearest_vectors(ours, others, 0.81)[0].tolist() == [-1] * 4
    assert nearest_vectors(ours, others[:0], 0.5)[0].tolist() == [-1] * 4
    assert nearest_vectors(ours[:0], others, 0.5)[0].tolist() == []


@pytest.mark.parametrize("tile", [7, 2_048])
def test_nearest_vectors_are_those_of_brute_force_whatever_the_tile(monkeypatch, tile):
    monkeypatch.setattr(matches, "TILE_ROWS", tile)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((90, 24))
    y = np.concatenate([x[::3] + 0.3 * rng.standard_normal((30, 24)), rng.standard_normal((40, 24))])
    y = np.concatenate([y, y[:10]])
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    x, y = x.astype(np.float16), y.astype(np.float16)
    wide = x.astype(np.float64) @ y.astype(np.float64).T
    wide /= np.linalg.norm(x.astype(np.float64), axis=1)[:, None] * np.linalg.norm(y.astype(np.float64), axis=1)
    row, cosine = nearest_vectors(x, y, 0.8)
    expected = np.where(wide.max(axis=1) >= 0.8, wide[:, :70].argmax(axis=1), -1)
    assert 20 < (expected >= 0).sum() < 60
    assert row.tolist() == expected.tolist()
    np.testing.assert_allclose(cosine[row >= 0], wide.max(axis=1)[row >= 0], rtol=1e-12)


def test_each_kind_finds_its_best_across_blocks():
    ours = images([[1, 0], [0, 1]], sha256=["aa", "bb"], phash=[0, 0xFF])
    first = images([[0.8, 0.6]], ["first"], sha256=["bb"], phash=[0b111])
    second = images([[1, 0]], ["second"], sha256=["bb"], phash=[0b1])
    found = closest_matches(ours, [first, second], 0.7, 4)
    assert found[Kind.EXACT].names.tolist() == [None, "first"]
    assert found[Kind.PERCEPTUAL].names.tolist() == ["second", None]
    assert found[Kind.PERCEPTUAL].similarity[0] == 1 - 1 / 64
    assert found[Kind.SEMANTIC].names.tolist() == ["second", None]
    assert found[Kind.SEMANTIC].similarity[0] == 1.0


def test_null_hash_and_unusable_hash_match_nothing():
    ours = images([[1, 0], [1, 0]], sha256=[None, "aa"], phash=[0, 0], usable=[True, False])
    theirs = images([[0, 1], [0, 1], [0, 1]], sha256=[None, None, "aa"], phash=[0, 5, 0], usable=[False, True, False])
    found = closest_matches(ours, [theirs], 0.5, 2)
    assert found[Kind.EXACT].names.tolist() == [None, "k2"]
    assert found[Kind.PERCEPTUAL].names.tolist() == ["k1", None]
    assert found[Kind.PERCEPTUAL].similarity[0] == 1 - 2 / 64
    assert found[Kind.SEMANTIC].names.tolist() == [None, None]


MATCHES = [
    [{"set": "a", "how": "semantic", "key": "x", "similarity": 0.92}],
    [
        {"set": "a", "how": "perceptual", "key": "y", "similarity": 1 - 5 / 64},
        {"set": "b", "how": "exact", "key": "z", "similarity": 1.0},
    ],
    [],
]


def told(*sets: str, min_similarity: float | None = 0.9, max_phash_distance: int | None = 4) -> list[str | None]:
    return verdicts(MATCHES, sets, "evaluation set", min_similarity, max_phash_distance)


def test_verdict_names_set_image_and_similarity_and_thresholds_are_late():
    assert told("a") == ["nearly the same content as x (cosine 0.9200) in the evaluation set a", None, None]
    assert told("a", min_similarity=0.93) == [None, None, None]
    assert told("a", min_similarity=None, max_phash_distance=5) == [
        None,
        "looks the same as y (5 of 64 bits differ) in the evaluation set a",
        None,
    ]
    assert told("b", min_similarity=None, max_phash_distance=None) == [
        None,
        "the same bytes as z in the evaluation set b",
        None,
    ]
    assert told() == [None, None, None]
