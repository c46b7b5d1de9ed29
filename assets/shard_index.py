"""The asset `shard_index`: what is in each tar."""

from functools import partial

import dagster as dg

from assets.metadata import Metadata, counts, link
from assets.partitions import backfill_policy, shards, tars
from assets.shard_step import OWNERS, materialize_shards
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
    found = {tar.key: tar for tar in tars(project, list(context.partition_keys))}
    return materialize_shards(context, cluster, project, step, _describe, tars=found)


def _describe(outcome: Outcome) -> Metadata:
    facts = outcome.artifact.facts
    return {
        "samples": counts(facts["statuses"], "status"),
        "damage": facts["unreadable"] or facts["problem"] or "none",
        "strays": len(facts["strays"]),
        "tar": link(facts["url"]),
        "tar_megabytes": round(facts["bytes"] / 1e6, 2),
    }
