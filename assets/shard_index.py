"""The asset `shard_index`: what is in each tar."""

from collections.abc import Sequence
from functools import partial

import dagster as dg

from assets.metadata import Metadata, counts, link
from assets.partitions import backfill_policy, shards
from assets.shard_step import OWNERS, materialize_shards, summed
from assets.tars import partitions_to_index
from assets.versions import LOADED
from image_curation.steps.outcome import Outcome
from image_curation.steps.shard_index import build_shard_index
from resources.cluster import DaskResource
from resources.curation import Curation


@dg.asset(
    partitions_def=shards,
    backfill_policy=backfill_policy,
    code_version=LOADED["shard_index"],
    group_name="images",
    kinds={"parquet", "dask"},
    owners=OWNERS,
)
def shard_index(
    context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
) -> dg.MaterializeResult[None]:
    """One row a sample: where its members lie in the tar, caption, header, content hash, and what is wrong with it."""
    project = curation.project()
    step = partial(build_shard_index, project)
    found = partitions_to_index(project, list(context.partition_keys))
    return materialize_shards(context, cluster, project, step, _describe, found=found)


def _describe(outcomes: Sequence[Outcome]) -> Metadata:
    facts = [one.artifact.facts for one in outcomes]
    damages = [damage for one in facts if (damage := one["unreadable"] or one["problem"])]
    return {
        "samples": counts(summed(outcomes, "statuses"), "status"),
        "damage": "; ".join(damages) or "none",
        "strays": sum(len(one["strays"]) for one in facts),
        "tar": link(facts[0]["url"]),
        "tar_megabytes": round(sum(one["bytes"] for one in facts) / 1e6, 2),
    }
