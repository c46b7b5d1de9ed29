"""Clusters: inline, local Dask, by address. An error or a dead worker costs its task; results do not depend on it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import dask
import pytest

import image_curation.cluster
from image_curation.cluster import AutoCluster, DaskCluster, InlineCluster, Stage, add_cpu_workers, open_cluster
from image_curation.config import Settings
from image_curation.curate import curate
from image_curation.errors import ClusterError, StorageError
from image_curation.shards.discover import Shard

distributed = pytest.importorskip("distributed")

ANY_PORT = "127.0.0.1:0"


def settings(cluster: str, **others) -> Settings:
    return Settings(source="/raw", root="/out", cluster=cluster, device="cpu", **others)


def step(function: Callable) -> list[Stage]:
    return [Stage("step", function)]


@pytest.fixture(scope="module")
def address():
    """The address of a scheduler with two worker processes, as a cluster that runs elsewhere has one."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=ANY_PORT) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def two_workers(address):
    with open_cluster(settings(address)) as cluster:
        assert isinstance(cluster, DaskCluster)
        yield cluster


@pytest.fixture
def log(tmp_path) -> Callable[[str], list[str]]:
    """Adds a line to a file, from any process, and gives all lines."""
    path = tmp_path / "log"

    def add(line: str = "") -> list[str]:
        with open(path, "a") as file:
            file.write(f"{line}\n" if line else "")
        return path.read_text().split()

    return add


def test_inline_takes_each_item_through_all_stages_and_an_error_ends_its_way():
    def halve(n: int) -> int:
        if n % 2:
            raise StorageError(f"{n} is odd")
        return n // 2

    with open_cluster(settings("inline")) as cluster:
        assert isinstance(cluster, InlineCluster)
        done = list(cluster.run([Stage("halve", halve), Stage("negate", lambda n: -n)], [4, 3, 8]))
    assert [(one.item, one.stage, one.result) for one in done] == [
        (4, "halve", 2),
        (4, "negate", -4),
        (3, "halve", None),
        (8, "halve", 4),
        (8, "negate", -8),
    ]
    assert [str(one.error) for one in done if one.error] == ["3 is odd"]


def test_inline_is_lazy_so_that_progress_can_be_shown():
    started = []
    results = InlineCluster().run(step(started.append), [1, 2])
    next(results)
    assert started == [1]


def tars(*sizes: int) -> list[Shard]:
    return [Shard(str(n), f"/raw/{n}.tar", size, "1") for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("first_job", "small"),
    [
        (["alone"], True),
        (tars(1 << 40), True),
        (tars(1 << 25, 1 << 25), True),
        (tars(1 << 25, 1 << 25, 1), False),
        (["of", "unknown", "size"], False),
    ],
)
def test_auto_starts_workers_unless_the_first_job_is_small(first_job, small):
    def processes(items: list) -> set[int]:
        return {one.result for one in cluster.run(step(lambda _: os.getpid()), items)}

    with open_cluster(settings("auto", workers=1)) as cluster:
        assert isinstance(cluster, AutoCluster)
        (process,) = processes(first_job)
        assert (process == os.getpid()) == small
        assert processes(["alone"]) == processes(["of", "unknown", "size"]) == {process}
    if not small:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_dask_takes_every_item_through_all_stages_once_and_an_error_ends_its_way(two_workers, log):
    def first(n: int) -> int:
        log(f"first-{n}")
        if n == 3:
            raise StorageError("3 is refused")
        return os.getpid()

    def second(n: int) -> int:
        assert f"first-{n}" in log(f"second-{n}")
        return n * n

    done = {(one.stage, one.item): one for one in two_workers.run([Stage("a", first), Stage("b", second)], range(8))}
    assert sorted(done) == [("a", n) for n in range(8)] + [("b", n) for n in range(8) if n != 3]
    assert sorted(log()) == sorted([f"first-{n}" for n in range(8)] + [f"second-{n}" for n in range(8) if n != 3])
    refused = done.pop(("a", 3)).error
    assert isinstance(refused, StorageError)
    assert str(refused) == "3 is refused"
    assert all(one.error is None for one in done.values())
    assert os.getpid() not in {one.result for (stage, _), one in done.items() if stage == "a"}
    assert {n: one.result for (stage, n), one in done.items() if stage == "b"} == {n: n * n for n in range(8) if n != 3}


