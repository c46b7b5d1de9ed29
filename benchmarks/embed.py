"""The embedding engine on prepared shards, beside its own encoder and decoder alone, all in one process and one run.

    python benchmarks/embed.py SHARDS [--encoder clip-vit-l-14] [--random-weights] [--device cuda] [--threads 3]
        [--images 20000] [--rounds 3] [--corrupt SHARDS_WITH_DAMAGE] [--latency-ms 50]

SHARDS and SHARDS_WITH_DAMAGE are folders of tars by `make_shards.py`, the second with --corrupt and otherwise alike.
Every shard goes from its tar to the Parquet file of its embeddings; its index is made before. Three things alternate:
the encoder alone (whole batches of pixels that are on the device already), the decoder alone (image bytes that are in
memory already), and everything together. The table has medians over the rounds:

    whole run   images over the time from the first byte read to the last file written
    sustained   the same from a tenth to nine tenths of the images, without filling and draining the stages

With --latency-ms, the tars are also read from a store that takes so long to answer each request, and then sends 100 MB
a second.
"""

import argparse
import asyncio
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fsspec
import torch
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from image_curation import storage
from image_curation.artifacts import read_table
from image_curation.config import load_settings, resolve_device
from image_curation.decode.decoder import ImageDecoder
from image_curation.encoders import load_encoder, profile
from image_curation.engine import EngineStats
from image_curation.project import Project
from image_curation.shards.discover import Shard, discover, largest_first
from image_curation.steps.embeddings import build_embeddings, engine_stats
from image_curation.steps.shard_index import build_shard_index

_OWN_RATE_S = 5.0
_STORE_BYTES_A_SECOND = 100e6
# Width, layers, tokens, side of a patch, length of a vector.
_VISION_TRANSFORMERS = {"clip-vit-l-14": (1024, 24, 257, 14, 768), "clip-vit-b-32": (768, 12, 50, 32, 512)}


@dataclass(frozen=True)
class Run:
    """What one pass over all shards showed."""

    images: int
    rate: float
    sustained: float
    wall_s: float
    stats: EngineStats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--corrupt", metavar="SHARDS_WITH_DAMAGE")
    parser.add_argument("--encoder", default="clip-vit-l-14")
    parser.add_argument("--weights")
    parser.add_argument("--random-weights", action="store_const", const="random:0", dest="weights")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=3, help="shards at a time, as threads of a Dask worker")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        print_table(options, measure(options, root))


def measure(options: argparse.Namespace, root: str) -> list[tuple[str, str]]:
    """The lines of the table: what, and how much."""
    sources = {"local": options.shards}
    if options.corrupt:
        sources["damaged"] = options.corrupt
    if options.latency_ms:
        SlowStore.latency_s = options.latency_ms / 1000
        fsspec.register_implementation("slow", SlowStore)
        sources["store"] = f"slow://{Path(options.shards).resolve()}"
    projects = {name: _project(options, source, f"{root}/{name}") for name, source in sources.items()}
    shards = {name: _shards(project, options.images) for name, project in projects.items()}
    index_rates = {name: _index(projects[name], shards[name]) for name in projects}

    device = resolve_device(options.device)
    chosen = profile(options.encoder)
    encoder = load_encoder(chosen, device, options.weights, projects["local"].settings.cpu_dtype)
    decoder = ImageDecoder(encoder.profile.size, device, projects["local"].settings.threads_per_worker(), encoder.batch)
    images = _some_images(projects["local"], shards["local"], 4 * encoder.batch)
    pixels = decoder.decode((images * encoder.batch)[: encoder.batch]).pixels

    encoder_rates, decoder_rates = [], []
    runs: dict[str, list[Run]] = {name: [] for name in projects}
    _pass(projects["local"], shards["local"][: options.threads], options.threads)  # loads the model: not counted
    for _ in range(options.rounds):
        encoder_rates.append(_own_rate(partial(encoder.encode, pixels), len(pixels), 2 if device == "cuda" else 1))
        decoder_rates.append(_own_rate(partial(decoder.decode, images), len(images), 1))
        for name, project in projects.items():
            runs[name].append(_pass(project, shards[name], options.threads))
    encoder_rate = statistics.median(encoder_rates)
    lines = [
        ("images, shards", f"{runs['local'][0].images:,}, {len(shards['local'])}"),
        ("index alone, one thread", f"{index_rates['local']:,.0f} images/s"),
        ("decoder alone", f"{statistics.median(decoder_rates):,.0f} images/s"),
        ("encoder alone", f"{encoder_rate:,.1f} images/s"),
    ]
    names = {"local": "tar to Parquet", "damaged": "  with damaged images", "store": "  from a slow store"}
    for name, own in runs.items():
        whole, sustained = (statistics.median(getattr(run, kind) for run in own) for kind in ("rate", "sustained"))
        lines.append((f"{names[name]}, whole run", f"{whole:,.1f} images/s, {whole / encoder_rate:.3f} of the encoder"))
        lines.append(("  sustained", f"{sustained:,.1f} images/s, {sustained / encoder_rate:.3f} of the encoder"))
    lines += _busy(runs["local"][-1])
    if device == "cuda":
        lines += _on_the_device(options.encoder, encoder_rate)
    if options.corrupt:
        lines.append(("good images lost beside damaged ones", str(_lost(projects, shards))))
    return lines


