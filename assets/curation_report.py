"""The asset `curation_report`: one page to look at."""

import dagster as dg

from assets.curated_shards import curated_shards
from assets.made import ready
from assets.metadata import counts, link, shares
from assets.shard_step import OWNERS
from assets.tars import keys_of, members
from assets.versions import LOADED, SAMPLES, versions
from image_curation.audit import ledger_of
from resources.curation import Curation


@dg.asset(
    deps=[curated_shards],
    code_version=LOADED["curation_report"],
    group_name="release",
    kinds={"html", "matplotlib"},
    owners=OWNERS,
)
def curation_report(context: dg.AssetExecutionContext, curation: Curation) -> dg.MaterializeResult[None]:
    """A self-contained page: the ledger, histograms with thresholds, contact sheets by reason, duplicate groups."""
    from image_curation.steps.curation_report import build_curation_report

    project = curation.project()
    shards = keys_of(members(project.settings, ready(context.instance, *SAMPLES, "selection")))
    data, ledger = build_curation_report(project, shards), ledger_of(project, shards)
    return dg.MaterializeResult(
        metadata={
            "report": link(project.report_url),
            "ledger": ledger.sentence(),
            "shares": shares(ledger),
            "read": ledger.read,
            "kept": ledger.kept,
            "dropped": counts(ledger.dropped, "reason"),
            "failed": counts(ledger.failed, "error"),
            "duplicate_groups": data.total_groups or 0,
        },
        tags={"dagster/code_version": versions(project)["curation_report"]},
    )
