"""The sensor under Dagster's own daemon: tars come, change and go, on disk and on S3, and the release follows."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

START = """mutation Start($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) {
    ... on Sensor { name } ... on PythonError { message } } }"""
SENSOR = {"repositoryName": "__repository__", "repositoryLocationName": "image-curation", "sensorName": "new_shards"}


def indexed(site) -> dict[str, int]:
    """Shard -> how often its tar was indexed."""
    return {shard: len(runs) for shard, runs in site.recorded("shard_index").items()}


def releases(site) -> int:
    return len(site.recorded("curated_shards").get("", []))


def come_change_and_go(site, put, remove, read, demo, folder: Path) -> None:
    """Two tars; then one changes, one goes and one comes at once."""
    keys = demo.plain()
    for name, some in {"a": keys[:2], "b": keys[2:4], "c": keys[4:5], "b2": keys[2:6]}.items():
        demo.pack(folder / f"{name}.tar", *some)
    put(folder / "a.tar", "a.tar")
    put(folder / "b.tar", "b.tar")
    site.ask(START, sensor=SENSOR)
    site.until(lambda: releases(site) == 1 and site.settled(), "no release of the first tars")
    assert (read()["ledger"]["read"], indexed(site)) == (4, {"a": 1, "b": 1})

    remove("a.tar")
    put(folder / "b2.tar", "b.tar")
    put(folder / "c.tar", "c.tar")
    site.until(lambda: releases(site) >= 2 and read()["ledger"]["read"] == 5 and site.settled(), "no second release")
    assert {shard: n for shard, n in indexed(site).items() if shard != "b"} == {"a": 1, "c": 1}
    assert indexed(site)["b"] == 2
    with site.instance() as instance:
        assert set(instance.get_dynamic_partitions("shards")) == {"b", "c"}
    assert all(run.status == dg.DagsterRunStatus.SUCCESS for run in site.runs())
    quiet(site)


def quiet(site) -> None:
    """An unchanged source: the next ticks are skipped, and say so."""
    with site.instance() as instance:
        (state,) = instance.all_instigator_state()
        ran = len(site.runs())
        newest = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)[0].timestamp

        def skipped() -> Any:
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)
            return [tick for tick in ticks if tick.timestamp > newest and tick.status.value == "SKIPPED"]

        tick = site.until(skipped, "the sensor does not rest")[0]
    assert tick.skip_reason == "nothing new among the 2 tars in the source"
    assert len(site.runs()) == ran


def test_tars_on_disk_come_change_and_go(site, demo, tmp_path):
    running = site()
    raw = Path(running.source)
    come_change_and_go(
        running,
        put=lambda file, name: shutil.copy(file, raw / f".{name}") and os.replace(raw / f".{name}", raw / name),
        remove=lambda name: os.remove(raw / name),
        read=lambda: json.loads((Path(running.root) / "release" / "manifest.json").read_text()),
        demo=demo,
        folder=tmp_path / "made",
    )


@pytest.fixture
def bucket(s3_server) -> Iterator[Any]:
    """A bucket in an S3 server on loopback."""
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("moto.server")
    with s3_server(os.environ) as url:
        given = {"endpoint_url": url, "region_name": "eu-central-1"}
        store = boto3.resource("s3", **given, aws_access_key_id="key", aws_secret_access_key="secret")
        made = store.Bucket("photos")
        made.create(CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        made.environment = {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": url,
            "IMAGE_CURATION_SOURCE": "s3://photos/raw",
            "IMAGE_CURATION_ROOT": "s3://photos/curated",
        }
        yield made


def test_tars_on_s3_come_change_and_go(site, demo, bucket, tmp_path):
    come_change_and_go(
        site(bucket.environment),
        put=lambda file, name: bucket.upload_file(str(file), f"raw/{name}"),
        remove=lambda name: bucket.Object(f"raw/{name}").delete(),
        read=lambda: json.loads(bucket.Object("curated/release/manifest.json").get()["Body"].read()),
        demo=demo,
        folder=tmp_path / "made",
    )
