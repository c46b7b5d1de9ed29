"""A tar shard is a partition: their definition, their names, and how many of them one run of a backfill takes."""

import os
from collections.abc import Sequence

import dagster as dg

from image_curation.project import Project
from image_curation.shards.discover import Shard, discover, largest_first

shards = dg.DynamicPartitionsDefinition(name="shards")

SHARDS_PER_RUN = int(os.environ.get("IMAGE_CURATION_SHARDS_PER_RUN", "500"))
backfill_policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=SHARDS_PER_RUN)

_START, _END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def tars(project: Project, keys: list[str]) -> list[Shard]:
    """The tars of these partitions, largest first.

    Raises:
        Failure: a tar is no longer in the source.
    """
    found = {shard.key: shard for shard in discover(project.settings.source)[0]}
    missing = [key for key in keys if key not in found]
    if missing:
        raise dg.Failure(
            f"{len(missing)} shards are no longer under {project.settings.source}: {', '.join(missing[:10])}. "
            "Remove their partitions, or put the tars back.",
            allow_retries=False,
        )
    return largest_first(found[key] for key in keys)


def done(instance: dg.DagsterInstance, asset: str) -> list[str]:
    """Partitions of `asset` that exist and have been materialized, by name."""
    materialized = instance.get_materialized_partitions(dg.AssetKey(asset))
    return sorted(set(instance.get_dynamic_partitions("shards")) & materialized)


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Run tags that name a range of partitions, which follow each other in the order of registration."""
    return {_START: keys[0], _END: keys[-1]}


def asked_for(run: dg.DagsterRun, registered: Sequence[str]) -> Sequence[str]:
    """The shards that a run was started for, as far as they are still registered."""
    one = run.tags.get("dagster/partition", "")
    first, last = run.tags.get(_START, one), run.tags.get(_END, one)
    if first not in registered or last not in registered:
        return []
    return registered[registered.index(first) : registered.index(last) + 1]
