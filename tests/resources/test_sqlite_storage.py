"""The event log that keeps its files open: what it writes is seen by others at once, and by Dagster's own."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest

import resources.sqlite as ours


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    storage = {"module": "resources.sqlite", "class": "LocalSqliteStorage", "config": {"base_dir": str(tmp_path)}}
    (tmp_path / "dagster.yaml").write_text(
        json.dumps({"storage": {"custom": storage}, "telemetry": {"enabled": False}})
    )
    return tmp_path


def record(instance: dg.DagsterInstance, *keys: str) -> None:
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization("photos", partition=key))


def done(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_materialized_partitions(dg.AssetKey("photos")))


def test_other_process_and_dagsters_own_storage_see_what_was_written_while_it_is_open(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert isinstance(instance.event_log_storage, ours.OpenSqliteEventLog)
        record(instance, "a", "b")
        program = "import dagster as dg, sys; i = dg.DagsterInstance.from_config(sys.argv[1]); "
        program += "print(sorted(i.get_materialized_partitions(dg.AssetKey('photos')))); "
        program += "i.report_runless_asset_event(dg.AssetMaterialization('photos', partition='c'))"
        ran = subprocess.run([sys.executable, "-c", program, home], capture_output=True, text=True, check=True)
        assert ran.stdout == "['a', 'b']\n"
        assert done(instance) == {"a", "b", "c"}
    os.remove(home / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(home)) as plain:
        assert "Open" not in type(plain.event_log_storage).__name__
        assert done(plain) == {"a", "b", "c"}


def test_runs_beyond_the_files_that_stay_open_are_all_in_the_log(home):
    @dg.op
    def say(context):
        context.log.info(context.run_id)

    @dg.job
    def speak():
        say()

    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = [speak.execute_in_process(instance=instance).run_id for _ in range(6)]
        held = instance.event_log_storage._held
        assert len(held) <= ours._OPEN_FILES < len(runs)
        for run in runs:
            assert run in [entry.user_message for entry in instance.all_logs(run)]
    assert held == {}


def test_threads_write_beside_each_other(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        names = [[f"{thread}-{n}" for n in range(20)] for thread in range(4)]
        threads = [threading.Thread(target=record, args=(instance, *some)) for some in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done(instance) == {name for some in names for name in some}


def test_writer_killed_between_two_events_leaves_a_log_with_all_before(home):
    program = "import dagster as dg, os, signal, sys; i = dg.DagsterInstance.from_config(sys.argv[1])\n"
    program += "for n in range(5): i.report_runless_asset_event(dg.AssetMaterialization('photos', partition=str(n)))\n"
    program += "os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", program, home], capture_output=True, check=False)
    assert killed.returncode == -9
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert done(instance) == {str(n) for n in range(5)}
