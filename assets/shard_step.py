"""Run a step over the shards of a run on the cluster, and record each shard as a materialization of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from assets.metadata import Metadata, picture
from image_curation.cluster import Device, Done, Stage
from image_curation.steps.outcome import Outcome
from resources.cluster import DaskResource

OWNERS = ["team:curation"]

PICTURED_SHARDS = 20
"""Pictures lie in Dagster's event log; a run over more shards than this shows them in the report only."""


def materialize_shards(
    context: dg.AssetExecutionContext,
    cluster: DaskResource,
    step: Callable[[Any], Outcome],
    items: Sequence[Any],
    describe: Callable[[Outcome], Metadata],
    pictures: Callable[[str], dict[str, bytes]] = lambda _: {},
    device: Device = "cpu",
) -> dg.MaterializeResult[None]:
    """Run `step` over `items` (shard keys or tars) and report every shard with its own metadata.

    Args:
        describe: words and numbers for the metadata of one shard.
        pictures: PNGs for it, by name.
        device: the kind of worker that the step needs.

    Raises:
        Failure: some shards failed. The others are recorded as materialized; the failed ones stay missing and can be
            retried alone.
    """
    finished: dict[str, Metadata] = {}
    failed: dict[str, str] = {}
    stage = Stage(context.asset_key.path[-1], step, device)
    for one in cluster.run([stage], items):
        key = getattr(one.item, "key", one.item)
        if one.error is None:
            shown = pictures(key) if len(items) <= PICTURED_SHARDS else {}
            finished[key] = describe(one.result) | _making(one.result) | {n: picture(png) for n, png in shown.items()}
        else:
            failed[key] = f"{type(one.error).__name__}: {one.error}"
        context.log.info(f"{len(finished) + len(failed)}/{len(items)} {key}: {_said(one)}")
    return record_shards(context, finished, failed)


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
    made: Metadata = {"rows": rows, "reused": outcome.reused, "path": dg.MetadataValue.path(outcome.artifact.url)}
    return made if outcome.reused else made | {"seconds": outcome.seconds, "rows_per_second": rows / outcome.seconds}


def record_shards(
    context: dg.AssetExecutionContext, finished: dict[str, Metadata], failed: dict[str, str]
) -> dg.MaterializeResult[None]:
    """Record each finished shard as a materialization of its own, with its metadata.

    Raises:
        Failure: some shards failed; the text says which and why.
    """
    if not failed:
        for key, metadata in finished.items():
            context.add_asset_metadata(metadata, partition_key=key)
        return dg.MaterializeResult()
    for key, metadata in finished.items():
        context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata))
    raise dg.Failure(
        f"{len(failed)} of {len(failed) + len(finished)} shards failed; the others are recorded. Retry these alone: "
        + "; ".join(f"{key} ({error})" for key, error in list(failed.items())[:5]),
        metadata={"failed_shards": dg.MetadataValue.json(failed)},
        allow_retries=False,
    )
