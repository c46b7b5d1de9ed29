"""Training on 1, 2, 4, ... GPUs (or processes): images a second of `image-curation train`, all in one run.

    python benchmarks/train_scaling.py SHARDS [--processes 1,2,4] [--label-field photo] [--model resnet50] [--batch 256]
        [--size 224] [--steps 140] [--threads 0] [--loaders dali,synthetic] [--device auto] [--set NAME=VALUE]

SHARDS is what benchmarks/make_shards.py wrote; a few thousand images will do. They are listed once, while the processes
start, and repeated as often as makes one epoch hold all steps, since at an epoch's end DALI begins anew. Each process
is started once and takes part in the runs of its number; those not needed sleep. All runs give a process the same batch
and the same number of threads, by default its share of the cores when all of them run.

Rates are medians over windows of 20 steps, without the first two; the last column is the rate over that of linear
scaling from the first number. What `synthetic` loses too is lost to the sharing of gradients, the rest to the loader.
"""

import argparse
import multiprocessing
import os
import platform
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from math import ceil
from typing import Any

import numpy as np
import torch

from image_curation.config import resolve_device
from image_curation.training.config import TrainConfig
from image_curation.training.dataset import Dataset, open_dataset
from image_curation.training.loop import train_on
from image_curation.training.model_file import create_model
from image_curation.training.processes import joined_processes

_WINDOW_STEPS = 20
_NOT_COUNTED = 2  # windows, in which kernels are chosen and memory is taken
_LEAST_WINDOWS = 3


@dataclass(frozen=True)
class Run:
    """One loader on so many processes, which meet at a port of this machine."""

    config: TrainConfig
    processes: int
    device: str
    port: int

    def __str__(self) -> str:
        return f"{self.config.loader}, {self.processes} of them"


@dataclass(frozen=True)
class Measured:
    """Of a run: images/s of each window that counts, and the seconds until it began to learn, and of both parts."""

    rates: list[float]
    start_s: float
    warm_up_s: float
    counted_s: float


def main() -> None:
    options = parsed()
    begin = time.perf_counter()
    counts = [int(count) for count in options.processes.split(",")]
    with started(max(counts)) as pools:
        ready = [pool.submit(begin_process, options, number) for number, pool in enumerate(pools)]
        dataset = open_dataset(options.shards, options.label_field)
        print(f"{len(dataset):,} images listed after {time.perf_counter() - begin:.1f} s", flush=True)
        where = results(ready)[0]
        print(f"{len(pools)} processes started after {time.perf_counter() - begin:.1f} s", flush=True)
        runs = [
            Run(config_of(options, loader, max(counts)), count, options.device, free_port())
            for loader in options.loaders.split(",")
            for count in counts
        ]
        measured = [(run, measure(run, dataset, pools)) for run in runs]
    print_table(options, dataset, where, measured)
    print(f"\n{time.perf_counter() - begin:.0f} s in all")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--label-field", default="photo")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=140)
    parser.add_argument("--threads", type=int, default=0, help="that decode, of each process; 0: its share of cores")
    parser.add_argument("--loaders", default="dali,synthetic")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, a setting of the training")
    options = parser.parse_args()
    least = (_NOT_COUNTED + _LEAST_WINDOWS) * _WINDOW_STEPS
    if options.steps < least:
        raise SystemExit(f"--steps {options.steps} should be >= {least}")
    return options