def test_equal_items_are_run_each_by_itself(two_workers):
    assert [one.result for one in two_workers.run(step(len), ["ab", "ab", "ab"])] == [2, 2, 2]


def test_few_items_are_on_their_way_at_once_and_the_first_are_finished_before_the_last_begin(log):
    """Begun, minus finished, is never more than the window, however many items there are."""
    taken = []

    def items() -> Iterator[int]:
        for n in range(40):
            taken.append(n)
            yield n

    stages = [Stage("begin", lambda n: log(f"begin-{n}")), Stage("finish", lambda n: log(f"finish-{n}"))]
    window = image_curation.cluster._AHEAD  # one thread
    finished = 0
    with open_cluster(settings("local", workers=1)) as cluster:
        for done in cluster.run(stages, items()):
            assert len(taken) <= window + finished + 1
            finished += done.stage == "finish"
    assert finished == 40
    lines = [line.split("-")[0] for line in log()]
    assert len(lines) == 80
    ahead = [lines[:n].count("begin") - lines[:n].count("finish") for n in range(81)]
    assert 1 <= max(ahead) <= window


def test_gpu_stages_run_on_workers_with_a_gpu_and_cpu_stages_beside_them():
    """Workers that only say that they have a GPU, for Dask does not look."""

    def place(_: int) -> tuple[int, str | None]:
        time.sleep(0.05)
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")

    def span(_: int) -> tuple[int, float, float]:
        begun = time.time()
        time.sleep(0.1)
        return os.getpid(), begun, time.time()

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=3, resources={"GPU": 3}, dashboard_address=ANY_PORT
    ) as gpus:
        add_cpu_workers(gpus, 2)
        with open_cluster(settings(gpus.scheduler_address)) as cluster:
            stages = [Stage("index", place), Stage("embed", place, "gpu"), Stage("score", place)]
            done = list(cluster.run(stages, range(30)))
            alone = list(cluster.run([Stage("fill", span, "gpu", alone=True)], range(8)))
    for process in {one.result[0] for one in alone}:
        spans = sorted(one.result[1:] for one in alone if one.result[0] == process)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert len({one.result[0] for one in alone}) == 2
    assert all(one.error is None for one in done)
    places = {name: {one.result for one in done if one.stage == name} for name in ("index", "embed", "score")}
    (gpu_visible,) = {visible for _, visible in places["embed"]}
    assert gpu_visible == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert {visible for _, visible in places["index"] | places["score"]} == {""}
    assert len(places["embed"]) == len(places["index"] | places["score"]) == 2
    for process, _ in places["embed"] | places["index"]:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_worker_that_dies_costs_a_retry_of_its_task(two_workers, tmp_path):
    mark = str(tmp_path / "died")

    def die_once(n: int) -> int:
        if n == 2 and not os.path.exists(mark):
            open(mark, "w").close()
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        return n * n

    stages = [Stage("before", abs), Stage("die", die_once), Stage("after", abs)]
    done = [(one.stage, one.item, one.error) for one in two_workers.run(stages, range(5))]
    assert Path(mark).exists()
    assert sorted(done) == [(name, n, None) for name in ("after", "before", "die") for n in range(5)]