def _project(options: argparse.Namespace, source: str, root: str) -> Project:
    return Project.load(
        load_settings(
            source=source,
            root=root,
            encoder=options.encoder,
            weights=options.weights,
            device=options.device,
            cluster="inline",
            workers=1,
        )
    )


def _shards(project: Project, images: int) -> list[Shard]:
    """As many of the shards as hold so many images."""
    chosen, held = [], 0
    for shard in largest_first(discover(project.settings.source)[0]):
        if held < images:
            chosen.append(shard)
            held += build_shard_index(project, shard).artifact.rows
    return chosen


def _index(project: Project, shards: list[Shard]) -> float:
    """Index all shards anew: images a second."""
    for shard in shards:
        storage.remove(project.index_url(shard.key))
    start = time.perf_counter()
    rows = sum(build_shard_index(project, shard).artifact.rows for shard in shards)
    return rows / (time.perf_counter() - start)


def _some_images(project: Project, shards: list[Shard], n: int) -> list[bytes]:
    images: list[bytes] = []
    for shard in shards:
        table = read_table(project.index_url(shard.key), ["image_offset", "image_size"]).slice(0, n - len(images))
        images += storage.read_ranges(shard.url, list(zip(*(c.to_pylist() for c in table.columns), strict=True)))
    return images


def _own_rate(work: Callable[[], Any], images: int, threads: int) -> float:
    """Images a second of a call that does so many, with so many calls under way, after one that is not counted."""
    work()
    until = time.perf_counter() + _OWN_RATE_S
    start = time.perf_counter()

    def repeat() -> int:
        done = 0
        while time.perf_counter() < until:
            work()
            done += images
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(call.result() for call in [pool.submit(repeat) for _ in range(threads)])
    return done / (time.perf_counter() - start)


def _pass(project: Project, shards: list[Shard], threads: int) -> Run:
    """Make the embeddings of all shards anew."""
    for shard in shards:
        storage.remove(project.embeddings_url(shard.key))
    before, start = engine_stats(), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        calls = [pool.submit(build_embeddings, project, shard.key) for shard in shards]
        watched = list(_watch(calls))
        images = sum(call.result().artifact.rows for call in calls)
    wall_s = time.perf_counter() - start
    after = engine_stats()
    stats = EngineStats(*(new - old for new, old in zip(vars(after).values(), vars(before).values(), strict=True)))
    return Run(images, images / wall_s, _sustained(watched), wall_s, stats)


def _watch(calls: list[Future[Any]]) -> Iterator[tuple[float, int]]:
    """The times at which more images were encoded, and how many, until all calls are done."""
    seen = -1
    while wait(calls, timeout=0.01).not_done:
        images = engine_stats().images
        if images > seen:
            yield time.perf_counter(), images
        seen = images


