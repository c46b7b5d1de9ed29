"""Dagster's instance -> what it knows of shards and runs, for the decision of what is to be done."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from assets.discovery import Known
from assets.made import last_release, made
from assets.partitions import asked_for
from assets.versions import SAMPLES


def known(instance: dg.DagsterInstance, registered: Sequence[str]) -> Known:
    """All that `plan` needs: a query for each asset, and one for the runs that are not finished."""
    runs = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    working = [run for run in runs if _makes(run, SAMPLES)]
    return Known(
        registered=registered,
        made={asset: made(instance, asset) for asset in SAMPLES},
        busy=frozenset(key for run in working for key in asked_for(run, registered)),
        deciding=any(_makes(run, ["curated_shards"]) for run in runs),
        released=last_release(instance),
    )


def _makes(run: dg.DagsterRun, assets: Sequence[str]) -> bool:
    """Whether a run makes one of these assets; a run of the whole job makes all."""
    chosen = run.asset_selection
    return not chosen or any(dg.AssetKey(asset) in chosen for asset in assets)