def test_task_that_kills_every_worker_costs_only_its_item():
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
        stages = [Stage("before", abs), Stage("die", die_on_three), Stage("after", abs)]
        done = {(one.stage, one.item): one for one in cluster.run(stages, range(12))}
        time.sleep(2)
    assert type(done.pop(("die", 3)).error).__name__ == "KilledWorker"
    left = [("after", n) for n in range(12) if n != 3] + [("before", n) for n in range(12)]
    assert sorted(done) == left + [("die", n) for n in range(12) if n != 3]
    assert all(one.error is None for one in done.values())


def test_scheduler_that_goes_away_is_no_fault_of_the_items():
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=ANY_PORT) as elsewhere:
        address = elsewhere.scheduler_address
        with open_cluster(settings(address)) as cluster:
            results = cluster.run(step(lambda n: time.sleep(n)), [0, 60])
            assert next(results).item == 0
            elsewhere.close()
            with pytest.raises(ClusterError, match=rf"the Dask scheduler at {address} went away"):
                next(results)


def test_two_dask_workers_give_the_same_bytes_as_one_process(address, tmp_path, workshop):
    photo = workshop.photo
    shards = {
        name: {f"{seed}.jpg": photo(seed) for seed in range(start, start + 4)} | {"same.jpg": photo(99), "x.txt": b"x"}
        for start, name in enumerate("abc")
    }
    raw = workshop.source(tmp_path / "raw", shards)
    inline = workshop.run(workshop.project(raw, tmp_path / "inline"))
    project = workshop.project(raw, tmp_path / "dask", cluster=address)
    with open_cluster(project.settings) as cluster:
        distributed = curate(project, cluster, lambda *_: None)
    assert distributed.ledger == inline.ledger
    assert inline.ledger.kept < inline.ledger.read
    assert distributed.failed_shards == {}
    without = ("image-curation.json", "report/")
    assert workshop.hashes(tmp_path / "dask", *without) == workshop.hashes(tmp_path / "inline", *without)


def test_local_cluster_has_the_workers_that_were_asked_for_and_is_closed_at_the_end():
    with open_cluster(settings("local", workers=1)) as cluster:
        (process,) = {one.result for one in cluster.run(step(lambda _: os.getpid()), range(3))}
        (threads,) = cluster.run(step(lambda _: os.environ["OMP_NUM_THREADS"]), [0])
    assert process != os.getpid()
    assert threads.result == str(os.cpu_count())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_address_that_nobody_can_answer_at():
    with (
        pytest.raises(ClusterError, match=r"no Dask scheduler answers at smoke://signal:8786.*IMAGE_CURATION_CLUSTER"),
        open_cluster(settings("smoke://signal:8786")),
    ):
        pass


def test_scheduler_without_workers(monkeypatch):
    monkeypatch.setattr(image_curation.cluster, "_FIRST_WORKER_S", 1)
    with distributed.LocalCluster(n_workers=0, dashboard_address=ANY_PORT) as elsewhere:
        address = elsewhere.scheduler_address
        with (
            pytest.raises(ClusterError, match=rf"scheduler at {address} has had no worker for 1 s.*deploy/README"),
            open_cluster(settings(address)),
        ):
            pass


@pytest.mark.parametrize(("found", "wanted"), [(0, None), (2, 4)])
def test_more_gpu_workers_than_gpus(monkeypatch, found, wanted):
    monkeypatch.setattr(image_curation.cluster, "gpu_count", lambda: found)
    with (
        pytest.raises(ClusterError, match=rf"cannot start {wanted or 1} Dask workers on GPUs: there are {found} GPUs"),
        open_cluster(settings("cuda", workers=wanted)),
    ):
        pass


def test_gpu_workers_without_their_package(monkeypatch):
    monkeypatch.setattr(image_curation.cluster, "gpu_count", lambda: 1)
    monkeypatch.setitem(sys.modules, "dask_cuda", None)
    with (
        pytest.raises(ClusterError, match=r"cannot start Dask workers on GPUs: .*dask_cuda.*`gpu` extra"),
        open_cluster(settings("cuda")),
    ):
        pass
