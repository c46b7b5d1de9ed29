"""The asset `known_matches`: what each sample matches in the evaluation and reference sets."""

from collections.abc import Sequence
from functools import partial

import dagster as dg

from assets.embeddings import embeddings
from assets.metadata import Metadata, counts
from assets.partitions import backfill_policy, shards
from assets.recording import Recorder, recorded
from assets.shard_step import OWNERS, materialize_shards, summed
from assets.versions import LOADED
from image_curation.project import Project
from image_curation.steps.known_matches import build_known_matches
from image_curation.steps.outcome import Outcome
from resources.cluster import DaskResource
from resources.curation import Curation


@dg.asset(
    deps=[embeddings],
    partitions_def=shards,
    backfill_policy=backfill_policy,
    code_version=LOADED["known_matches"],
    group_name="measures",
    kinds={"parquet", "dask"},
    owners=OWNERS,
)
def known_matches(
    context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
) -> dg.MaterializeResult[None]:
    """One row a sample: the images of known sets that it matches. Without known sets nothing is done or written."""
    project = curation.project()
    if not project.settings.known_sets:
        return _nothing_to_match(context, project)
    return materialize_shards(context, cluster, project, partial(build_known_matches, project), _describe)


def _describe(outcomes: Sequence[Outcome]) -> Metadata:
    matched = summed(outcomes, "matched")
    return {"sets": len(matched), "samples_that_match": counts(matched, "set")}


def _nothing_to_match(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult[None]:
    recorder, keys = Recorder(context, project), list(context.partition_keys)
    with recorder.writing():
        for key in sorted(recorder.left(recorder.tars(keys))):
            recorder.record(key, {"sets": 0}, content="none")
    return recorded({}, len(keys))
