"""The asset `duplicate_groups`: which samples of all shards are alike."""

import dagster as dg

from assets.embeddings import embeddings
from assets.made import ready
from assets.metadata import Metadata, counts, picture, speed
from assets.partitions import backfill_policy, shards
from assets.recording import Recorder, recorded
from assets.shard_step import OWNERS
from assets.tars import content_of, keys_of, members
from assets.versions import LOADED
from image_curation.project import Project
from image_curation.steps.duplicate_groups import build_duplicate_groups
from image_curation.steps.duplicate_versions import twins_by_shard
from image_curation.steps.outcome import Outcome
from resources.cluster import DaskResource
from resources.curation import Curation


@dg.asset(
    deps=[embeddings],
    partitions_def=shards,
    backfill_policy=backfill_policy,
    code_version=LOADED["duplicate_groups"],
    group_name="measures",
    kinds={"parquet", "dask", "nvidia"},
    owners=OWNERS,
    pool="gpu",
)
def duplicate_groups(
    context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
) -> dg.MaterializeResult[None]:
    """All pairs with equal bytes, near perceptual hashes or a high cosine, over all shards that have embeddings.

    Pairs cross shards, so all embedded shards are compared, whichever partitions are asked for. A shard that was not
    asked for is reported if a pair of its samples came or went, so that no other selection turns stale.
    """
    project, asked = curation.project(), set(context.partition_keys)
    of = members(project.settings, ready(context.instance, "shard_index", "embeddings"))
    embedded = keys_of(of)
    outcome = build_duplicate_groups(
        project,
        embedded,
        cluster,
        on_strip=lambda done, of: context.log.info(f"{done}/{of} parts of the comparison done"),
    )
    recorder, words = Recorder(context, project), _describe(project, outcome, len(embedded))
    twins = twins_by_shard(project)
    contents = {key: content_of(key, {tar: twins[tar].content for tar in tars}) for key, tars in of.items()}
    changed = [key for key in of if key in asked or recorder.changed(key, contents[key])]
    with recorder.writing():
        for key in changed:
            seen = {"similarities": _histogram(project)} if key == changed[-1] else {}
            own = {"samples_with_a_twin": sum(twins[tar].samples for tar in of[key])}
            recorder.record(key, own | words | seen, contents[key])
    failed = dict.fromkeys(sorted(asked - of.keys()), "it is not ready: materialize its embeddings first")
    return recorded(failed, len(asked))


def _describe(project: Project, outcome: Outcome, shards: int) -> Metadata:
    """What was found over all shards."""
    facts = outcome.artifact.facts
    return {
        "shards": shards,
        "samples_compared": facts["samples"],
        "samples_with_a_twin_in_all": outcome.artifact.rows,
        "groups_at_the_floor": facts["groups_at_floor"],
        "pairs_in_the_spanning_forest": counts(facts["pairs"], "kind", of="pairs"),
        "similarity_floor": project.similarity_floor,
        "searched_by": facts["searched_by"],
        **({"cells": dg.MetadataValue.json(facts["cells"])} if facts.get("cells") else {}),
        "recall": dg.MetadataValue.json(facts["recall"] or {}),
        **({} if outcome.reused else speed(facts["samples"], outcome.seconds)),
        "reused": outcome.reused,
        "path": dg.MetadataValue.path(outcome.artifact.url),
    }


def _histogram(project: Project) -> dg.MarkdownMetadataValue:
    from image_curation.report.pictures import similarity_histogram

    return picture(similarity_histogram(project))
