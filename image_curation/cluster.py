"""Take many items through stages: inline, on an embedded Dask cluster (CPUs, or GPUs and CPUs), or on a remote one.

Tasks carry paths and return counts; image bytes and vectors never pass through the scheduler.
"""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol
from uuid import uuid4

from image_curation.config import Settings, gpu_count, resolve_device
from image_curation.errors import ClusterError
from image_curation.shards.discover import Shard

Device = Literal["cpu", "gpu"]

_ANY_PORT = "127.0.0.1:0"  # Dask's page of metrics, on loopback; a fixed port would clash when two runs overlap
_GPU_THREADS = 3  # shards that one GPU worker has at hand: one is computed while others are read and written
_CPU_WORKERS_PER_GPU = 4
_FIRST_WORKER_S = 60
_SMALL_BYTES = 1 << 26
_DASK = {"distributed.worker.profile.enabled": False}  # it looks at all threads 100 times a second, for 3 % of Python
_AHEAD = 4  # items on their way for each thread, so that no worker ever waits for the client


@dataclass(frozen=True)
class Stage:
    """One step that items go through. A `gpu` stage runs on GPU workers where there are any, a `cpu` stage beside them.

    The function may run twice on an item (its worker may die as it ends), so it must find what it has done already.
    """

    name: str
    function: Callable[[Any], Any]
    device: Device = "cpu"
    alone: bool = False
    """Whether it takes a whole worker: nothing else runs beside it on a GPU, which it may fill."""


@dataclass(frozen=True)
class Done:
    """An item that went through a stage: its result, or the error that was raised and ends its way."""

    item: Any
    stage: str
    result: Any = None
    error: Exception | None = None


class Cluster(Protocol):
    """Something that takes items through stages, in any order, and tells each step as it is done."""

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Done]:
        """Call each stage in turn with every item, whatever the stage before it gave.

        Items are begun in their order, and those that are further on go first. An error costs its item: it goes no
        further, and nothing is told of the stages that it does not come to.

        Raises:
            ClusterError: the cluster is lost.
        """
        ...


class InlineCluster:
    """Runs one task after the other in this process: for tests, debugging, and jobs too small for a cluster."""

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Done]:
        """Yield each item after every stage, lazily; see `Cluster.run`."""
        for item in items:
            for stage in stages:
                done = _done(item, stage, lambda: stage.function(item))  # noqa: B023 - called at once
                yield done
                if done.error is not None:
                    break


class AutoCluster:
    """Starts workers, unless the first job is so small that it is done in this process before they would be ready.

    Small is a single item, or tars of `_SMALL_BYTES` together. Later jobs run where the first one ran.
    """

    def __init__(self, start: Callable[[], Cluster]) -> None:
        self._start = start
        self._chosen: Cluster | None = None

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Done]:
        """Yield each item after every stage; see `Cluster.run`."""
        if self._chosen is None:
            self._chosen = InlineCluster() if _is_small(items) else self._start()
        yield from self._chosen.run(stages, items)


def _is_small(items: Sequence[Any]) -> bool:
    sizes = [item.size if isinstance(item, Shard) else math.inf for item in items]
    return len(items) == 1 or sum(sizes) <= _SMALL_BYTES


class DaskCluster:
    """Runs the tasks on Dask workers. A worker that dies costs a retry of its tasks, not the run."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def run(self, stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Done]:
        """Yield each item after every stage; see `Cluster.run`.

        Dask blames a worker's death on all tasks that it had been given, also on those that waited. So the suspects are
        tried once more, each with nothing beside it.
        """
        from distributed import KilledWorker

        names = [stage.name for stage in stages]
        suspects = []
        for done in self._flow(stages, ((item, 0) for item in items)):
            if isinstance(done.error, KilledWorker):
                suspects.append((done.item, names.index(done.stage)))
            else:
                yield done
        for suspect in suspects:
            yield from self._flow(stages, iter([suspect]))

    def _flow(self, stages: Sequence[Stage], starts: Iterator[tuple[Any, int]]) -> Iterator[Done]:
        """Take items on, each from the stage at the position that comes with it.

        Only so many items are on their way that all threads stay busy. So the scheduler's work does not grow with the
        number of items, items are finished early, and few tasks are blamed when a worker dies.
        """
        from distributed import as_completed

        needs, threads = self._workers()
        running: dict[Any, tuple[Any, int]] = {}
        finished = as_completed(loop=self.client.loop)

        def submit(item: Any, position: int) -> None:
            stage = stages[position]
            key = f"{stage.name}-{uuid4().hex}"  # a name of its own, by which Dask learns how long the stage takes
            future = self.client.submit(
                stage.function, item, key=key, pure=False, priority=position, resources=needs[stage.device, stage.alone]
            )
            running[future] = item, position
            finished.add(future)

        for item, position in islice(starts, _AHEAD * threads):
            submit(item, position)
        for future in finished:
            item, position = running.pop(future)
            done = _done(item, stages[position], future.result)
            if isinstance(done.error, CancelledError):
                raise ClusterError(
                    f"the Dask scheduler at {self.client.scheduler.address} went away. What is made stays: run the "
                    "same again once there is one."
                ) from done.error
            if done.error is None and position + 1 < len(stages):
                submit(item, position + 1)
            else:
                for start in islice(starts, 1):
                    submit(*start)
            yield done

    def _workers(self) -> tuple[dict[tuple[Device, bool], dict[str, float] | None], int]:
        """What a stage must ask for to get a worker of its kind, alone or not (nothing where no worker declares it);
        all threads."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        needs: dict[tuple[Device, bool], dict[str, float] | None] = {}
        devices: tuple[Device, ...] = ("cpu", "gpu")
        for device in devices:
            name = device.upper()
            declared = [worker["resources"][name] for worker in workers if name in worker["resources"]]
            needs[device, False] = {name: 1} if declared else None
            needs[device, True] = {name: min(declared)} if declared else None
        return needs, max(1, sum(worker["nthreads"] for worker in workers))


