"""What Dagster adds to a run over many shards: the graph against the same steps called as a library, in one process.

    python benchmarks/dagster_overhead.py SHARDS [--rounds 3] [--made] [--postgres] [--profile]

Both curate the same tars anew in each round, one after the other, with the encoder `embedded`, which needs no weights;
a real encoder only makes the rest dearer. Then: what it costs to load the code location.

Most of the time goes into decoding, by the same code in both; on a busy machine it varies by more than Dagster adds.
With --made the library does all once, and each round begins with the shards indexed, embedded and scored: both find
that and do the rest, and what Dagster adds to that is set against the whole.
"""

import argparse
import cProfile
import json
import os
import pstats
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from postgres_server import postgres

OURS = yaml.safe_load(Path("dagster.yaml").read_text())["storage"]
BY_SHARD = ("shard_index", "embeddings", "aesthetic_scores", "nsfw_scores")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
LOAD = """import re, time; begun = time.perf_counter()
import assets.definitions as graph; graph.defs.get_repository_def()
took = time.perf_counter() - begun
print(took, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder of tars, as benchmarks/make_shards.py makes them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--made", action="store_true", help="leave out the decoding, and its noise")
    parser.add_argument("--postgres", action="store_true", help="Dagster's log in PostgreSQL instead of SQLite")
    parser.add_argument("--profile", action="store_true", help="show where the graph's time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        storage = stack.enter_context(postgres()) if options.postgres else None
        measure(options, Path(folder), storage)


def measure(options: argparse.Namespace, folder: Path, storage: dict[str, Any] | None) -> None:
    places = {"SOURCE": options.shards, "ROOT": folder / "curated", "CLUSTER": "inline", "ENCODER": "embedded"}
    os.environ |= {f"IMAGE_CURATION_{name}": str(value) for name, value in places.items()}
    tars = len(list(Path(options.shards).glob("**/*.tar")))
    home = folder / "dagster"
    home.mkdir()
    os.environ["DAGSTER_HOME"] = str(home)
    (home / "dagster.yaml").write_text(json.dumps({"telemetry": {"enabled": False}, "storage": storage or OURS}))
    graph(folder / "warm", shards=1)  # loads the encoder and Dagster, and makes the instance
    made = folder / "made" if options.made else None
    whole = timed(library, made) if made else None
    times: dict[str, list[tuple[float, float]]] = {"library": [], "graph": []}
    for n in range(options.rounds):
        for name, way in [("library", library), ("graph", graph)][:: -1 if n % 2 else 1]:  # no one is always second
            place = folder / f"{name}-{n}"
            times[name].append(timed(way, place, options.profile and name == "graph", made))
            shutil.rmtree(place)
            print(f"round {n + 1}: {name:<8}{times[name][-1][0]:>8.2f} s", flush=True)
    loads = [loading() for _ in range(3)]
    print(f"\n{tars:>5} shards, seconds{'best':>10}{'median':>10}{'of CPU':>10}")
    for name, found in times.items():
        walls, cpus = zip(*found, strict=True)
        print(f"{name:<20}{min(walls):>12.2f}{statistics.median(walls):>10.2f}{min(cpus):>10.2f}")
    if whole:
        print(f"{'library, all of it':<20}{whole[0]:>12.2f}{whole[0]:>10.2f}{whole[1]:>10.2f}")
    for what, n in (("time", 0), ("CPU time", 1)):
        ours, others = (min(one[n] for one in times[name]) for name in ("graph", "library"))
        each, of = 1000 * (ours - others) / tars, whole[n] if whole else others
        print(f"Dagster adds {ours - others:.2f} s of {what}, {each:.0f} ms a shard: {(ours - others) / of:.1%}")
    print(f"loading the code location: {min(s for s, _ in loads):.2f} s, {max(mb for _, mb in loads):.0f} MB (RSS)")


def timed(
    way: Callable[[Path], None], folder: Path, profiled: bool = False, made: Path | None = None
) -> tuple[float, float]:
    """Seconds, and seconds of CPU, that a way takes into a new folder, or one with what is `made` by shard."""
    for name in BY_SHARD if made else ():
        shutil.copytree(made / name, folder / name)
    profile = cProfile.Profile(time.process_time)
    begun, cpu = time.perf_counter(), time.process_time()
    if profiled:
        profile.runcall(way, folder)
        pstats.Stats(profile).sort_stats("cumulative").print_stats("dagster|assets|sqlite", 60)
    else:
        way(folder)
    return time.perf_counter() - begun, time.process_time() - cpu


def library(folder: Path) -> None:
    """Everything without Dagster."""
    from image_curation.cluster import InlineCluster
    from image_curation.config import load_settings
    from image_curation.curate import curate
    from image_curation.project import Project

    curate(Project.load(load_settings(root=str(folder))), InlineCluster(), lambda *_: None)


def graph(folder: Path, shards: int | None = None) -> None:
    """Everything as one run of the job over all shards, or over the first of them."""
    import dagster as dg

    from assets.definitions import defs
    from assets.partitions import range_tags
    from image_curation.shards.discover import discover

    os.environ["IMAGE_CURATION_ROOT"] = str(folder)
    with dg.DagsterInstance.get() as instance:
        keys = [tar.key for tar in discover(os.environ["IMAGE_CURATION_SOURCE"])[0]][:shards]
        instance.add_dynamic_partitions("shards", keys)
        job = defs.resolve_job_def("curate")
        assert job.execute_in_process(instance=instance, tags=range_tags(keys), run_config=QUIET).success


def loading() -> tuple[float, float]:
    """Seconds and MB to load the graph in a new process."""
    said = subprocess.run([sys.executable, "-c", LOAD], check=True, capture_output=True, text=True).stdout
    seconds, megabytes = said.split()
    return float(seconds), float(megabytes)


if __name__ == "__main__":
    main()