def config_of(options: argparse.Namespace, loader: str, most: int) -> TrainConfig:
    settings = {
        "model": options.model,
        "image_size": options.size,
        "batch_size": options.batch,
        "threads": options.threads or max(1, len(os.sched_getaffinity(0)) // most),
        "steps": options.steps,
        "log_steps": _WINDOW_STEPS,
        "loader": loader,
        "checkpoint_steps": 0,
    }
    return TrainConfig(**settings | dict(pair.split("=", 1) for pair in options.set))


@contextmanager
def started(count: int) -> Iterator[list[ProcessPoolExecutor]]:
    """So many processes, each in a pool of its own; where one fails, all are ended, as the others wait for it."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun sets it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what `timeout` sends ends the processes too
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn) for _ in range(count)]
    try:
        yield pools
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        raise
    finally:
        for pool in pools:
            pool.shutdown()


def begin_process(options: argparse.Namespace, number: int) -> str:
    """Import what training does, and put a model on the device; its name."""
    device = torch.device(resolve_device(options.device), number)
    create_model(options.model, 2).to(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def results(futures: list[Any]) -> list[Any]:
    """Of all of them, or the first error."""
    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
        future.result()
    return [future.result() for future in futures]


def measure(run: Run, dataset: Dataset, pools: list[ProcessPoolExecutor]) -> Measured:
    with tempfile.TemporaryDirectory() as out:
        begin = time.perf_counter()
        futures = [pools[rank].submit(take_part, run, rank, dataset, out) for rank in range(run.processes)]
        measured: Measured = results(futures)[0]
        whole = time.perf_counter() - begin
    print(
        f"{run}: {statistics.median(measured.rates):,.0f} images/s, {whole:.1f} s: start {measured.start_s:.1f}, ",
        end="",
    )
    print(f"warm up {measured.warm_up_s:.1f}, measured {measured.counted_s:.1f}", flush=True)
    return measured


def take_part(run: Run, rank: int, dataset: Dataset, out: str) -> Measured:
    """Train as one of the processes of a run."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": run.processes, "LOCAL_WORLD_SIZE": run.processes}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(run.port)}
    watch = Watch(run)
    images = repeated(dataset, ceil(run.config.steps * run.config.batch_size * run.processes / len(dataset)))
    with joined_processes(run.device) as processes:
        train_on(images, None, out, run.config, processes, watch.note)
    return watch.measured() if rank == 0 else Measured([], 0, 0, 0)


def repeated(dataset: Dataset, times: int) -> Dataset:
    """The same images again and again, each time under keys of their own."""
    parts = {name: np.tile(getattr(dataset, name), times) for name in ("file", "offset", "size", "labels")}
    return replace(dataset, keys=tuple(f"{time}/{key}" for time in range(times) for key in dataset.keys), **parts)


class Watch:
    """Notes when a training began to learn and each window ended, and says so at once."""

    def __init__(self, run: Run) -> None:
        self._run, self._begin = run, time.perf_counter()
        self._ends: list[float] = []
        self._rates: list[float] = []

    def note(self, event: Any) -> None:
        """Take in an event of the training."""
        now = time.perf_counter() - self._begin
        if event["event"] == "start":
            self._start = now
        elif event["event"] == "train":
            self._ends.append(now)
            self._rates.append(event["images_per_s"])
            print(f"  {self._run}, step {event['step']}: {event['images_per_s']:,.0f} images/s", flush=True)

    def measured(self) -> Measured:
        warm = self._ends[_NOT_COUNTED - 1]
        return Measured(self._rates[_NOT_COUNTED:], self._start, warm - self._start, self._ends[-1] - warm)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def print_table(
    options: argparse.Namespace, dataset: Dataset, where: str, measured: list[tuple[Run, Measured]]
) -> None:
    config = measured[0][0].config
    print(f"\n{date.today()}, {where}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{config.model}, {config.image_size} px, {config.amp}, batch {config.batch_size} a process, ", end="")
    print(
        f"{config.threads} threads each, {config.steps - _NOT_COUNTED * _WINDOW_STEPS} steps, {len(dataset):,} images\n"
    )
    print(f"{'loader':<12}{'processes':>10}{'images/s':>10}{'least':>10}{'most':>10}   of linear")
    first: dict[str, float] = {}
    for run, found in measured:
        middle = statistics.median(found.rates)
        one = first.setdefault(run.config.loader, middle / run.processes)
        print(f"{run.config.loader:<12}{run.processes:>10}{middle:>10,.0f}{min(found.rates):>10,.0f}", end="")
        print(f"{max(found.rates):>10,.0f}   {middle / (run.processes * one):.3f}")


if __name__ == "__main__":
    main()
