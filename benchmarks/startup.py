"""From a cold start of `curate` to the first batch of embeddings: what happens when, without workers and with.

    python benchmarks/startup.py SHARDS [--encoder clip-vit-l-14] [--weights random:0] [--device cpu] [--limit 10]

Each curation is a process of its own, which is stopped as soon as its first batch is with the encoder.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

IMPORTED, STARTED, INDEXED = "library imported", "workers started", "first shard indexed"
LOADED, ENCODING = "model loaded", "first batch is encoded"
MOMENTS = (IMPORTED, STARTED, INDEXED, LOADED, ENCODING)
PATIENCE_S = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--encoder", default="clip-vit-l-14")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that it may take")
    parser.add_argument("--curate", nargs=3, help=argparse.SUPPRESS)  # in the child: cluster, root, file of marks
    options = parser.parse_args()
    if options.curate:
        curate(options)
        return
    kinds = ("inline", "local" if options.device == "cpu" else "cuda")
    times = {kind: measured(kind) for kind in kinds}
    print(f"\n{'seconds until':<28}" + "".join(f"{kind:>10}" for kind in kinds))
    for moment in MOMENTS:
        shown = [f"{times[kind][moment]:.1f}" if moment in times[kind] else "" for kind in kinds]
        print(f"{moment:<28}" + "".join(f"{one:>10}" for one in shown))
    within = [kind for kind in kinds if times[kind][ENCODING] <= options.limit]
    print(f"{options.encoder} on {options.device}: within {options.limit:g} s {', '.join(within) or 'in no way'}")


def measured(kind: str) -> dict[str, float]:
    """Moment -> seconds since the process began, of a cold curation on a cluster of this kind."""
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks"
        marks.touch()
        began = time.time()
        command = [sys.executable, *sys.argv, "--curate", kind, folder + "/root", str(marks)]
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            while child.poll() is None and time.time() < began + PATIENCE_S and ENCODING not in marks.read_text():
                time.sleep(0.05)
        finally:
            child.terminate()
            said = child.communicate()[1]
        lines = [line.split("\t") for line in marks.read_text().splitlines()]
        times = {moment: float(at) - began for at, moment in reversed(lines)}  # of several workers, the first
        if ENCODING not in times:
            raise SystemExit(f"{kind}: no batch was encoded; it came to {sorted(times)}\n{said}")
        return times


def curate(options: argparse.Namespace) -> None:
    """Curate, and mark the moments in a file."""
    from image_curation import cluster
    from image_curation.config import load_settings
    from image_curation.curate import curate
    from image_curation.project import Project

    kind, root, marks = options.curate
    given = {name: getattr(options, name) for name in ("encoder", "weights", "device")}
    settings = load_settings(source=options.shards, root=root, cluster=kind, **given)
    mark(marks, IMPORTED)
    with cluster.open_cluster(settings) as opened:
        if isinstance(opened, cluster.DaskCluster):
            mark(marks, STARTED)
            opened.client.run(watch, marks)
        else:
            watch(marks)
        indexed = ("shard_index", 1)
        curate(Project.load(settings), opened, lambda *told: mark(marks, INDEXED) if told[:2] == indexed else None)


def watch(marks: str) -> None:
    """Mark, in this process, when the encoder is loaded and when it is first used."""
    from image_curation.steps import embeddings

    step: Any = embeddings
    load = step.load_encoder

    def loaded(*arguments: Any) -> Any:
        encoder = load(*arguments)
        mark(marks, LOADED)
        encode = encoder.encode

        def encoded(pixels: Any) -> Any:
            mark(marks, ENCODING)
            return encode(pixels)

        encoder.encode = encoded
        return encoder

    step.load_encoder = loaded


def mark(marks: str, moment: str) -> None:
    with open(marks, "a") as file:
        file.write(f"{time.time()}\t{moment}\n")


if __name__ == "__main__":
    main()
