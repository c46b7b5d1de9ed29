"""The main job: the whole graph, in one process, so that its steps share one cluster and each worker one model."""

import dagster as dg

curate = dg.define_asset_job(
    "curate",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups("training"),  # that is run when somebody asks
    executor_def=dg.in_process_executor,
    description="Everything from raw tars to the release and its report, for the shards that the run names.",
)
