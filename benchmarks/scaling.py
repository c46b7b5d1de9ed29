"""The same work for each worker, on 1, 2, 4, ... of them: index, embeddings and scores of tars, through the cluster.

    python benchmarks/scaling.py SHARDS [--workers 1,2,4] [--passes 1] [--device cuda] [--encoder clip-vit-l-14]

A worker is a GPU, or with --device cpu a process. Each takes the images of SHARDS `--passes` times over, once it has
loaded its model and embedded the smallest tar, which is not counted.
"""

import argparse
import datetime
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from image_curation.cluster import DaskCluster, Stage, open_cluster
from image_curation.config import Settings, load_settings, resolve_device
from image_curation.curate import shard_stages
from image_curation.engine import EngineStats
from image_curation.project import Project
from image_curation.shards.discover import Shard, discover, largest_first
from image_curation.steps import embeddings
from image_curation.steps.outcome import Outcome
from image_curation.steps.shard_index import build_shard_index


@dataclass(frozen=True)
class Timed:
    """What a step did, in which process, and when, in seconds since 1970."""

    outcome: Outcome
    process: int
    begun: float
    ended: float


@dataclass(frozen=True)
class Worker:
    """What one worker did in a run of `seconds`: what its engine says, and how long it was idle at the end."""

    process: int
    stats: EngineStats
    idle_s: float


@dataclass(frozen=True)
class Run:
    """One run over all tars on some workers."""

    images: int
    seconds: float
    workers: list[Worker]
    stages: dict[str, float]
    """Stage -> seconds that its tasks took, all together."""

    @property
    def rate(self) -> float:
        return self.images / self.seconds

    @property
    def tail_s(self) -> float:
        return max(worker.idle_s for worker in self.workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers, separated by commas")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--encoder", default="clip-vit-l-14")
    parser.add_argument("--weights", default="random:0", help="none for the encoder's own")
    options = parser.parse_args()
    tars = largest_first(discover(options.shards)[0])
    for tar in tars:  # so that the first run does not find a colder disk than the others
        with open(tar.url, "rb") as file:
            while file.read(1 << 24):
                pass
    runs = {}
    for count in map(int, options.workers.split(",")):
        with tempfile.TemporaryDirectory() as root:
            settings = load_settings(
                source=options.shards,
                root=root,
                encoder=options.encoder,
                weights=None if options.weights == "none" else options.weights,
                device=options.device,
                cluster="local" if options.device == "cpu" else "cuda",
                workers=count,
            )
            runs[count] = run(settings, tars, options.passes)
        print_workers(runs[count])
    print_runs(options, runs)


def run(settings: Settings, tars: Sequence[Shard], passes: int) -> Run:
    """Open the cluster, warm every worker, and take all tars through it."""
    project, count = Project.load(settings), settings.local_workers()
    items = [replace(tar, key=f"{n}/{tar.key}") for tar in tars for n in range(passes * count)]
    stages = [Stage(stage.name, partial(timed, stage.function), stage.device) for stage in shard_stages(project)]
    with open_cluster(settings) as cluster:
        assert isinstance(cluster, DaskCluster)
        before = stats_of_workers(cluster.client, project, tars[-1])
        start = time.time()
        done = list(cluster.run(stages, items))
        end = time.time()
        after = stats_of_workers(cluster.client, project, tars[-1])
    errors = [one.error for one in done if one.error]
    if errors:
        raise errors[0]
    embedded: list[Timed] = [one.result for one in done if one.stage == "embeddings"]
    last = {process: max(one.ended for one in embedded if one.process == process) for process in before}
    workers = [
        Worker(process, difference(after[process], before[process]), max(last.values()) - last[process])
        for process in before
    ]
    seconds = {stage.name: 0.0 for stage in stages}
    for one in done:
        seconds[one.stage] += one.result.ended - one.result.begun
    return Run(sum(one.outcome.artifact.rows for one in embedded), end - start, workers, seconds)


def timed(step: Callable[[Any], Outcome], item: Any) -> Timed:
    begun = time.time()
    outcome = step(item)
    return Timed(outcome, os.getpid(), begun, time.time())


def stats_of_workers(client: Any, project: Project, tar: Shard) -> dict[int, EngineStats]:
    """Process -> what its engine has done, of every worker that embeds. At first it embeds a tar to be warm."""
    workers = client.scheduler_info()["workers"]
    with_gpu = [address for address, worker in workers.items() if "GPU" in worker["resources"]]
    resources = {"GPU": 1} if with_gpu else None
    futures = [
        client.submit(warm, project, tar, workers=[address], resources=resources, pure=False)
        for address in with_gpu or workers
    ]
    return dict(client.gather(futures))


def warm(project: Project, tar: Shard) -> tuple[int, EngineStats]:
    own = replace(tar, key=f"warm/{os.getpid()}")
    build_shard_index(project, own)
    embeddings.build_embeddings(project, own.key)
    return os.getpid(), embeddings._loaded(project.settings, resolve_device(project.settings.device)).stats()


def difference(after: EngineStats, before: EngineStats) -> EngineStats:
    return EngineStats(**{name: value - asdict(before)[name] for name, value in asdict(after).items()})


def print_workers(run: Run) -> None:
    """Where the time of each worker went. Threads overlap, so that shares may add up to more than the whole."""
    names = [name for name in asdict(run.workers[0].stats) if name.endswith("_s")]
    headings = "".join(f"{name.removesuffix('_s'):>17}" for name in names)
    print(f"\n{'worker':>8}{'images':>9}{headings}{'idle':>9}")
    for worker in run.workers:
        stats = asdict(worker.stats)
        shares = "".join(f"{stats[name] / run.seconds:>17.0%}" for name in names)
        print(f"{worker.process:>8}{worker.stats.images:>9,}{shares}{worker.idle_s:>7.2f} s")
    means = [f"{stage} {1e3 * seconds / run.images:.2f} ms" for stage, seconds in run.stages.items()]
    print(f"tasks, an image: {', '.join(means)}")


def print_runs(options: argparse.Namespace, runs: dict[int, Run]) -> None:
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"\n{options.encoder} ({options.weights}) on {device}, torch {torch.__version__}, {datetime.date.today()}")
    print(f"{'workers':>8}{'images':>10}{'seconds':>10}{'images/s':>10}{'efficiency':>12}{'tail':>9}")
    first, base = next(iter(runs.items()))
    for count, run in runs.items():
        efficiency = run.rate / count / (base.rate / first)
        print(
            f"{count:>8}{run.images:>10,}{run.seconds:>10.1f}{run.rate:>10,.0f}{efficiency:>12.3f}{run.tail_s:>7.2f} s"
        )


if __name__ == "__main__":
    main()
