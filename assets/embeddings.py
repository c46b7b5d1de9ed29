"""The asset `embeddings`: a vector for each image, and what was measured while decoding it."""

from collections.abc import Sequence
from functools import partial

import dagster as dg

from assets.metadata import Metadata, counts
from assets.partitions import backfill_policy, shards
from assets.shard_index import shard_index
from assets.shard_step import OWNERS, materialize_shards, summed
from assets.versions import LOADED
from image_curation.steps.embeddings import build_embeddings
from image_curation.steps.outcome import Outcome
from resources.cluster import DaskResource
from resources.curation import Curation


@dg.asset(
    deps=[shard_index],
    partitions_def=shards,
    backfill_policy=backfill_policy,
    code_version=LOADED["embeddings"],
    group_name="images",
    kinds={"parquet", "dask", "nvidia"},
    owners=OWNERS,
    pool="gpu",
)
def embeddings(
    context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
) -> dg.MaterializeResult[None]:
    """One row a sample: unit vector (fp16) or error, true size, perceptual hash, sharpness, exposure, contrast."""
    project = curation.project()
    if project.profile.caution:
        context.log.warning(project.profile.caution)

    def describe(outcomes: Sequence[Outcome]) -> Metadata:
        facts = outcomes[0].artifact.facts
        statuses = counts(summed(outcomes, "statuses"), "status")
        words: Metadata = {"statuses": statuses, "encoder": project.profile.name}
        return words | {"preprocessing": facts["preprocessing"], "weights_sha256": facts["weights_sha256"]}

    def pictures(key: str) -> dict[str, bytes]:
        from image_curation.report.pictures import shard_sheet

        return {"contact_sheet": shard_sheet(project, key)}

    step = partial(build_embeddings, project)
    return materialize_shards(context, cluster, project, step, describe, pictures, device="gpu")
