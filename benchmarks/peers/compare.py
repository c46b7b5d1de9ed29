"""This project beside what people use, on the same shards, one after the other on the same machine.

    python benchmarks/peers/compare.py SHARDS CORRUPT_SHARDS OUT [--only NAME ...] [--nemo-path F] [--retrieval-path F]

Make both folders with benchmarks/make_shards.py, the second with --corrupt 0.01. Each peer runs in processes of its own
and within a time limit. Packages that do not go together with this project's (NeMo Curator needs transformers < 5,
clip-retrieval open_clip_torch < 3) can lie in folders of their own (`pip install --target`), named by --nemo-path and
--retrieval-path. All models have random weights. The table comes last.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from image_curation.embedding import vectors_of

OURS = "image-curation"
PLAIN = "plain-loop"
HEADINGS = ("", "images/s", "ours is", "good images lost", "beside 1 % corrupt images", "does not keep")


@dataclass(frozen=True)
class Peer:
    """A script with its options, how much it is given to do, and what of a sample is not in what it writes."""

    command: tuple[str, ...]
    images: int
    limit_s: int
    loses: str
    packages: str | None = None  # the option that names their folder
    corrupt: bool = True


_NEMO_LOSES = "keys, captions, JSON; re-encodes images"
PEERS = {
    OURS: Peer(("with_image_curation.py",), 20_000, 120, "-"),
    PLAIN: Peer(("with_plain_loop.py",), 12_000, 75, "captions, JSON, which images failed"),
    "plain-loop-compiled": Peer(
        ("with_plain_loop.py", "--compile"), 12_000, 120, "captions, JSON, which images failed", corrupt=False
    ),
    "clip-retrieval": Peer(("with_clip_retrieval.py",), 12_000, 75, "which images failed", packages="retrieval_path"),
    "nemo-direct": Peer(("with_nemo_curator.py",), 2_000, 90, _NEMO_LOSES, packages="nemo_path"),
    "nemo-xenna": Peer(
        ("with_nemo_curator.py", "--executor", "xenna"), 6_000, 120, _NEMO_LOSES, packages="nemo_path", corrupt=False
    ),
    "nemo-ray": Peer(
        ("with_nemo_curator.py", "--executor", "ray"), 6_000, 120, _NEMO_LOSES, packages="nemo_path", corrupt=False
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("corrupt", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--images", type=int, help="at most so many for each peer")
    parser.add_argument("--model", default="vit-l-14")
    parser.add_argument("--heads", type=Path, help="folder with the score heads, for this project's scores")
    parser.add_argument("--nemo-path", type=Path, help="folder with NeMo Curator and what it needs")
    parser.add_argument("--retrieval-path", type=Path, help="folder with clip-retrieval and what it needs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in options.only:
        results[name] = run(name, PEERS[name], options)
        print(f"{name}: {' '.join(str(value) for result in results[name] for value in result.values())}", flush=True)
    if all(results.get(name, [{"rate": 0.0}])[0]["rate"] for name in (OURS, PLAIN)):
        print(agreement(options.out / OURS, options.out / PLAIN))
    print_table(results)


def run(name: str, peer: Peer, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines that a peer printed: its rate, and its losses if it got that far. Its log goes beside its folder."""
    images = min(peer.images, options.images or peer.images)
    script, *arguments = peer.command
    command = [sys.executable, str(Path(__file__).parent / script), str(options.shards), str(options.out / name)]
    command += ["--images", str(images), "--model", options.model, *arguments]
    if peer.corrupt:
        command += ["--corrupt", str(options.corrupt), "--corrupt-images", str(min(images, 2_000))]
    if name == OURS and options.heads:
        command += ["--heads", str(options.heads)]
    paths = [os.environ.get("PYTHONPATH", "")]
    if peer.packages and getattr(options, peer.packages):
        paths.insert(0, str(getattr(options, peer.packages).resolve()))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    log = options.out / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=peer.limit_s)
        except subprocess.TimeoutExpired:
            output = _stop(process)
            print(f"{name}: stopped after {peer.limit_s} s", flush=True)
    _kill_session(process.pid)
    results = [json.loads(line[line.index('{"name"') :]) for line in output.splitlines() if '{"name"' in line]
    if not results:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        results = [{"rate": 0.0, "notes": f"no result (exit code {process.returncode}): {last[:200]}"}]
    return results


def _stop(process: "subprocess.Popen[str]") -> str:
    """End a peer, gently at first, since some have processes elsewhere to end. Returns what it printed."""
    process.terminate()
    try:
        return process.communicate(timeout=15)[0]
    except subprocess.TimeoutExpired:
        _kill_session(process.pid)
        return process.communicate()[0]


def _kill_session(leader: int) -> None:
    """Kill all processes that a peer has left behind (Ray's outlive it), so that they do not slow down the next."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(ProcessLookupError):
                if os.getsid(int(entry.name)) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)


def agreement(ours: Path, plain: Path) -> str:
    """One sentence on how near our vectors are to those of the plain loop, which has the same weights."""
    files = sorted((ours / "vectors" / "embeddings").rglob("*.parquet"))
    table = ds.dataset(files).to_table(["key", "vector"], filter=pc.field("vector").is_valid())
    mine = dict(zip(table["key"].to_pylist(), vectors_of(table), strict=True))
    table = pq.read_table(plain / "vectors.parquet")
    theirs = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    cosines = [vector @ mine[key] for key, vector in zip(table["key"].to_pylist(), theirs, strict=True) if key in mine]
    return f"cosine of our vectors to the plain loop's, same weights, {len(cosines):,} images: {np.median(cosines):.5f}"


def print_table(results: dict[str, list[dict[str, Any]]]) -> None:
    """One row a peer, the fastest first."""
    ours = results[OURS][0]["rate"] if OURS in results else 0.0
    rows = [HEADINGS]
    for name, (rate, *losses) in sorted(results.items(), key=lambda item: -item[1][0]["rate"]):
        faster = f"{ours / rate['rate']:.2f} x" if rate["rate"] and ours else "-"
        loss: dict[str, Any] = losses[0] if losses else {"lost": None, "outcome": "-"}
        lost = "-" if loss["lost"] is None else f"{loss['lost']:,} of {loss['good']:,}"
        speed = f"{rate['rate']:,.0f}" if rate["rate"] else rate["notes"][:60]
        rows.append((name, speed, faster, lost, loss["outcome"][:60], PEERS[name].loses))
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADINGS))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
