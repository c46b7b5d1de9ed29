"""Run a step over the shards of a run on the cluster, and record each shard as soon as it is done."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from assets.made import tar_version
from assets.metadata import Metadata, picture, speed
from assets.recording import Recorder, recorded
from image_curation.cluster import Device, Done, Stage
from image_curation.project import Project
from image_curation.steps.outcome import Outcome
from resources.cluster import DaskResource

OWNERS = ["team:curation"]

PICTURED_SHARDS = 20
"""Pictures lie in Dagster's event log; a run over more shards than this shows them in the report only."""

TELL_EVERY_S = 5
"""A line in Dagster's log costs as much as a materialization, which names its shard too."""


def materialize_shards(
    context: dg.AssetExecutionContext,
    cluster: DaskResource,
    project: Project,
    step: Callable[[Any], Outcome],
    describe: Callable[[Outcome], Metadata],
    pictures: Callable[[str], dict[str, bytes]] = lambda _: {},
    device: Device = "cpu",
    tars: Mapping[str, Any] | None = None,
) -> dg.MaterializeResult[None]:
    """Run `step` over the shards of the run and report every shard with its own metadata.

    Args:
        step: called with the shard's key, or with its tar where `tars` are given.
        describe: words and numbers for the metadata of one shard.
        pictures: PNGs for it, by name.
        device: the kind of worker that the step needs.
        tars: shard -> its tar, largest first.

    Raises:
        Failure: some shards failed. The others are recorded as materialized; the failed ones stay missing and can be
            retried alone.
    """
    recorder, keys = Recorder(context, project), list(context.partition_keys)
    made_of = recorder.tars(keys) if tars is None else {key: tar_version(tar.fingerprint) for key, tar in tars.items()}
    left = recorder.left(made_of)
    items = [key if tars is None else tars[key] for key in made_of if key in left]
    failed: dict[str, str] = {}
    told_at = time.monotonic()
    stage = Stage(context.asset_key.path[-1], step, device)
    with recorder.writing():
        for n, one in enumerate(cluster.run([stage], items), len(keys) - len(items) + 1):
            key = getattr(one.item, "key", one.item)
            if one.error is None:
                shown = pictures(key) if len(items) <= PICTURED_SHARDS else {}
                words = describe(one.result) | {name: picture(png) for name, png in shown.items()} | _making(one.result)
                recorder.record(key, words, one.result.artifact.content, made_of[key])
            else:
                failed[key] = f"{type(one.error).__name__}: {one.error}"
            if one.error is not None or n == len(keys) or time.monotonic() > told_at + TELL_EVERY_S:
                told_at = time.monotonic()
                context.log.info(f"{n}/{len(keys)} {key}: {_said(one)}")
    return recorded(failed, len(keys))


def _said(one: Done) -> str:
    if one.error is not None:
        return f"failed: {one.error}"
    return (
        "already made, reused"
        if one.result.reused
        else f"{one.result.artifact.rows:,} rows, {one.result.seconds:.2f} s"
    )


def _making(outcome: Outcome) -> Metadata:
    rows = outcome.artifact.rows
    took = {} if outcome.reused else speed(rows, outcome.seconds)
    return {"rows": rows} | took | {"reused": outcome.reused, "path": dg.MetadataValue.path(outcome.artifact.url)}
