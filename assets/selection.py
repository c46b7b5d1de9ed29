"""The asset `selection`: keep, or the reason for dropping, for every sample that was ever read."""

from collections.abc import Mapping

import dagster as dg

from assets.duplicate_groups import duplicate_groups
from assets.known_matches import known_matches
from assets.made import ready
from assets.metadata import Metadata, counts, link, picture, shares
from assets.partitions import backfill_policy, shards
from assets.recording import Recorder, recorded
from assets.scores import aesthetic_scores, nsfw_scores
from assets.shard_step import OWNERS, PICTURED_SHARDS, made_of
from assets.tars import content_of, keys_of, members
from assets.versions import LOADED, SAMPLES
from image_curation.audit import largest_group, ledger_of
from image_curation.project import Project
from image_curation.steps.outcome import Outcome
from image_curation.steps.selection import build_selection
from resources.curation import Curation


@dg.asset(
    deps=[aesthetic_scores, nsfw_scores, known_matches, duplicate_groups],
    partitions_def=shards,
    backfill_policy=backfill_policy,
    code_version=LOADED["selection"],
    group_name="release",
    kinds={"parquet"},
    owners=OWNERS,
)
def selection(context: dg.AssetExecutionContext, curation: Curation) -> dg.MaterializeResult[None]:
    """One row a sample: kept, dropped or failed, why, its duplicate group and the one that represents it.

    Duplicates cross shards, so all scored shards are decided together, whichever partitions are asked for: a newcomer
    may take the place of an image of another shard. Shards that were not asked for are reported if their decisions
    changed.
    """
    project, asked = curation.project(), set(context.partition_keys)
    of = members(project.settings, ready(context.instance, *_needed(project)))
    outcomes = build_selection(project, keys_of(of))
    recorder = Recorder(context, project)
    largest = {"largest_group": largest_group(project, list(outcomes))}
    with recorder.writing():
        for shard, tars in of.items():
            own = {tar: outcomes[tar] for tar in tars}
            content = content_of(shard, {tar: outcome.artifact.content for tar, outcome in own.items()})
            if shard in asked or recorder.changed(shard, content):
                metadata = _describe(project, own, pictured=len(asked) <= PICTURED_SHARDS) | largest
                recorder.record(shard, metadata, content)
    missing = f"it is not ready: materialize its {', '.join(_needed(project))} first"
    return recorded({shard: missing for shard in sorted(asked - of.keys())}, len(asked))


def _needed(project: Project) -> list[str]:
    """What a shard must have, made of one and the same tar. Without known sets there is nothing to match."""
    return [asset for asset in SAMPLES if asset != "known_matches" or project.settings.known_sets]


def _describe(project: Project, outcomes: Mapping[str, Outcome], pictured: bool) -> Metadata:
    from image_curation.report.figures import ledger_bar_png

    ledger, facts = ledger_of(project, list(outcomes)), [one.artifact.facts for one in outcomes.values()]
    smallest = min(
        (one["smallest_similarity"] for one in facts if one["smallest_similarity"] is not None), default=None
    )
    words: Metadata = {
        "ledger": ledger.sentence(),
        "shares": shares(ledger),
        "dropped": counts(ledger.dropped, "reason"),
        "failed": counts(ledger.failed, "error"),
        "smallest_similarity": None if smallest is None else round(smallest, 4),
        "duplicates_below_limit": sum(one["duplicates_below_limit"] for one in facts),
        "policy": project.policy.fingerprint(),
        "report": link(project.report_url),
    }
    return words | made_of(list(outcomes.values())) | ({"fates": picture(ledger_bar_png(ledger))} if pictured else {})
