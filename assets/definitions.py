"""Everything that Dagster loads: assets, checks, the job, the sensor, the schedule, and the resources they use."""

import dagster as dg

from assets.automation import new_shards, nightly
from assets.checks import checks
from assets.curated_shards import curated_shards
from assets.curation_report import curation_report
from assets.duplicate_groups import duplicate_groups
from assets.embeddings import embeddings
from assets.jobs import curate
from assets.known_matches import known_matches
from assets.scores import aesthetic_scores, nsfw_scores
from assets.selection import selection
from assets.shard_index import shard_index
from resources.cluster import DaskResource
from resources.curation import Curation

curation = Curation()

defs = dg.Definitions(
    assets=[
        shard_index,
        embeddings,
        aesthetic_scores,
        nsfw_scores,
        known_matches,
        duplicate_groups,
        selection,
        curated_shards,
        curation_report,
    ],
    asset_checks=checks,
    jobs=[curate],
    sensors=[new_shards],
    schedules=[nightly],
    executor=dg.in_process_executor,  # the steps of a run share one cluster, whose workers keep the model
    resources={"curation": curation, "cluster": DaskResource(curation=curation)},
)