def _sustained(watched: list[tuple[float, int]]) -> float:
    """Images a second between a tenth and nine tenths of the images."""
    first, last = watched[0][1], watched[-1][1]
    middle = [(t, n) for t, n in watched if 0.1 <= (n - first) / max(1, last - first) <= 0.9]
    if len(middle) < 2:
        return float("nan")
    return (middle[-1][1] - middle[0][1]) / (middle[-1][0] - middle[0][0])


def _busy(run: Run) -> list[tuple[str, str]]:
    """Where the time went, in threads: 1.00 is one thread that was at it all the time."""
    stages = {name: seconds for name, seconds in vars(run.stats).items() if name.endswith("_s")}
    return [
        (f"threads at: {name.removesuffix('_s').replace('_', ' ')}", f"{seconds / run.wall_s:.2f}")
        for name, seconds in stages.items()
    ]


def _on_the_device(encoder: str, rate: float) -> list[tuple[str, str]]:
    """What the device's matrix products can do, and how much of that the encoder uses."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(10):
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(100):
        a @ a
    torch.cuda.synchronize()
    ceiling = 100 * 2 * 8192**3 / (time.perf_counter() - start)
    lines = [("bf16 product of 8192 x 8192", f"{ceiling / 1e12:,.0f} TFLOP/s")]
    name = encoder.removesuffix("-fp8")
    if name in _VISION_TRANSFORMERS:
        work = _operations(*_VISION_TRANSFORMERS[name])
        share = rate * work / ceiling
        lines.append(("encoder alone", f"{work / 1e9:.0f} GFLOP an image, {share:.2f} of that product's rate"))
    return lines


def _operations(width: int, layers: int, tokens: int, patch: int, dim: int) -> float:
    """Floating-point operations of one image in a vision transformer: a product of a and b counts two."""
    layer = tokens * 12 * width**2 + 2 * tokens**2 * width  # projections and MLP; attention
    return 2.0 * (layers * layer + (tokens - 1) * 3 * patch**2 * width + width * dim)


def _lost(projects: dict[str, Project], shards: dict[str, list[Shard]]) -> int:
    """Images that are the same bytes in both sources, but have a vector only where no other is damaged."""
    lost = 0
    for shard in shards["damaged"]:
        vectors, hashes = {}, {}
        for name in ("local", "damaged"):
            hashes[name] = read_table(projects[name].index_url(shard.key), ["key", "sha256"]).to_pylist()
            table = read_table(projects[name].embeddings_url(shard.key), ["key", "vector"])
            vectors[name] = dict(zip(table["key"].to_pylist(), table["vector"].is_valid().to_pylist(), strict=True))
        same = {row["key"] for row in hashes["local"] if row in hashes["damaged"]}
        lost += sum(vectors["local"][key] and not vectors["damaged"][key] for key in same)
    return lost


class SlowStore(AsyncFileSystem):
    """Local files, as from a store: each request waits, and its bytes come at a limited rate."""

    protocol = "slow"
    cachable = False
    latency_s = 0.0

    async def _answer(self, work: Callable[..., Any], *arguments: Any) -> Any:
        await asyncio.sleep(self.latency_s)
        return await asyncio.to_thread(work, *arguments)

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        return dict(await self._answer(LocalFileSystem().info, path))

    async def _ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        return list(await self._answer(partial(LocalFileSystem().ls, detail=detail), path))

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        content: bytes = await self._answer(LocalFileSystem().cat_file, path, start, end)
        await asyncio.sleep(len(content) / _STORE_BYTES_A_SECOND)
        return content

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return open(path, mode)  # only the index is read this way, before anything is measured


def print_table(options: argparse.Namespace, lines: list[tuple[str, str]]) -> None:
    device = resolve_device(options.device)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    packages = ", ".join(f"{name} {version(name)}" for name in ("image-curation", "torch", "numpy"))
    print(f"\n{date.today()}, {where}, Python {platform.python_version()}, {packages}")
    print(f"{options.encoder}, {options.threads} shards at a time, medians of {options.rounds} rounds\n")
    for what, value in lines:
        print(f"{what:<44}{value}")


if __name__ == "__main__":
    main()
