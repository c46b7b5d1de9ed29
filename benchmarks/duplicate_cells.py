"""Close pairs among vectors on a CPU: comparing all, by cells, and by a faiss index of equal recall, in CPU time.

    python benchmarks/duplicate_cells.py [--vectors 200000] [--dim 768] [--threshold 0.95] [--recall 0.999 0.98]
                                         [--threads 1]

The vectors are those of `make_vectors.py`. "fp32 product" is what comparing all costs anybody: tiles of x @ x.T in fp32
and a look for what is large, measured on some of the rows before, between and after the searches by cells, and
multiplied. "all with all" is this project's own.
By cells the price holds everything: training, fitting the margin, finding cells, comparing. faiss, where it is
installed (`pip install faiss-cpu`), searches an IVF index of as many cells with range_search, each row asking, with as
many probes as the recall needs; the search is measured on a fiftieth of the rows and multiplied. Recall is of pairs, at
the threshold and at two others, against comparing all. All have one thread, as a worker of the cluster has on two
cores: threads that wait for each other spin, and on a busy machine that would be most of the CPU time.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from make_vectors import vectors_of_shard

from image_curation.duplicates.cells import SAMPLE_PER_CELL, cell_count, train_cells
from image_curation.duplicates.margin import fitted_margin
from image_curation.duplicates.semantic import semantic_pairs

_OTHERS = (0.90, 0.99)
_PRODUCT_SHARE, _FAISS_SHARE = 40, 50
_TILE = 2_048
_PROBES = (1, 2, 4, 8, 16, 32, 64)

Vectors = npt.NDArray[np.float16]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Line:
    """One way to search: its CPU time, and the recall at each threshold."""

    name: str
    cpu_s: float
    recalls: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--recall", type=float, nargs="+", default=[0.999, 0.98])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    vectors, _ = vectors_of_shard(np.random.default_rng([1, 0]), options.vectors, options.dim)
    plain: list[float] = []
    found = list(lines(vectors, options, plain))
    print_table([Line("fp32 product", sum(plain) / len(plain), [1.0] * 3), *found], options)


def lines(vectors: Vectors, options: argparse.Namespace, plain: list[float]) -> Iterator[Line]:
    """All lines but the first, for which prices are put into `plain`: a machine is not as fast at all times."""
    x = torch.from_numpy(vectors).float()

    def measure_plain() -> None:
        plain.append(_PRODUCT_SHARE * _timed(lambda: _product(x, options.threshold))[0])

    thresholds = [_OTHERS[0], options.threshold, _OTHERS[1]]
    truth = [_codes(semantic_pairs(vectors, t), len(vectors)) for t in thresholds]
    cpu_s, _ = _timed(lambda: _codes(semantic_pairs(vectors, options.threshold), len(vectors)))
    yield Line("all with all", cpu_s, [1.0] * 3)
    measure_plain()
    n_cells = cell_count(len(vectors))
    sample = vectors[:: max(1, len(vectors) // (n_cells * SAMPLE_PER_CELL))]
    trained_s, trained = _timed(lambda: train_cells(sample, n_cells, max_ghosts=64))
    for recall in options.recall:
        measure_plain()
        fitted_s, margin = _timed(lambda wanted=recall: fitted_margin(vectors, trained, options.threshold, wanted))
        cells = replace(trained, margin=margin)
        found_s, _ = _timed(lambda by=cells: _codes(semantic_pairs(vectors, options.threshold, by), len(vectors)))
        measure_plain()
        found = [_codes(semantic_pairs(vectors, t, cells), len(vectors)) for t in thresholds]
        recalls = [float(np.isin(true, got).mean()) for true, got in zip(truth, found, strict=True)]
        name = f"{n_cells} cells for {recall:g}, margin {margin:.2f}"
        yield Line(name, trained_s + fitted_s + found_s, recalls)
        yield from _by_faiss(vectors, trained.centroids, thresholds[1], truth[1], recalls[1])


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of all threads, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _product(x: torch.Tensor, threshold: float) -> int:
    """Pairs that a plain product of fp32 rows finds of a share of the rows, comparing each pair once on average."""
    hits = 0
    for part in x[: len(x) // _PRODUCT_SHARE].split(_TILE):
        for other in x[: len(x) // 2].split(_TILE):
            hits += len(torch.nonzero(part @ other.T >= threshold))
    return hits


def _codes(batches: Iterator[Any], n: int) -> Codes:
    """All pairs, each as one number."""
    return np.unique(np.concatenate([batch.a * n + batch.b for batch in batches]))


def _by_faiss(
    vectors: Vectors, centroids: npt.NDArray[np.float32], threshold: float, truth: Codes, recall: float
) -> Iterator[Line]:
    """IVF with the same centroids, with the fewest probes that reach the recall."""
    try:
        import faiss
    except ImportError:
        return
    n, x = len(vectors), np.ascontiguousarray(vectors, np.float32)
    quantizer = faiss.IndexFlatIP(x.shape[1])
    index = faiss.IndexIVFFlat(quantizer, x.shape[1], len(centroids), faiss.METRIC_INNER_PRODUCT)
    quantizer.add(centroids)
    index.is_trained = True
    added_s, _ = _timed(lambda: index.add(x))
    ends = np.unique(np.concatenate([truth // n, truth % n]))  # only rows with duplicates can show a recall
    asked = np.random.default_rng(0).choice(ends, min(2_000, len(ends)), replace=False)
    sample = np.random.default_rng(0).choice(n, n // _FAISS_SHARE, replace=False)
    for probes in _PROBES:
        index.nprobe = probes
        found = _ranged(index, x, asked, threshold)
        expected = truth[np.isin(truth // n, asked) | np.isin(truth % n, asked)]
        reached = float(np.isin(expected, found).mean())
        if reached >= recall - 5e-4 or probes == _PROBES[-1]:
            searched_s, _ = _timed(lambda: _ranged(index, x, sample, threshold))
            yield Line(f"  faiss IVF, {probes} probes", added_s + _FAISS_SHARE * searched_s, [np.nan, reached, np.nan])
            return


def _ranged(index: Any, x: npt.NDArray[np.float32], asked: Codes, threshold: float) -> Codes:
    limits, _, found = index.range_search(x[asked], threshold)
    a, b = np.repeat(asked, np.diff(limits).astype(np.int64)), found.astype(np.int64)
    return np.unique(np.minimum(a, b) * len(x) + np.maximum(a, b))


def print_table(found: list[Line], options: argparse.Namespace) -> None:
    plain = found[0].cpu_s
    print(f"\n{date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}")
    asked = f"{options.vectors:,} vectors of {options.dim}, pairs from cosine {options.threshold:g}"
    print(f"{asked}, threads: {options.threads}\n")
    print(f"{'':<34}{'CPU s':>9}{'cheaper':>9}   recall at {_OTHERS[0]:<7g}{options.threshold:<7g}{_OTHERS[1]:<7g}")
    for line in found:
        recalls = "".join(f"{'-' if np.isnan(recall) else f'{recall:.4f}':<8}" for recall in line.recalls)
        print(f"{line.name:<34}{line.cpu_s:>9.1f}{plain / line.cpu_s:>8.1f}x   {'':<8}{recalls}")


if __name__ == "__main__":
    main()
