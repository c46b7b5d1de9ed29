"""The schedule under Dagster's own daemon: a night takes up what is new, changed and gone, and makes the release."""

import json
from pathlib import Path

import dagster as dg

START = """mutation Start($schedule: ScheduleSelector!) { startSchedule(scheduleSelector: $schedule) {
    ... on ScheduleStateResult { scheduleState { status } } ... on PythonError { message } } }"""
SCHEDULE = {"repositoryName": "__repository__", "repositoryLocationName": "image-curation", "scheduleName": "nightly"}


def test_each_night_the_release_is_that_of_the_source(site, demo):
    running = site({"IMAGE_CURATION_NIGHTLY_AT": "* * * * *"})  # a night a minute
    raw, keys = Path(running.source), demo.plain()
    demo.pack(raw / "a.tar", *keys[:2])
    demo.pack(raw / "b.tar", *keys[2:4])
    running.ask(START, schedule=SCHEDULE)

    def released(images: int) -> bool:
        manifest = Path(running.root) / "release" / "manifest.json"
        return manifest.exists() and json.loads(manifest.read_text())["ledger"]["read"] == images and running.settled()

    running.until(lambda: released(4), "no release in the first night")
    (raw / "a.tar").unlink()
    demo.pack(raw / "b.tar", *keys[2:5])
    running.until(lambda: released(3), "no release in the second night")
    indexed = running.recorded("shard_index")
    assert {shard: len(runs) for shard, runs in indexed.items()} == {"a": 1, "b": 2}
    with running.instance() as instance:
        assert instance.get_dynamic_partitions("shards") == ["b"]
    assert all(run.status == dg.DagsterRunStatus.SUCCESS for run in running.runs())
