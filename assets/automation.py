"""The sensor `new_shards` and the schedule `nightly`: they carry out what `discovery.plan` decides."""

import os
from collections.abc import Iterator

import dagster as dg

from assets.discovery import Batch, Plan, plan, unchanged
from assets.jobs import curate
from assets.known import known
from assets.made import last_release
from assets.partitions import SHARDS_PER_RUN, range_tags, shards
from assets.tars import Partition, partitions_of
from assets.versions import PARENTS, SAMPLES, versions
from resources.curation import Curation

DECISIONS = tuple(asset for asset in PARENTS if asset not in SAMPLES)

TRIES = 3
"""How often the sensor asks for what has failed. Then it waits for the tar to change, or for the night."""

LISTED_EVERY_S = int(os.environ.get("IMAGE_CURATION_LISTED_EVERY_S", "60"))
"""How often the sensor lists the source."""

NIGHTLY_AT = os.environ.get("IMAGE_CURATION_NIGHTLY_AT", "0 2 * * *")
"""When the schedule runs: a cron expression, in UTC."""

RUNS_PER_TICK = 50
"""So that a tick ends in time; the next one goes on."""

_TRY_OF = "image-curation/try_of"
_REGISTER_AT_ONCE = 5_000  # partitions; SQLite has a limit to what fits into one statement


@dg.sensor(job=curate, minimum_interval_seconds=LISTED_EVERY_S, default_status=dg.DefaultSensorStatus.STOPPED)
def new_shards(context: dg.SensorEvaluationContext, curation: Curation) -> dg.SensorResult | dg.SkipReason:
    """Curate tars that are new or have changed, many to a run; forget those that are gone; then release.

    An unchanged source costs one listing. What failed is tried again a few times, then each night.
    """
    found = partitions_of(curation.settings())
    registered = context.instance.get_dynamic_partitions("shards")
    if unchanged(found, registered, last_release(context.instance)):
        return dg.SkipReason(f"nothing new among the {len(found)} tars in the source")
    current = versions(curation.project())
    todo = plan(found, known(context.instance, registered), current, stale=False, shards_per_run=SHARDS_PER_RUN)
    requests = list(_next_tries(context.instance, [_batch_request(batch) for batch in todo.batches]))
    if not requests and not todo.waiting and todo.release:
        requests = list(_next_tries(context.instance, [_release_request(todo, todo.release)]))
    if not requests and not todo.add and not todo.remove:
        return dg.SkipReason(_why_nothing(found, todo))
    partitions = [shards.build_delete_request(list(todo.remove))] if todo.remove else []
    parts = [todo.add[i : i + _REGISTER_AT_ONCE] for i in range(0, len(todo.add), _REGISTER_AT_ONCE)]
    return dg.SensorResult(
        dynamic_partitions_requests=[*partitions, *(shards.build_add_request(list(part)) for part in parts)],
        run_requests=requests,
    )


@dg.schedule(job=curate, cron_schedule=NIGHTLY_AT, default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly(context: dg.ScheduleEvaluationContext, curation: Curation) -> list[dg.RunRequest] | dg.SkipReason:
    """Bring everything up to date: the source's changes, what failed, and what is stale under new settings or code.

    The release comes after all, by its lower priority in the queue.
    """
    found = partitions_of(curation.settings())
    registered = context.instance.get_dynamic_partitions("shards")
    current = versions(curation.project())
    todo = plan(found, known(context.instance, registered), current, stale=True, shards_per_run=SHARDS_PER_RUN)
    register(context.instance, todo)
    requests = [_batch_request(batch) for batch in todo.batches]
    if requests or todo.release or todo.remove:
        requests.append(_release_request(todo, todo.release or "after the batches"))
    return requests or dg.SkipReason(_why_nothing(found, todo))


def register(instance: dg.DagsterInstance, todo: Plan) -> None:
    """Make the partitions those of the source."""
    for gone in todo.remove:
        instance.delete_dynamic_partition("shards", gone)
    for start in range(0, len(todo.add), _REGISTER_AT_ONCE):
        instance.add_dynamic_partitions("shards", todo.add[start : start + _REGISTER_AT_ONCE])


def _batch_request(batch: Batch) -> dg.RunRequest:
    tags = range_tags(batch.shards) | {_TRY_OF: batch.content}
    return dg.RunRequest(batch.content, asset_selection=[dg.AssetKey(asset) for asset in batch.assets], tags=tags)


def _release_request(todo: Plan, release: str) -> dg.RunRequest:
    tags = range_tags([todo.sample]) | {_TRY_OF: release, "dagster/priority": "-1"}
    return dg.RunRequest(release, asset_selection=[dg.AssetKey(asset) for asset in DECISIONS], tags=tags)


def _next_tries(instance: dg.DagsterInstance, requests: list[dg.RunRequest]) -> Iterator[dg.RunRequest]:
    """The requests that were not tried too often. Dagster starts no run for a key that it has seen, so each try has one
    of its own."""
    asked = 0
    for request in requests:
        tries = instance.get_runs_count(dg.RunsFilter(tags={_TRY_OF: request.tags[_TRY_OF]}))
        if tries < TRIES and asked < RUNS_PER_TICK:
            asked += 1
            yield request.with_replaced_attrs(run_key=f"{request.run_key} {tries + 1}")


def _why_nothing(found: list[Partition], todo: Plan) -> str:
    if todo.waiting:
        return f"{todo.waiting} of the {len(found)} tars in the source are being worked on"
    failed = [key for batch in todo.batches for key in batch.shards]
    if failed:
        return (
            f"{len(failed)} of the {len(found)} tars in the source failed {TRIES} times: {', '.join(failed[:5])}. They "
            "are tried again when they change, by the schedule `nightly`, or when you materialize them"
        )
    return f"nothing new among the {len(found)} tars in the source"
