"""Make a root whose shards have vectors and hashes but no images, to measure the search for duplicates on.

    python benchmarks/make_vectors.py ROOT --vectors 1000000 [--per-shard 10000] [--first-shard 0] [--dim 768]

As hard as embeddings are: concepts of uneven size around a common mean, most of the variance in few directions. One row
in twenty is a near-copy, of cosine 0.93 to 0.999, of one of the images that also lie there themselves, in any shard; it
differs from it in the same directions as other images do. A shard depends on its number alone.
"""

import argparse
import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_curation.artifacts import Certificate, write_table
from image_curation.config import load_settings
from image_curation.embedding import vector_type
from image_curation.project import Project

ENCODER = "clip-vit-l-14"
_CONCEPTS = 50_000
_SOURCES = 50_000  # images of which there are copies
_COPIES = 0.05
_BLOCK = 1_000  # concepts and sources are made so many at a time

Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--first-shard", type=int, default=0)
    parser.add_argument("--dim", type=int, default=768)
    options = parser.parse_args()
    numbers = range(options.first_shard, options.first_shard + options.vectors // options.per_shard)
    write_shards(options.root, numbers, options.per_shard, options.dim)
    print(f"{options.vectors:,} vectors of {options.dim} in {len(numbers)} shards below {options.root}")


def project_of(root: str, **settings: Any) -> Project:
    """The project whose artifacts lie below `root`."""
    return Project.load(load_settings(source=f"{root}-raw", root=root, encoder=ENCODER, **settings))


def write_shards(root: str, numbers: range, rows: int, dim: int) -> None:
    """Write shards with these numbers, on all cores."""
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write, root, rows, dim), numbers, chunksize=max(1, len(numbers) // 64)))


def shard_name(number: int) -> str:
    return f"shard-{number:06d}"


def _write(root: str, rows: int, dim: int, number: int) -> None:
    rng = np.random.default_rng([1, number])
    vectors, source = vectors_of_shard(rng, rows, dim)
    project, shard = project_of(root), shard_name(number)
    phash = rng.integers(0, 2**64, rows, np.uint64)
    copied = source >= 0
    phash[copied] = np.random.default_rng(2).integers(0, 2**64, _SOURCES, np.uint64)[source[copied]]
    keys = [f"{number:06d}-{i:06d}" for i in range(rows)]
    table = pa.table(
        {
            "key": keys,
            "status": ["ok"] * rows,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=vector_type(dim)),
            "phash": phash ^ (np.uint64(1) << rng.integers(0, 64, rows, np.uint64)),
            "contrast": np.full(rows, 0.2, np.float32),
        }
    )
    made = Certificate(artifact="synthetic", code_version="1", settings={"dim": dim, "rows": rows, "number": number})
    write_table(project.embeddings_url(shard), table, made, {"statuses": {"ok": rows}})
    hashes = pa.table({"sha256": [hashlib.sha256(key.encode()).hexdigest() for key in keys]})
    write_table(project.index_url(shard), hashes, made)


def vectors_of_shard(
    rng: np.random.Generator, rows: int, dim: int
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """Unit vectors, and for each the image that it is, or is a copy of; -1 for one of its own."""
    concept = np.minimum(rng.zipf(1.3, rows) - 1, _CONCEPTS - 1)
    x = _images(_fixed("concepts", dim)[concept], rng, dim)
    source = np.full(rows, -1)
    n = int(rows * _COPIES)
    source[: 2 * n] = rng.integers(0, _SOURCES, 2 * n)
    x[: 2 * n] = _fixed("sources", dim)[source[: 2 * n]]
    noise = _directions(rng, n, dim)
    noise -= (noise * x[:n]).sum(1, keepdims=True) * x[:n]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosine = rng.uniform(0.93, 0.999, (n, 1)).astype(np.float32)
    x[:n] = cosine * x[:n] + np.sqrt(1 - cosine**2) * noise
    order = rng.permutation(rows)
    return x[order].astype(np.float16), source[order]


def _images(concepts: Floats, rng: np.random.Generator, dim: int) -> Floats:
    share = rng.uniform(0.65, 0.92, (len(concepts), 1)).astype(np.float32)
    own = np.sqrt(1 - share**2) * concepts + share * _directions(rng, len(concepts), dim)
    x = np.sqrt(0.45) * _mean(dim) + np.sqrt(0.55) * own / np.linalg.norm(own, axis=1, keepdims=True)
    images: Floats = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return images


@cache
def _fixed(what: str, dim: int) -> Floats:
    """The concepts, or the images of which there are copies: the same for every shard."""
    rng = np.random.default_rng([3, what == "sources"])
    if what == "concepts":
        return np.concatenate([_directions(rng, _BLOCK, dim) for _ in range(_CONCEPTS // _BLOCK)])
    concepts = _fixed("concepts", dim)
    chosen = [rng.integers(0, _CONCEPTS, _BLOCK) for _ in range(_SOURCES // _BLOCK)]
    return np.concatenate([_images(concepts[part], rng, dim) for part in chosen])


@cache
def _mean(dim: int) -> Floats:
    return _directions(np.random.default_rng(4), 1, dim)


def _directions(rng: np.random.Generator, n: int, dim: int) -> Floats:
    """Unit vectors whose variance falls as k^-0.8."""
    x = rng.standard_normal((n, dim), np.float32) * (np.arange(1, dim + 1) ** -0.4).astype(np.float32)
    unit: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
