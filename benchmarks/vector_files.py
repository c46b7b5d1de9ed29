"""Time the vectors of a shard read by their place, all or some, beside Parquet's own reader and the bytes of the file.

    python benchmarks/vector_files.py [--rows 10000] [--dim 768] [--rounds 15]

Each way takes its turn in every round; the file is in memory after the first. Medians, and the least that was seen.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from make_vectors import project_of, shard_name, write_shards

from image_curation.artifacts import read_table
from image_curation.embedding import vectors_of
from image_curation.steps.duplicate_cells import read_vectors
from image_curation.vector_files import open_vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        write_shards(root, range(1), options.rows, options.dim)
        times = _timed(_ways(root, options.rows), options.rounds)
    peer = statistics.median(times["pyarrow, all"])
    print("| way | ms, median | ms, least | times as fast as pyarrow |\n|---|---|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} | {peer / statistics.median(found):.1f} |")


def _ways(root: str, rows: int) -> dict[str, Callable[[], object]]:
    project, shard = project_of(root), shard_name(0)
    url, rng = project.embeddings_url(shard), np.random.default_rng(0)
    some = {n: rng.choice(rows, n, replace=False) for n in (20, 300, 1_000)}
    expected = vectors_of(read_table(url))
    assert np.array_equal(read_vectors(project, shard), expected)
    assert all(np.array_equal(_rows(url, places), expected[places]) for places in some.values())
    return {
        "pyarrow, all": lambda: vectors_of(read_table(url, ["vector"])),
        "bytes of the file": Path(url).read_bytes,
        "`read_vectors`": partial(read_vectors, project, shard),
        **{f"{n} at random": partial(_rows, url, places) for n, places in some.items()},
    }


def _rows(url: str, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
    with open_vectors(url) as stored:
        return stored.rows(places)


def _timed(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """name -> milliseconds of each round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, act in ways.items():
            start = time.perf_counter()
            act()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
