"""Clusters: inline, local Dask, by address. An error or a dead worker costs its task; results do not depend on it."""

import os
import signal
import time
from pathlib import Path

import dask
import pytest

from image_curation.cluster import DaskCluster, InlineCluster, open_cluster
from image_curation.config import Settings
from image_curation.curate import curate
from image_curation.errors import ClusterError, StorageError


def settings(cluster: str, **others) -> Settings:
    return Settings(source="/raw", root="/out", cluster=cluster, device="cpu", **others)


@pytest.fixture(scope="module")
def address():
    """The address of a scheduler with two worker processes, as a cluster that runs elsewhere has one."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def two_workers(address):
    with open_cluster(settings(address)) as cluster:
        assert isinstance(cluster, DaskCluster)
        yield cluster


def test_inline_runs_each_item_here_and_an_error_costs_its_item():
    def halve(n: int) -> int:
        if n % 2:
            raise StorageError(f"{n} is odd")
        return n // 2

    with open_cluster(settings("inline")) as cluster:
        assert isinstance(cluster, InlineCluster)
        done = list(cluster.map(halve, [4, 3, 8]))
    assert [(one.item, one.result) for one in done] == [(4, 2), (3, None), (8, 4)]
    assert str(done[1].error) == "3 is odd"
    assert done[0].error is done[2].error is None


def test_inline_is_lazy_so_that_progress_can_be_shown():
    started = []
    results = InlineCluster().map(started.append, [1, 2])
    next(results)
    assert started == [1]


def test_dask_runs_every_item_once_in_other_processes_and_an_error_costs_its_item(two_workers):
    def process(n: int) -> tuple[int, int]:
        if n == 3:
            raise StorageError("3 is refused")
        return n, os.getpid()

    done = {one.item: one for one in two_workers.map(process, range(8))}
    assert sorted(done) == list(range(8))
    assert isinstance(done[3].error, StorageError)
    assert str(done[3].error) == "3 is refused"
    results = {n: one.result for n, one in done.items() if n != 3}
    assert all(result[0] == n for n, result in results.items())
    assert os.getpid() not in {process for _, process in results.values()}


def test_equal_items_are_run_each_by_itself(two_workers):
    assert [one.result for one in two_workers.map(len, ["ab", "ab", "ab"])] == [2, 2, 2]


def test_worker_that_dies_costs_a_retry_of_its_task(two_workers, tmp_path):
    mark = str(tmp_path / "died")

    def die_once(n: int) -> int:
        if n == 2 and not os.path.exists(mark):
            open(mark, "w").close()
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        return n * n

    done = {one.item: (one.result, one.error) for one in two_workers.map(die_once, range(5))}
    assert Path(mark).exists()
    assert done == {n: (n * n, None) for n in range(5)}


def test_task_that_kills_every_worker_costs_only_itself():
    """With no death allowed, Dask gives up all tasks that its worker had been given, at the first."""

    def die_on_three(n: int) -> int:
        time.sleep(1 if n == 3 else 0.2)  # a worker that dies while it starts can hang Dask's own shutdown
        if n == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        open_cluster(settings("local", workers=2)) as cluster,
    ):
        done = {one.item: one for one in cluster.map(die_on_three, range(12))}
        time.sleep(2)
    assert type(done.pop(3).error).__name__ == "KilledWorker"
    assert {n: one.result for n, one in done.items()} == {n: n for n in range(12) if n != 3}


def test_two_dask_workers_give_the_same_bytes_as_one_process(address, tmp_path, workshop):
    photo = workshop.photo
    shards = {
        name: {f"{seed}.jpg": photo(seed) for seed in range(start, start + 4)} | {"same.jpg": photo(99), "x.txt": b"x"}
        for start, name in enumerate("abc")
    }
    raw = workshop.source(tmp_path / "raw", shards)
    inline = workshop.run(workshop.project(raw, tmp_path / "inline"))
    project = workshop.project(raw, tmp_path / "dask", cluster=address, batch_size=3)
    with open_cluster(project.settings) as cluster:
        distributed = curate(project, cluster, lambda *_: None)
    assert distributed.ledger == inline.ledger
    assert inline.ledger.kept < inline.ledger.read
    assert distributed.failed_shards == {}
    without = ("image-curation.json", "report/")
    assert workshop.hashes(tmp_path / "dask", *without) == workshop.hashes(tmp_path / "inline", *without)


def test_local_cluster_has_the_workers_that_were_asked_for_and_is_closed_at_the_end():
    with open_cluster(settings("local", workers=1)) as cluster:
        (process,) = {one.result for one in cluster.map(lambda _: os.getpid(), range(3))}
        threads = next(cluster.map(lambda _: os.environ["OMP_NUM_THREADS"], [0])).result
    assert process != os.getpid()
    assert threads == str(os.cpu_count())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_address_that_nobody_can_answer_at():
    with (
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at smoke://signal:8786.*IMAGE_CURATION_CLUSTER"),
        open_cluster(settings("smoke://signal:8786")),
    ):
        pass


def test_gpu_workers_without_a_gpu():
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with (
        pytest.raises(ClusterError, match=r"cannot start Dask workers on GPUs.*`gpu` extra"),
        open_cluster(settings("cuda")),
    ):
        pass
