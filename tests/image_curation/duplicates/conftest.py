"""Synthetic vectors that are as hard to group as embeddings: concepts of uneven size, a common mean, few directions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest


@dataclass(frozen=True)
class Planted:
    """fp16 [n, d] unit vectors; row `originals + i` is a planted near-duplicate of row `source[i]`."""

    vectors: npt.NDArray[np.float16]
    originals: int
    source: npt.NDArray[np.int64]


def plant(n: int, d: int, duplicates: int, seed: int) -> Planted:
    """A tenth as many concepts as rows, of Zipf sizes; random pairs near cosine 0.45, duplicates at 0.93 to 0.999.

    Variance falls as k^-0.8. Duplicates differ from their source along the same uneven spectrum as images do from each
    other: the hard case for cells, since both then cross the same borders.
    """
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, d + 1) ** -0.4  # amplitude: the square root of k^-0.8

    def directions(m: int) -> npt.NDArray[np.float64]:
        x = rng.standard_normal((m, d)) * spectrum
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    concepts = directions(n // 10)
    weight = np.arange(1, len(concepts) + 1) ** -0.7
    concept = rng.choice(len(concepts), n, p=weight / weight.sum())
    share = rng.uniform(0.65, 0.92, (n, 1))
    own = np.sqrt(1 - share**2) * concepts[concept] + share * directions(n)
    mean = directions(1)
    x = np.sqrt(0.45) * mean + np.sqrt(0.55) * own / np.linalg.norm(own, axis=1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    source = rng.choice(n, duplicates)
    source[: duplicates // 10] = source[0]  # one large group
    noise = directions(duplicates)
    noise -= (noise * x[source]).sum(axis=1, keepdims=True) * x[source]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosine = rng.uniform(0.93, 0.999, (duplicates, 1))
    near = cosine * x[source] + np.sqrt(1 - cosine**2) * noise
    return Planted(np.concatenate([x, near]).astype(np.float16), n, source)


@pytest.fixture(scope="session")
def planted() -> Planted:
    """6,000 vectors of 96 dimensions and 600 planted duplicates."""
    return plant(6_000, 96, 600, seed=7)
