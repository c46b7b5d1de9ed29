"""Backfills as the UI launches them: batches, failed shards retried alone, and processes killed in the middle."""

import os
import re
import shutil
import signal
from pathlib import Path

import dagster as dg

from assets.partitions import asked_for
from assets.versions import SAMPLES

BACKFILL = """mutation Backfill($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
REEXECUTE = """mutation Again($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
    ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""


def backfill(site, assets, shards) -> None:
    selection = [{"path": [asset]} for asset in assets]
    before = len(site.runs())
    site.ask(BACKFILL, params={"assetSelection": selection, "partitionNames": list(shards), "tags": []})
    site.until(lambda: len(site.runs()) > before, "the backfill starts no run")


def ended(site, runs: int, seconds: float = 300) -> None:
    """Until there are so many runs, all of which have ended."""
    site.until(lambda: len(site.runs()) == runs and site.settled(), f"{runs} runs do not end", seconds)


def register(site, shards) -> None:
    with site.instance() as instance:
        instance.add_dynamic_partitions("shards", list(shards))


def test_three_of_thirty_shards_fail_and_exactly_these_are_retried(site, demo):
    shards = [f"s{n:02}" for n in range(30)]
    running = site({"IMAGE_CURATION_SHARDS_PER_RUN": "10"})
    for shard, key in zip(shards, demo.plain() * 2, strict=False):
        demo.pack(Path(running.source) / f"{shard}.tar", key)
    in_the_way = [Path(running.root) / "embeddings/embedded" / f"{shard}.parquet" for shard in ("s03", "s11", "s12")]
    for folder in in_the_way:
        folder.mkdir(parents=True)
    register(running, shards)

    backfill(running, SAMPLES, shards)
    ended(running, runs=3)

    batches = running.runs()
    assert sorted(tuple(asked_for(run, shards)) for run in batches) == [
        tuple(shards[start : start + 10]) for start in (0, 10, 20)
    ]
    assert [run.status.value for run in sorted(batches, key=lambda run: asked_for(run, shards)[0])] == [
        "FAILURE",
        "FAILURE",
        "SUCCESS",
    ]
    assert running.done("embeddings") == set(shards) - {"s03", "s11", "s12"}
    assert running.done("nsfw_scores") == set(shards[20:])

    for folder in in_the_way:
        folder.rmdir()
    (failed,) = [run for run in batches if "s03" in asked_for(run, shards)]
    running.ask(REEXECUTE, params={"parentRunId": failed.run_id, "strategy": "FROM_FAILURE"})
    backfill(running, SAMPLES, ["s11", "s12"])
    ended(running, runs=5)

    again, mended = running.runs()[3:]
    recorded = running.recorded("embeddings")
    assert {shard for shard, runs in recorded.items() if again.run_id in runs} == {"s03"}
    assert {shard for shard, runs in recorded.items() if mended.run_id in runs} == {"s11", "s12"}
    assert {shard: len(runs) for shard, runs in recorded.items()} == dict.fromkeys(shards, 1)
    assert running.done("nsfw_scores") == {*shards[:10], "s11", "s12", *shards[20:]}


def worker(site) -> int:
    """The process of the run that is going on."""
    (run,) = [run for run in site.runs() if run.status == dg.DagsterRunStatus.STARTED]
    with site.instance() as instance:
        said = [entry.message for entry in instance.all_logs(run.run_id)]
    return int([found[1] for text in said if (found := re.search(r"\(pid: (\d+)\)", text))][-1])


def begun(site, of: int) -> set[str]:
    """Shards that are embedded while others are not yet."""
    found = site.until(lambda: site.done("embeddings"), "nothing is embedded")
    assert len(found) < of
    return found


def test_killed_run_worker_and_killed_dagster_lose_nothing_that_was_recorded(site, demo):
    running = site()
    shards = [f"s{n}" for n in range(8)]
    for n, shard in enumerate(shards):
        shutil.copy(demo.folder / f"demo-0000{n % 6}.tar", Path(running.source) / f"{shard}.tar")
    register(running, shards)
    backfill(running, SAMPLES, shards)

    first = begun(running, of=8)
    os.kill(worker(running), signal.SIGKILL)
    first |= running.done("embeddings")
    running.until(lambda: len(running.runs()) == 2, "the dead run is not started again")
    second = running.until(lambda: running.done("embeddings") - first, "the second run embeds nothing")
    running.kill()
    second |= running.done("embeddings") - first
    assert len(first | second) < 8
    running.start()
    ended(running, runs=3)

    recorded = running.recorded("embeddings")
    assert {shard: len(runs) for shard, runs in recorded.items()} == dict.fromkeys(shards, 1)
    runs = [run.run_id for run in running.runs()]
    assert len(runs) == 3
    assert {shard for shard in shards if recorded[shard] == [runs[0]]} >= first
    assert {shard for shard in shards if recorded[shard] == [runs[1]]} >= second
    assert {shard: len(runs) for shard, runs in running.recorded("shard_index").items()} == dict.fromkeys(shards, 1)
    assert [run.status.value for run in running.runs()] == ["FAILURE", "FAILURE", "SUCCESS"]
    assert running.done("nsfw_scores") == set(shards)
