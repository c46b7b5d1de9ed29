"""The asset `known_matches`: what each sample matches in the evaluation and reference sets."""

from functools import partial

import dagster as dg

from assets.embeddings import embeddings
from assets.metadata import Metadata, counts
from assets.partitions import backfill_policy, shards
from assets.shard_step import OWNERS, materialize_shards, record_shards
from image_curation.steps.known_matches import CODE_VERSION, build_known_matches
from image_curation.steps.outcome import Outcome
from resources.cluster import DaskResource
from resources.curation import Curation


@dg.asset(
    deps=[embeddings],
    partitions_def=shards,
    backfill_policy=backfill_policy,
    code_version=CODE_VERSION,
    group_name="samples",
    kinds={"parquet", "dask"},
    owners=OWNERS,
)
def known_matches(
    context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
) -> dg.MaterializeResult[None]:
    """One row a sample: the images of known sets that it matches. Without known sets nothing is done or written."""
    project, keys = curation.project(), list(context.partition_keys)
    if not project.settings.known_sets:
        return record_shards(context, {key: {"sets": 0} for key in keys}, {})
    return materialize_shards(context, cluster, partial(build_known_matches, project), keys, _describe)


def _describe(outcome: Outcome) -> Metadata:
    matched = outcome.artifact.facts["matched"]
    return {"sets": len(matched), "samples_that_match": counts(matched, "set")}
