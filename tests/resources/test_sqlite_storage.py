"""The event log that keeps its files open: what it writes is seen by others at once, and by Dagster's own."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData

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


def events(run_id: str) -> list[dg.EventLogEntry]:
    """What a run over three partitions of two assets logs as it starts, and as they are done."""
    step = {"job_name": "job", "step_key": "step"}
    planned = [
        DagsterEvent("ASSET_MATERIALIZATION_PLANNED", event_specific_data=data, **step)
        for data in [AssetMaterializationPlannedData(dg.AssetKey("photos"), partition=key) for key in "abc"]
    ]
    check = DagsterEvent(
        "ASSET_CHECK_EVALUATION_PLANNED",
        event_specific_data=AssetCheckEvaluationPlanned(asset_key=dg.AssetKey("photos"), check_name="sharp"),
        **step,
    )
    made = [
        dg.AssetMaterialization(asset, partition=key, tags={"dagster/data_version": f"{asset}-{key}"})
        for asset in ("photos", "vectors")
        for key in "abc"
    ]
    done = [
        DagsterEvent("ASSET_MATERIALIZATION", event_specific_data=StepMaterializationData(one), **step) for one in made
    ]
    return [
        dg.EventLogEntry(
            error_info=None, level=10, user_message="", run_id=run_id, timestamp=1000.0 + n, dagster_event=event
        )
        for n, event in enumerate([*planned, check, *done])
    ]


def seen(instance: dg.DagsterInstance, run_id: str) -> dict[str, object]:
    """All that Dagster reads of these events."""
    log, kind = instance.event_log_storage, dg.DagsterEventType.ASSET_MATERIALIZATION
    keys = [dg.AssetKey("photos"), dg.AssetKey("vectors")]
    records = instance.get_asset_records(keys)
    return {
        "logs": sorted(instance.all_logs(run_id), key=lambda entry: entry.timestamp),
        "partitions": [instance.get_materialized_partitions(key) for key in keys],
        "tags": [log.get_latest_tags_by_partition(key, kind, ["dagster/data_version"]) for key in keys],
        "planned": log.get_latest_asset_partition_materialization_attempts_without_materializations(keys[0]).keys(),
        "last": sorted(record.asset_entry.last_materialization.get_dagster_event().partition for record in records),
        "events": [
            record.event_log_entry
            for key in keys
            for record in instance.fetch_materializations(key, limit=9, ascending=True).records
        ],
        "check": [
            one.status for one in log.get_asset_check_execution_history(dg.AssetCheckKey(keys[0], "sharp"), limit=5)
        ],
    }


def test_batch_of_events_is_read_as_dagsters_own_log_has_them_one_by_one(home, tmp_path_factory):
    run_id = "9f6c5a7e-0000-4000-8000-000000000000"
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("own"))) as plain:
        assert "Open" not in type(plain.event_log_storage).__name__
        for event in events(run_id):
            plain.event_log_storage.store_event(event)
        expected = seen(plain, run_id)
    assert expected["partitions"] == [{"a", "b", "c"}] * 2
    assert len(expected["check"]) == 1
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.event_log_storage.store_event_batch(events(run_id))
        assert seen(instance, run_id) == expected


def test_dagster_hands_events_over_together(home, monkeypatch):
    sizes: list[int] = []
    store = ours.OpenSqliteEventLog.store_event_batch
    monkeypatch.setattr(
        ours.OpenSqliteEventLog, "store_event_batch", lambda log, some: (sizes.append(len(some)), store(log, some))
    )
    partitions = dg.StaticPartitionsDefinition([str(n) for n in range(9)])

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def photos() -> None: ...

    tags = {"dagster/asset_partition_range_start": "0", "dagster/asset_partition_range_end": "8"}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert dg.materialize([photos], instance=instance, tags=tags).success
        assert done(instance) == {str(n) for n in range(9)}
    assert sizes == [9, 9]  # what is planned, and what is done
