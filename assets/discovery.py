"""The sensor `new_shards`: tars that appear in the source -> partitions, and runs of the whole graph over them."""

import dagster as dg

from assets.jobs import curate
from assets.partitions import SHARDS_PER_RUN, shards
from image_curation.artifacts import digest
from image_curation.shards.discover import Shard, discover
from resources.curation import Curation


@dg.sensor(job=curate, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.STOPPED)
def new_shards(context: dg.SensorEvaluationContext, curation: Curation) -> dg.SensorResult | dg.SkipReason:
    """Register tars that are new in the source and curate them, many to a run. One listing of the source each time."""
    found, _ = discover(curation.settings().source)
    known = set(context.instance.get_dynamic_partitions("shards"))
    new = [shard for shard in found if shard.key not in known]
    if not new:
        return dg.SkipReason(f"no new tar among the {len(found)} in the source")
    batches = [new[start : start + SHARDS_PER_RUN] for start in range(0, len(new), SHARDS_PER_RUN)]
    return dg.SensorResult(
        dynamic_partitions_requests=[shards.build_add_request([shard.key for shard in new])],
        run_requests=[_request(batch) for batch in batches],
    )


def _request(batch: list[Shard]) -> dg.RunRequest:
    """A run over some shards. Dagster drops a request whose key it has seen, so a tar that comes back has another."""
    keys = [shard.key for shard in batch]
    content = digest([shard.fingerprint for shard in batch])
    return dg.RunRequest(run_key=f"{keys[0]}..{keys[-1]} {content[:8]}", tags=range_tags(keys))


def range_tags(keys: list[str]) -> dict[str, str]:
    """Run tags that name a range of partitions, which follow each other in the order of registration."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
