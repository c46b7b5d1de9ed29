"""The `cluster` resource: opened when a step first needs it, shared by the steps of a run, closed at its end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import distributed
import pytest

import resources.cluster
from image_curation.cluster import Stage
from image_curation.errors import ClusterError
from resources.cluster import DaskResource
from resources.curation import Curation


def square(n: int) -> int:
    if n == 3:
        raise ValueError("three is refused")
    return n * n


def process(_: int) -> int:
    return os.getpid()


SQUARE, PROCESS = [Stage("square", square)], [Stage("process", process)]


class Watched:
    """What was opened and closed, in order, by the real `open_cluster`."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.clusters = []

    @contextmanager
    def open(self, settings) -> Iterator:
        with REAL_OPEN(settings) as cluster:
            self.events.append(f"open {settings.cluster}")
            self.clusters.append(cluster)
            try:
                yield cluster
            finally:
                self.events.append("close")


REAL_OPEN = resources.cluster.open_cluster


@pytest.fixture
def watched(monkeypatch) -> Watched:
    for name in [name for name in os.environ if name.startswith("IMAGE_CURATION_")]:
        monkeypatch.delenv(name)
    watch = Watched()
    monkeypatch.setattr(resources.cluster, "open_cluster", watch.open)
    return watch


@contextmanager
def opened(resource: DaskResource) -> Iterator[DaskResource]:
    """The resource as a run has it."""
    with dg.build_resources({"cluster": resource}) as given:
        yield given.cluster


def dask_resource() -> DaskResource:
    return DaskResource(curation=Curation(source="/data/raw", root="/data/out"))


def test_run_that_needs_no_cluster_opens_none(watched):
    with opened(dask_resource()):
        pass
    assert watched.events == []


def test_steps_share_one_cluster_which_closes_with_the_run(watched, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_CLUSTER", "inline")
    with opened(dask_resource()) as cluster:
        assert [done.result for done in cluster.run(SQUARE, [1, 2])] == [1, 4]
        assert [done.result for done in cluster.run(SQUARE, [4])] == [16]
        assert watched.events == ["open inline"]
    assert watched.events == ["open inline", "close"]


def test_cluster_closes_when_the_run_fails(watched, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_CLUSTER", "inline")
    with pytest.raises(RuntimeError, match="cancelled"):
        cancelled_run()
    assert watched.events == ["open inline", "close"]


def cancelled_run():
    with opened(dask_resource()) as cluster:
        list(cluster.run(SQUARE, [1]))
        raise RuntimeError("cancelled")


def test_second_run_opens_a_cluster_of_its_own(watched, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_CLUSTER", "inline")
    resource = dask_resource()
    for _ in range(2):
        with opened(resource) as cluster:
            assert [done.result for done in cluster.run(SQUARE, [5])] == [25]
    assert watched.events == ["open inline", "close", "open inline", "close"]


def test_local_workers_are_other_processes_and_an_error_costs_its_item(watched, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_CLUSTER", "local")
    monkeypatch.setenv("IMAGE_CURATION_WORKERS", "1")
    with opened(dask_resource()) as cluster:
        (found,) = cluster.run(PROCESS, [0])
        assert found.result != os.getpid()
        done = {one.item: one for one in cluster.run(SQUARE, [1, 2, 3])}
        client = watched.clusters[0].client
        assert client.status == "running"
    assert {item: one.result for item, one in done.items()} == {1: 1, 2: 4, 3: None}
    assert str(done[3].error) == "three is refused"
    assert client.status == "closed"
    with pytest.raises(ProcessLookupError):
        os.kill(found.result, 0)


def test_scheduler_that_does_not_answer_is_named_with_the_variable(watched, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_CLUSTER", "tcp://127.0.0.1:1")
    monkeypatch.setattr(distributed, "Client", impatient(distributed.Client))
    with opened(dask_resource()) as cluster, pytest.raises(ClusterError) as caught:
        list(cluster.run(SQUARE, [1]))
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in str(caught.value)
    assert "IMAGE_CURATION_CLUSTER" in str(caught.value)


def impatient(client):
    """A client that waits for one second."""
    return lambda address, timeout: client(address, timeout="1s")
