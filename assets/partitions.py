"""A tar shard or a group of them is a partition: their definition, and how many one run of a backfill takes."""

import os
from collections.abc import Sequence

import dagster as dg

shards = dg.DynamicPartitionsDefinition(name="shards")

SHARDS_PER_RUN = int(os.environ.get("IMAGE_CURATION_SHARDS_PER_RUN", "500"))
backfill_policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=SHARDS_PER_RUN)

_START, _END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


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
