"""`dagster.yaml` as Dagster loads it, the graph on a real PostgreSQL, and runs whose process is gone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.launcher import WorkerStatus

from assets.definitions import defs
from assets.versions import SAMPLES
from benchmarks.postgres_server import missing, postgres
from resources.launcher import LocalRunLauncher, _lives

REPOSITORY = Path(__file__).resolve().parents[2]
INSTANCE = (REPOSITORY / "dagster.yaml").read_text()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text(INSTANCE)
    return tmp_path


def test_instance_has_a_queue_a_pool_monitoring_retries_and_retention(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        config = instance.get_concurrency_config()
        assert config.run_queue_config.max_concurrent_runs == 1
        assert config.pool_config.default_pool_limit == 1
        assert instance.run_monitoring_enabled
        assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 2)
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert isinstance(instance.run_launcher, LocalRunLauncher)
        sensors = instance.get_tick_retention_settings(InstigatorType.SENSOR)
        assert {status.value: days for status, days in sensors.items()}.items() >= {("SKIPPED", 7), ("FAILURE", 30)}


def test_steps_that_use_a_gpu_share_its_pool_and_no_others():
    graph = defs.resolve_asset_graph()
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.get_all_asset_keys()}
    heavy = {"embeddings", "duplicate_groups", "trained_classifier"}
    assert {name for name, pool in pools.items() if pool == {"gpu"}} == heavy
    assert {name for name, pool in pools.items() if pool} == heavy


def commented(section: str) -> dict:
    """A section of dagster.yaml that stands there as a comment."""
    lines = INSTANCE.splitlines()
    start = lines.index(f"# {section}:")
    end = next(n for n, line in enumerate(lines[start:], start) if not line.startswith("#"))
    loaded: dict = yaml.safe_load("\n".join(line[2:] for line in lines[start:end]))
    return loaded


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_graph_runs_on_postgresql_as_the_comment_in_dagster_yaml_says(graph, demo, home, monkeypatch):
    demo.pack(graph.source / "a.tar", demo.plain()[0])
    demo.pack(graph.source / "b.tar", demo.plain()[1])
    monkeypatch.setenv("DAGSTER_POSTGRES_PASSWORD", "")
    storage = commented("storage")
    assert storage["storage"]["postgres"]["postgres_db"]["password"] == {"env": "DAGSTER_POSTGRES_PASSWORD"}
    with postgres() as server:
        storage["storage"]["postgres"]["postgres_db"] |= server["postgres"]["postgres_db"]
        (home / "dagster.yaml").write_text(yaml.safe_dump(yaml.safe_load(INSTANCE) | storage))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert "Postgres" in type(instance.event_log_storage).__name__
            on_postgres = type(graph)(instance, graph.source, graph.root)
            on_postgres.register("a", "b")
            assert on_postgres.run("a", "b").success
            assert {asset: on_postgres.done(asset) for asset in SAMPLES} == {asset: {"a", "b"} for asset in SAMPLES}
            assert on_postgres.released()["read"] == 2


@pytest.fixture
def started(home):
    """A run that is held for started by the process whose number it is given."""
    with dg.DagsterInstance.from_config(str(home)) as instance:

        def start(pid: int) -> WorkerStatus:
            run = instance.create_run_for_job(defs.resolve_job_def("curate"))
            instance.report_engine_event(f"Started process for run (pid: {pid}).", run)
            return instance.run_launcher.check_run_worker_health(run).status

        yield start


def test_run_whose_process_lives_is_left_alone(started):
    assert started(os.getpid()) == WorkerStatus.RUNNING


def test_run_whose_process_is_gone_is_told(started):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert started(child.pid) == WorkerStatus.FAILED


def test_process_that_nobody_has_waited_for_is_dead_all_the_same(started):
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()  # until it ends
    deadline = time.monotonic() + 10
    while started(child.pid) != WorkerStatus.FAILED:
        assert time.monotonic() < deadline
    child.wait()


def test_younger_process_that_has_got_the_number_is_not_taken_for_the_run():
    """As after a reboot."""
    assert _lives(os.getpid(), time.time())
    assert not _lives(os.getpid(), psutil.Process().create_time() - 60)
