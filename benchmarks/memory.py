"""How much memory the embedding engine takes, by the size of the shards: it must not grow with it.

    python benchmarks/memory.py SHARDS [SHARDS ...] [--encoder clip-vit-l-14] [--random-weights] [--device cuda]
        [--threads 3] [--images 20000]

Each SHARDS is a folder with tars of one size, by `make_shards.py --per-shard`. For each, a process of its own embeds so
many images, its shards over and over. The table has what the process holds once the model is loaded and warm, and the
most that it held after that. Of the difference, what is made of a shard (its index, its rows, the Parquet file while it
is written) grows with the shard, by some kB a sample; images and pixels do not.
"""

import argparse
import multiprocessing
import os
import platform
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import cycle
from pathlib import Path

from image_curation import storage
from image_curation.config import load_settings, resolve_device
from image_curation.project import Project
from image_curation.shards.discover import discover
from image_curation.steps.embeddings import build_embeddings
from image_curation.steps.shard_index import build_shard_index

GIB = 1 << 30
_LOOK_EVERY_S = 0.02


@dataclass(frozen=True)
class Held:
    """Bytes of the process in host memory, and of the whole GPU (0 without one)."""

    host: int
    gpu: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+", type=Path)
    parser.add_argument("--encoder", default="clip-vit-l-14")
    parser.add_argument("--weights")
    parser.add_argument("--random-weights", action="store_const", const="random:0", dest="weights")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=3, help="shards at a time, as threads of a Dask worker")
    parser.add_argument("--images", type=int, default=20_000)
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as root:
        for n, folder in enumerate(options.shards):
            project = Project.load(
                load_settings(
                    source=str(folder),
                    root=f"{root}/{n}",
                    encoder=options.encoder,
                    weights=options.weights,
                    device=options.device,
                    cluster="inline",
                    workers=1,
                )
            )
            rows = _in_a_process(index, project)
            lines.append((rows, *_in_a_process(embed, project, rows, options.threads, options.images)))
    print_table(options, lines)


def index(project: Project) -> dict[str, int]:
    """Index all shards; the samples of each, by its key."""
    shards, _ = discover(project.settings.source)
    return {shard.key: build_shard_index(project, shard).artifact.rows for shard in shards}


def embed(project: Project, rows: dict[str, int], threads: int, images: int) -> tuple[Held, Held, int]:
    """What is held after one shard, the most that is held while many are embedded, and how many images these have."""
    build_embeddings(project, min(rows, key=lambda shard: rows[shard]))
    loaded, todo, done = _held(project), cycle(rows), 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal done
        while True:
            with lock:
                if done >= images:
                    return
                shard = next(todo)
                done += rows[shard]
            own = Project(
                project.settings.model_copy(update={"root": f"{project.settings.root}/{threading.get_ident()}"})
            )
            storage.write_bytes(own.index_url(shard), storage.read_bytes(project.index_url(shard)))
            storage.remove(own.embeddings_url(shard))
            build_embeddings(own, shard)

    with _watching(project) as seen, ThreadPoolExecutor(threads) as pool:
        for call in [pool.submit(work) for _ in range(threads)]:
            call.result()
    return loaded, Held(max(held.host for held in seen), max(held.gpu for held in seen)), done


@contextmanager
def _watching(project: Project) -> Iterator[list[Held]]:
    """Look at what is held, over and over, while the body runs."""
    seen = [_held(project)]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_EVERY_S):
            seen.append(_held(project))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _held(project: Project) -> Held:
    host = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resolve_device(project.settings.device) == "cpu":
        return Held(host, 0)
    import torch

    free, total = torch.cuda.mem_get_info()
    return Held(host, total - free)


def _in_a_process(function, *arguments):  # noqa: ANN001, ANN002, ANN202 - as the function
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def print_table(options: argparse.Namespace, lines: list[tuple[dict[str, int], Held, Held, int]]) -> None:
    device = resolve_device(options.device)
    print(f"\n{date.today()}, {device}, Python {platform.python_version()}")
    print(f"{options.encoder}, {options.threads} shards at a time\n")
    print(f"{'samples a shard':>15}{'images':>10}{'loaded':>10}{'peak':>10}{'grown by':>10}", end="")
    print(f"{'GPU loaded':>12}{'GPU peak':>10}   in GiB" if device == "cuda" else "   in GiB")
    for rows, loaded, peak, images in lines:
        print(f"{max(rows.values()):>15,}{images:>10,}", end="")
        print(f"{loaded.host / GIB:>10.2f}{peak.host / GIB:>10.2f}{(peak.host - loaded.host) / GIB:>10.2f}", end="")
        print(f"{loaded.gpu / GIB:>12.2f}{peak.gpu / GIB:>10.2f}" if device == "cuda" else "")


if __name__ == "__main__":
    main()
