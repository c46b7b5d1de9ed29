"""The asset `duplicate_groups`: which samples of all shards are alike."""

import dagster as dg

from assets.embeddings import embeddings
from assets.metadata import counts, picture
from assets.partitions import done
from assets.shard_step import OWNERS
from image_curation.artifacts import digest
from image_curation.duplicates import CODE_VERSION
from image_curation.steps.duplicate_groups import build_duplicate_groups
from resources.cluster import DaskResource
from resources.curation import Curation


@dg.asset(
    deps=[dg.AssetDep(embeddings, partition_mapping=dg.AllPartitionMapping())],
    code_version=CODE_VERSION,
    group_name="decisions",
    kinds={"parquet", "dask", "nvidia"},
    owners=OWNERS,
    pool="gpu",
)
def duplicate_groups(
    context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
) -> dg.MaterializeResult[None]:
    """All pairs with equal bytes, near perceptual hashes or a high cosine, over all shards that have embeddings."""
    from image_curation.report.pictures import similarity_histogram

    project = curation.project()
    shards = done(context.instance, "embeddings")
    outcome = build_duplicate_groups(
        project,
        shards,
        cluster,
        on_strip=lambda done, of: context.log.info(f"{done}/{of} parts of the comparison done"),
    )
    facts = outcome.artifact.facts
    return dg.MaterializeResult(
        metadata={
            "shards": len(shards),
            "samples_compared": facts["samples"],
            "samples_with_a_twin": outcome.artifact.rows,
            "groups_at_the_floor": facts["groups_at_floor"],
            "pairs_in_the_spanning_forest": counts(facts["pairs"], "kind"),
            "similarity_floor": project.similarity_floor,
            "searched_by": facts["searched_by"],
            "cells": dg.MetadataValue.json(facts.get("cells", {})),
            "recall": dg.MetadataValue.json(facts["recall"] or {}),
            "reused": outcome.reused,
            "seconds": outcome.seconds,
            "path": dg.MetadataValue.path(outcome.artifact.url),
            "similarities": picture(similarity_histogram(project)),
        },
        data_version=dg.DataVersion(digest([outcome.artifact.content, facts["edges"]])),
    )
