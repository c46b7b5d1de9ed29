"""Run one function over many shards: inline, on an embedded Dask cluster (CPU or one worker a GPU), or on a remote one.

Tasks carry paths and return counts; image bytes and vectors never pass through the scheduler.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from image_curation.config import Settings, resolve_device
from image_curation.errors import ClusterError

_ANY_PORT = "127.0.0.1:0"  # Dask's page of metrics, on loopback; a fixed port would clash when two runs overlap


@dataclass(frozen=True)
class Done:
    """One finished task: its item and its result, or the error that it raised."""

    item: Any
    result: Any = None
    error: Exception | None = None


class Cluster(Protocol):
    """Something that runs a function over items, in any order, and gives each back as it is done."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done]: ...


class InlineCluster:
    """Runs the tasks one after the other in this process: for tests, debugging, and jobs too small for a cluster."""

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done]:
        """Yield each item as soon as it is done; an error costs its item."""
        for item in items:
            try:
                yield Done(item, function(item))
            except Exception as error:  # noqa: BLE001 - handed to the caller with its item, as Dask does
                yield Done(item, error=error)


class DaskCluster:
    """Runs the tasks on Dask workers. A worker that dies costs a retry of its task, not the run."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done]:
        """Yield each item as soon as it is done; an error costs its item.

        Dask blames a worker's death on all tasks that it had been given, also on those that waited. So the suspects are
        tried once more, each with nothing beside it.
        """
        from distributed import KilledWorker

        suspects = []
        for done in self._run(function, items):
            if isinstance(done.error, KilledWorker):
                suspects.append(done.item)
            else:
                yield done
        for item in suspects:
            yield from self._run(function, [item])

    def _run(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Done]:
        from distributed import as_completed

        futures = {self._client.submit(function, item, pure=False): item for item in items}
        for future in as_completed(futures):
            error = future.exception()
            if error is None:
                yield Done(futures[future], future.result())
            elif isinstance(error, Exception):
                yield Done(futures[future], error=error)
            else:
                raise error
            future.release()


@contextmanager
def open_cluster(settings: Settings) -> Iterator[Cluster]:
    """The cluster that `settings.cluster` names, closed at the end if it was started here.

    Raises:
        ClusterError: a scheduler does not answer, or GPU workers are wanted where no GPU is.
    """
    kind = settings.cluster
    if kind == "auto":
        kind = "cuda" if resolve_device(settings.device) == "cuda" else "local"
    if kind == "inline":
        yield InlineCluster()
        return
    opened = _remote(kind) if "://" in kind else _cuda(settings) if kind == "cuda" else _local(settings)
    with opened as client:
        yield DaskCluster(client)


@contextmanager
def _local(settings: Settings) -> Iterator[Any]:
    """CPU workers, each with its share of the cores for decoding and matrix products."""
    from distributed import Client, LocalCluster

    workers = settings.local_workers()
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    shares = {name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=_ANY_PORT, env=shares) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def _cuda(settings: Settings) -> Iterator[Any]:
    """One worker a GPU."""
    try:
        from dask_cuda import LocalCUDACluster
        from distributed import Client

        cluster = LocalCUDACluster(n_workers=settings.workers, threads_per_worker=1, dashboard_address=_ANY_PORT)
    except (ImportError, RuntimeError, OSError) as error:
        raise ClusterError(
            f"cannot start Dask workers on GPUs: {error}. Install the `gpu` extra and see `image-curation doctor`, "
            "or set IMAGE_CURATION_CLUSTER=local."
        ) from error
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def _remote(address: str) -> Iterator[Any]:
    """A cluster that runs elsewhere; its workers need this package and the same storage."""
    from distributed import Client

    try:
        client = Client(address, timeout="20s")
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler answers at {address}: {error}. Check IMAGE_CURATION_CLUSTER.") from error
    with client:
        yield client
