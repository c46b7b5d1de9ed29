"""How Dagster bears many shards: registering and listing them, the pages that show them, a backfill, the sensor's tick.

    python benchmarks/partitions.py [--sqlite 10000] [--postgres 100000] [--first-run-s 300]

The log is filled with one materialization of each shard for each of the five assets that are made shard by shard; the
pages' questions are asked over HTTP of a Dagster that runs beside, whose queue starts nothing.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from postgres_server import postgres

from assets.automation import register
from assets.discovery import Plan, plan, unchanged
from assets.known import known
from assets.made import Made, tar_version
from assets.versions import SAMPLES, versions
from image_curation.shards.discover import Shard

HEALTH = """query Health($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    partitionStats { numMaterialized numPartitions numFailed }
    assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions
    unmaterializedPartitions materializingPartitions } } } } }"""
KEYS = """query Keys($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    partitionKeysByDimension { partitionKeys } latestMaterializationByPartition(partitions: ["s000007"]) { timestamp }
    } } }"""
BACKFILL = """mutation Backfill($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
    ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""

Storage = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sqlite", type=int, default=10_000, help="shards; 0 leaves it out")
    parser.add_argument("--postgres", type=int, default=100_000, help="shards; 0 leaves it out")
    parser.add_argument("--first-run-s", type=float, default=300, help="how long to wait for a backfill's first run")
    options = parser.parse_args()
    table: dict[str, dict[str, str]] = {}
    if options.sqlite:
        table[f"SQLite {options.sqlite:,}"] = measured(options.sqlite, None, options.first_run_s)
    if options.postgres:
        with postgres() as storage:
            table[f"PostgreSQL {options.postgres:,}"] = measured(options.postgres, storage, options.first_run_s)
    print(f"\n{'seconds':<44}" + "".join(f"{name:>22}" for name in table))
    for row in next(iter(table.values())):
        print(f"{row:<44}" + "".join(f"{column[row]:>22}" for column in table.values()))


def measured(count: int, storage: Storage | None, patience_s: float) -> dict[str, str]:
    """What is done -> seconds, on a new instance with this many shards."""
    times: dict[str, str] = {}

    def time_of(what: str, action: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = action()
        times[what] = f"{time.perf_counter() - begun:.2f}"
        print(f"{count:>8,}  {what:<44}{times[what]:>10}", flush=True)
        return result

    found = [Shard(f"s{n:06}", f"/raw/s{n:06}.tar", 1, str(n)) for n in range(count)]
    keys = [shard.key for shard in found]
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        config: dict[str, Any] = {"telemetry": {"enabled": False}, "concurrency": {"runs": {"max_concurrent_runs": 0}}}
        Path(home, "dagster.yaml").write_text(json.dumps(config | ({"storage": storage} if storage else {})))
        instance = stack.enter_context(dg.DagsterInstance.from_config(home))
        now = versions(None)
        time_of("register all", lambda: register(instance, Plan(tuple(keys), (), (), "", 0, keys[0])))
        time_of("list them", lambda: instance.get_dynamic_partitions("shards"))
        for asset in SAMPLES:
            fill(instance, asset, found, now[asset])
        time_of("sensor: the source is unchanged", lambda: unchanged(found, keys, ""))
        seen = time_of("sensor: what is on record", lambda: known(instance, keys))
        todo = time_of("sensor: the decision", lambda: plan(found, seen, now, stale=True, shards_per_run=500))
        assert (todo.batches, todo.release != "") == ((), True)
        ask = stack.enter_context(webserver(home))
        for page, query in (("health of its partitions", HEALTH), ("keys, one of them in detail", KEYS)):
            time_of(f"asset page, first: {page}", lambda query=query: ask(query, key={"path": ["embeddings"]}))
            time_of(f"asset page, again: {page}", lambda query=query: ask(query, key={"path": ["embeddings"]}))
        health = ask(HEALTH, key={"path": ["embeddings"]})["assetNodeOrError"]["partitionStats"]
        assert health["numMaterialized"] == health["numPartitions"] == count, health
        params = {"assetSelection": [{"path": [asset]} for asset in SAMPLES], "partitionNames": keys, "tags": []}
        time_of("launch a backfill of all", lambda: ask(BACKFILL, params=params))
        time_of("its first run is in the queue after", lambda: wait_for_runs(instance, patience_s))
    return times


def fill(instance: dg.DagsterInstance, asset: str, found: list[Shard], code: str) -> None:
    """Put a materialization of each shard into the log, as copies of one that Dagster wrote."""
    from dagster._core.storage.event_log.schema import AssetEventTagsTable, SqlEventLogStorageTable

    template = str(Made("TARTARTARTAR", code, "c" * 16))
    tags = {"dagster/data_version": template, "dagster/code_version": code}
    log: Any = instance.event_log_storage
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition="PARTITION", tags=tags))
    with log.index_connection() as connection:
        columns = SqlEventLogStorageTable.c
        query = SqlEventLogStorageTable.select().where(columns.partition == "PARTITION").order_by(columns.id.desc())
        row = dict(connection.execute(query).fetchone()._mapping)
        number = row.pop("id")
        for start in range(0, len(found), 10_000):
            events, marks = [], []
            for n, shard in enumerate(found[start : start + 10_000], number + 1 + start):
                tar = tar_version(shard.fingerprint)
                text = row["event"].replace("PARTITION", shard.key).replace("TARTARTARTAR", tar)
                events.append(row | {"id": n, "partition": shard.key, "event": text})
                value = template.replace("TARTARTARTAR", tar)
                mark = {"asset_key": row["asset_key"], "key": "dagster/data_version", "value": value}
                marks.append(mark | {"event_id": n, "event_timestamp": row["timestamp"]})
            connection.execute(SqlEventLogStorageTable.insert(), events)
            connection.execute(AssetEventTagsTable.insert(), marks)
        if "postgresql" in str(connection.engine.url):
            connection.exec_driver_sql("SELECT setval('event_logs_id_seq', (SELECT max(id) FROM event_logs))")


@contextmanager
def webserver(home: str) -> Iterator[Callable[..., Any]]:
    """Webserver and daemon on this home; gives a function that asks the webserver."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [Path(sys.executable).parent / "dagster", "dev", "-h", "127.0.0.1", "-p", port]
    with Path(home, "log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | {"DAGSTER_HOME": home}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{url}/server_info", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)

        def ask(query: str, **variables: Any) -> Any:
            body = json.dumps({"query": query, "variables": variables}).encode()
            request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=600) as answer:
                said = json.load(answer)
            if "errors" in said or any("message" in value for value in said["data"].values()):
                raise SystemExit(f"Dagster's webserver answers {str(said)[:2000]}")
            return said["data"]

        yield ask
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for_runs(instance: dg.DagsterInstance, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not instance.get_runs(limit=1):
        if time.monotonic() > deadline:
            raise SystemExit(f"no run of the backfill is in the queue after {patience_s:g} s")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
