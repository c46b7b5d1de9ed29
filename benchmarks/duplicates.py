"""Duplicates from Parquet to groups: a search over nearly all shards, an increment, and a search over all at once.

    python benchmarks/make_vectors.py ROOT --vectors 1000000
    python benchmarks/duplicates.py ROOT [--share 0.01] [--workers 1] [--device auto] [--brute-force-rows N]

The shards of ROOT that come last, a `--share` of them, are the increment. The third search starts from nothing but the
generation of cells, if there is one, and has to find the same; without it the first is "the full run". "of the product"
is the share of the rate at which the same device multiplies large matrices in the same run, by the operations that
comparing all with all needs. Bytes read are those of all files, cached or not, and of vectors that are looked at by a
memory map; with workers they are not seen. What is compiled or started once is not counted.
"""

import argparse
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from make_vectors import project_of

from image_curation import storage, vector_files
from image_curation.artifacts import read_artifact
from image_curation.cluster import Cluster, Done, Stage, open_cluster
from image_curation.config import resolve_device
from image_curation.duplicates.products import Products
from image_curation.project import Project
from image_curation.steps.duplicate_groups import build_duplicate_groups
from image_curation.vector_files import VectorFile


@dataclass(frozen=True)
class Run:
    """What one search took."""

    name: str
    compared: int
    seconds: float
    strips_s: float
    cpu_s: float
    read_bytes: int
    facts: dict[str, Any]
    content: tuple[str, str]


class TimedCluster:
    """A cluster that knows how long its stages ran."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.seconds = 0.0

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Done]:
        """See `Cluster.run`."""
        start = time.perf_counter()
        yield from self._cluster.run(stages, items)
        self.seconds += time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root")
    parser.add_argument("--share", type=float, default=0.01, help="of the shards, that are the increment")
    parser.add_argument("--workers", type=int, help="of Dask; none: in this process")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--brute-force-rows", type=int)
    parser.add_argument("--no-repeat", action="store_true", help="leave the third search out")
    options = parser.parse_args()
    device = resolve_device(options.device)
    project = project_of(
        options.root,
        device=options.device,
        workers=options.workers,
        cluster="inline" if options.workers is None else "cuda" if device == "cuda" else "local",
        duplicates={"brute_force_rows": options.brute_force_rows},
    )
    files = storage.list_files(project.embeddings_url("x").rpartition("/")[0])
    shards = [file.name.removesuffix(".parquet") for file in files]
    late = max(1, round(options.share * len(shards)))
    peak = _peak(device)
    with open_cluster(project.settings) as cluster:
        _start(project, shards, cluster)
        runs = [_run("most of it", project, shards[:-late], cluster)]
        runs.append(_run(f"and {late / len(shards):.1%} more", project, shards, cluster, runs[0].compared))
        if not options.no_repeat:
            _forget(project, cells=False)
            runs.append(_run("all at once", project, shards, cluster))
    _print(runs, device, peak, options)


def _start(project: Project, shards: list[str], cluster: Cluster) -> None:
    """Search a few shards, all with all, and by cells with one more: so that all that is compiled is there."""
    for limit in (None, 0):
        chosen = project.settings.duplicates.model_copy(update={"brute_force_rows": limit})
        some = replace(project, settings=project.settings.model_copy(update={"duplicates": chosen}))
        _forget(project, cells=True)
        for end in (1, 2):
            build_duplicate_groups(some, shards[:end], cluster)
    _forget(project, cells=True)


def _forget(project: Project, cells: bool) -> None:
    for url in (project.members_url, project.edges_url, *([project.cells_url] if cells else [])):
        storage.remove(url)


def _run(name: str, project: Project, shards: list[str], cluster: Cluster, known: int = 0) -> Run:
    timed, start, cpu_s, read = TimedCluster(cluster), time.perf_counter(), time.process_time(), _bytes_read()
    outcome = build_duplicate_groups(project, shards, timed)
    facts = outcome.artifact.facts
    return Run(
        name,
        facts["samples"] - known,
        time.perf_counter() - start,
        timed.seconds,
        time.process_time() - cpu_s,
        _bytes_read() - read,
        facts,
        (outcome.artifact.content, read_artifact(project.edges_url).content),
    )


def _bytes_read() -> int:
    with open("/proc/self/io") as file:
        return int(next(line.split()[1] for line in file if line.startswith("rchar"))) + _Mapped.bytes


class _Mapped(VectorFile):
    """Counts what is looked at by a memory map."""

    bytes = 0

    def _looked_at(self, mapped: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        rows = super()._looked_at(mapped, places)
        with self._counting:
            _Mapped.bytes += rows.nbytes
        return rows


vector_files.VectorFile = _Mapped  # type: ignore[misc]


def _peak(device: str) -> float:
    """Operations a second of a large product in the type that proposes pairs."""
    block = Products(device)
    n = 8_192 if device == "cuda" else 2_048
    a = torch.randn(n, n, device=device).to(block.proposes)
    for _ in range(3):
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()
    start, rounds = time.perf_counter(), 50 if device == "cuda" else 10
    for _ in range(rounds):
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()
    return rounds * 2 * n**3 / (time.perf_counter() - start)


def _print(runs: list[Run], device: str, peak: float, options: argparse.Namespace) -> None:
    where = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"\n{date.today()}, {where}, Python {platform.python_version()}, torch {torch.__version__}")
    facts, workers = runs[-1].facts, options.workers or 1
    print(f"{facts['samples']:,} vectors, {facts['searched_by']}, {workers} workers, pairs {facts['pairs']}")
    print(f"recall {facts['recall']}")
    print(f"a large product runs at {peak / 1e12:.2f} TFLOP/s on one of them\n")
    heads = f"{'compared':>12}{'seconds':>10}{'of these':>10}{'CPU s':>9}{'GB read':>9}{'of the':>9}"
    print(f"{'':<16}{heads}{'of the full run':>18}")
    print(f"{'':<16}{'anew':>12}{'':>10}{'strips':>10}{'':>9}{'':>9}{'product':>9}{'seconds':>10}{'bytes':>8}")
    dim, full = 768, runs[-1] if len(runs) == 3 else runs[0]
    for run in runs:
        old = run.facts["samples"] - run.compared
        work = run.compared * (run.compared + 2 * old) * dim
        share = work / max(run.strips_s, 1e-9) / peak / workers
        print(
            f"{run.name:<16}{run.compared:>12,}{run.seconds:>10.1f}{run.strips_s:>10.1f}{run.cpu_s:>9.1f}"
            f"{run.read_bytes / 1e9:>9.2f}{share:>9.2f}{run.seconds / full.seconds:>10.3f}"
            f"{run.read_bytes / full.read_bytes:>8.3f}"
        )
    if len(runs) == 3:
        print(f"\nthe increment's result is that of the search over all: {runs[1].content == runs[2].content}")


if __name__ == "__main__":
    main()