def _done(item: Any, stage: Stage, result: Callable[[], Any]) -> Done:
    try:
        return Done(item, stage.name, result())
    except Exception as error:  # noqa: BLE001 - handed to the caller with its item
        return Done(item, stage.name, error=error)


@contextmanager
def open_cluster(settings: Settings) -> Iterator[Cluster]:
    """The cluster that `settings.cluster` names, closed at the end if it was started here.

    Raises:
        ClusterError: a scheduler does not answer or has no workers, or GPU workers are wanted where no GPU is.
    """
    kind = settings.cluster
    with ExitStack() as stack:
        if kind == "inline":
            yield InlineCluster()
        elif kind == "auto":
            start = _cuda if resolve_device(settings.device) == "cuda" else _local
            yield AutoCluster(lambda: DaskCluster(stack.enter_context(start(settings))))
        else:
            opened = _remote(kind) if "://" in kind else _cuda(settings) if kind == "cuda" else _local(settings)
            yield DaskCluster(stack.enter_context(opened))


@contextmanager
def _local(settings: Settings) -> Iterator[Any]:
    """CPU workers, each with its share of the cores for decoding and matrix products."""
    import dask
    from distributed import Client, LocalCluster

    threads = str(settings.threads_per_worker())
    shares = {name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    with (
        dask.config.set(_DASK),
        LocalCluster(
            n_workers=settings.local_workers(), threads_per_worker=1, dashboard_address=_ANY_PORT, env=shares
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _cuda(settings: Settings) -> Iterator[Any]:
    """One worker a GPU, and CPU workers beside them, which keep what needs no GPU off the processes that have one."""
    wanted, found = settings.workers or 1, gpu_count()
    if found < wanted:
        raise ClusterError(
            f"cannot start {wanted} Dask workers on GPUs: there are {found} GPUs. Set IMAGE_CURATION_WORKERS to no "
            "more, or IMAGE_CURATION_CLUSTER=local."
        )
    import dask
    from distributed import Client

    try:
        from dask_cuda import LocalCUDACluster

        with dask.config.set(_DASK):
            cluster = LocalCUDACluster(
                n_workers=settings.workers,
                threads_per_worker=_GPU_THREADS,
                resources={"GPU": _GPU_THREADS},
                dashboard_address=_ANY_PORT,
            )
    except (ImportError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"cannot start Dask workers on GPUs: {error}. Install the `gpu` extra and see `image-curation doctor`, "
            "or set IMAGE_CURATION_CLUSTER=local."
        ) from error
    with cluster:
        cores = os.cpu_count() or 1
        add_cpu_workers(cluster, min(_CPU_WORKERS_PER_GPU * len(cluster.worker_spec), max(1, cores // 2)))
        with Client(cluster) as client:
            yield client


def add_cpu_workers(cluster: Any, count: int) -> None:
    """Start `count` workers for `cpu` stages, which see no GPU, beside the workers of an embedded cluster."""
    from distributed import Nanny

    options = {
        "host": "127.0.0.1",
        "nthreads": 1,
        "resources": {"CPU": 1},
        "env": {"CUDA_VISIBLE_DEVICES": ""},
        "silence_logs": logging.WARN,
    }
    cluster.worker_spec |= {f"cpu-{n}": {"cls": Nanny, "options": options} for n in range(count)}
    cluster.sync(cluster._correct_state)


@contextmanager
def _remote(address: str) -> Iterator[Any]:
    """A cluster that runs elsewhere; its workers need this package and the same storage."""
    from distributed import Client

    try:
        client = Client(address, timeout="20s")
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}: {error}. Check IMAGE_CURATION_CLUSTER.") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_FIRST_WORKER_S)
        except TimeoutError as error:
            raise ClusterError(
                f"the Dask scheduler at {address} has had no worker for {_FIRST_WORKER_S} s. Start some, as "
                "deploy/README.md shows, then run the same again."
            ) from error
        yield client
