"""The asset `curated_shards`: the release."""

import dagster as dg

from assets.made import RELEASED, ready, released
from assets.metadata import link, picture, shares
from assets.selection import selection
from assets.shard_step import OWNERS
from assets.tars import keys_of, members
from assets.versions import LOADED, SAMPLES, versions
from image_curation.audit import ledger_of
from image_curation.steps.curated_shards import build_curated_shards
from resources.cluster import DaskResource
from resources.curation import Curation


@dg.asset(
    deps=[dg.AssetDep(selection, partition_mapping=dg.AllPartitionMapping())],
    code_version=LOADED["curated_shards"],
    group_name="release",
    kinds={"webdataset", "parquet", "dask"},
    owners=OWNERS,
)
def curated_shards(
    context: dg.AssetExecutionContext, curation: Curation, cluster: DaskResource
) -> dg.MaterializeResult[None]:
    """Even WebDataset tars of all kept samples, their original bytes and sidecars, Parquet beside each, a manifest."""
    from image_curation.report.figures import ledger_bar_png
    from image_curation.report.pictures import kept_sheet

    project = curation.project()
    of_tars = ready(context.instance, *SAMPLES, "selection")
    of = members(project.settings, of_tars)
    shards, code = keys_of(of), versions(project)["curated_shards"]
    ledger = ledger_of(project, shards)
    manifest = build_curated_shards(project, shards, cluster, ledger, on_shard=context.log.info)
    return dg.MaterializeResult(
        metadata={
            "ledger": ledger.sentence(),
            "shares": shares(ledger),
            "samples": manifest.samples,
            "tars": len(manifest.shards),
            "megabytes": round(manifest.bytes / 1e6, 2),
            "contact_sheet": picture(kept_sheet(project, shards)),
            "fates": picture(ledger_bar_png(ledger)),
            "report": link(project.report_url),
            "path": link(project.release_url),
        },
        data_version=dg.DataVersion(manifest.selection_hash),
        tags={RELEASED: released({key: of_tars[key] for key in of}, code), "dagster/code_version": code},
    )
