"""The assets `aesthetic_scores` and `nsfw_scores`: what the LAION heads say of each vector."""

from collections.abc import Sequence
from functools import partial

import dagster as dg

from assets.embeddings import embeddings
from assets.metadata import Metadata
from assets.partitions import backfill_policy, shards
from assets.shard_step import OWNERS, materialize_shards
from assets.versions import LOADED
from image_curation.heads import HeadKind
from image_curation.steps.outcome import Outcome
from image_curation.steps.scores import build_scores
from resources.cluster import DaskResource
from resources.curation import Curation


def _score_asset(score: HeadKind, description: str) -> dg.AssetsDefinition:
    """The asset of one head: they differ in nothing but the head."""

    @dg.asset(
        name=f"{score}_scores",
        description=description,
        deps=[embeddings],
        partitions_def=shards,
        backfill_policy=backfill_policy,
        code_version=LOADED[f"{score}_scores"],
        group_name="measures",
        kinds={"parquet", "dask"},
        owners=OWNERS,
    )
    def scores(
        context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
    ) -> dg.MaterializeResult[None]:
        project = curation.project()

        def pictures(key: str) -> dict[str, bytes]:
            from image_curation.report.pictures import score_histogram

            return {"histogram": score_histogram(project, score, key)}

        return materialize_shards(context, cluster, project, partial(build_scores, project, score), _describe, pictures)

    return scores


def _describe(outcomes: Sequence[Outcome]) -> Metadata:
    why_null = outcomes[0].artifact.facts["null_reason"]
    scored = sum(one.artifact.facts["scored"] for one in outcomes)
    return {"scored": scored, "why_null": why_null or "scored wherever there is a vector"}


aesthetic_scores = _score_asset("aesthetic", "One row a sample: the LAION aesthetic score, about 1 to 10, or null.")
nsfw_scores = _score_asset("nsfw", "One row a sample: the LAION NSFW score, 0 safe to 1 unsafe, or null.")
