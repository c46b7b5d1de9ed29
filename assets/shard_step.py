"""Run a step over the tars of a run on the cluster, and record each partition as soon as its tars are done."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from assets.made import tar_version
from assets.metadata import Metadata, picture, speed
from assets.recording import Recorder, recorded
from assets.tars import Partition, content_of, members, tars_of
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
    describe: Callable[[Sequence[Outcome]], Metadata],
    pictures: Callable[[str], dict[str, bytes]] = lambda _: {},
    device: Device = "cpu",
    found: Sequence[Partition] | None = None,
) -> dg.MaterializeResult[None]:
    """Run `step` over the tars of the run's partitions and report each partition with its own metadata.

    Args:
        step: called with a tar's key, or with the tar where partitions are `found`.
        describe: words and numbers for the metadata of one partition, by the outcomes of its tars.
        pictures: PNGs for the metadata of a tar, by name.
        device: the kind of worker that the step needs.
        found: the partitions as the source has them, largest first.

    Raises:
        Failure: some partitions failed. The others are recorded as materialized; the failed ones stay missing and can
            be retried alone.
    """
    recorder, keys = Recorder(context, project), list(context.partition_keys)
    items: Mapping[str, Sequence[Any]]
    if found is None:
        versions = recorder.tars(keys)
        items = members(project.settings, versions)
    else:
        versions = {one.key: tar_version(one.fingerprint) for one in found}
        items = {one.key: tars_of(one) for one in found}
    left = recorder.left(versions)
    failed = dict.fromkeys(sorted(left - items.keys()), "its tars have changed: materialize its shard_index first")
    doing = [key for key in versions if key in left & items.keys()]
    todo = [item for key in doing for item in items[key]]
    home = {_key(item): key for key in doing for item in items[key]}
    made: dict[str, dict[str, Outcome]] = {key: {} for key in doing}
    told_at = time.monotonic()
    with recorder.writing():
        for n, one in enumerate(cluster.run([Stage(context.asset_key.path[-1], step, device)], todo), 1):
            key, tar = home[_key(one.item)], _key(one.item)
            if one.error is not None:
                failed[key] = f"{'' if tar == key else f'{tar}: '}{type(one.error).__name__}: {one.error}"
            else:
                made[key][tar] = one.result
                if len(made[key]) == len(items[key]):
                    done = dict(sorted(made.pop(key).items()))
                    shown = pictures(tar) if len(todo) <= PICTURED_SHARDS and len(done) == 1 else {}
                    words = {name: picture(png) for name, png in shown.items()} | _making(list(done.values()))
                    content = content_of(key, {tar: outcome.artifact.content for tar, outcome in done.items()})
                    recorder.record(key, describe(list(done.values())) | words, content, versions[key])
            if one.error is not None or n == len(todo) or time.monotonic() > told_at + TELL_EVERY_S:
                told_at = time.monotonic()
                context.log.info(f"{n}/{len(todo)} {tar}: {_said(one)}")
    return recorded(failed, len(keys))


def _key(item: Any) -> str:
    return str(getattr(item, "key", item))


def _said(one: Done) -> str:
    if one.error is not None:
        return f"failed: {one.error}"
    return (
        "already made, reused"
        if one.result.reused
        else f"{one.result.artifact.rows:,} rows, {one.result.seconds:.2f} s"
    )


def summed(outcomes: Sequence[Outcome], fact: str) -> dict[str, int]:
    """Counts by name that are a fact of each outcome, of all together."""
    counts = Counter[str]()
    for one in outcomes:
        counts.update(one.artifact.facts[fact])
    return dict(sorted(counts.items()))


def made_of(outcomes: Sequence[Outcome]) -> Metadata:
    """What there is to say of artifacts of any kind: one's own place, or the folder of the first of many."""
    url = outcomes[0].artifact.url
    return {
        "rows": sum(one.artifact.rows for one in outcomes),
        "reused": all(one.reused for one in outcomes),
        "path": dg.MetadataValue.path(url if len(outcomes) == 1 else url.rpartition("/")[0]),
    } | ({"tars": len(outcomes)} if len(outcomes) > 1 else {})


def _making(outcomes: Sequence[Outcome]) -> Metadata:
    new = [one for one in outcomes if not one.reused]
    took = speed(sum(one.artifact.rows for one in new), sum(one.seconds for one in new)) if new else {}
    return took | made_of(outcomes)
