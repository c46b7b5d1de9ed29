"""A project's artifacts -> the plain values that the report page is made of."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

import image_curation
from image_curation.artifacts import read_artifact, read_table
from image_curation.audit import largest_group, null_score_reasons, shard_ledger, total_ledger, unreadable_shards
from image_curation.preview import preview_caution, preview_thresholds
from image_curation.project import Project
from image_curation.report.data import (
    Failure,
    GroupMember,
    GroupView,
    Histogram,
    ReportData,
    ShardCounts,
    Sheet,
    ThresholdView,
)
from image_curation.report.measures import HISTOGRAM_MEASURES, measure_histogram
from image_curation.report.pairs import pair_sheets
from image_curation.report.thumbnails import thumbnails
from image_curation.samples import read_samples
from image_curation.selection import similarity_facts

SHEET_IMAGES = 48
GROUPS = 24
GROUP_MEMBERS = 6
FAILURES = 200

_SHOWN = ("shard", "key", "image_offset", "image_size", "sha256", "status", "error", "width", "height")
_DECIDED = ("decision", "reason", "detail", "group", "similarity", "how")


def gather(project: Project, shards: Sequence[str]) -> ReportData:
    """Everything that the report shows, of all `shards`.

    Raises:
        ArtifactError: a shard has no selection yet.
    """
    shards = sorted(shards)
    samples = pa.concat_tables([_decided_samples(project, shard) for shard in shards])
    ledgers = {shard: shard_ledger(project, shard) for shard in shards}
    urls = {shard: read_artifact(project.index_url(shard)).facts["url"] for shard in shards}
    failures = samples.filter(pc.equal(samples["decision"], "failed"))
    groups, n_groups = _groups(project, samples, urls)
    return ReportData(
        title="Curation report",
        created_from=_created_from(project),
        ledger=total_ledger(ledgers.values()),
        per_shard=[
            ShardCounts(shard, one.read, one.kept, sum(one.dropped.values()), sum(one.failed.values()))
            for shard, one in ledgers.items()
        ],
        histograms=_histograms(project, samples, null_score_reasons(project, shards)),
        sheets=_sheets(project, samples, urls),
        duplicate_groups=groups,
        thresholds=_thresholds(project, shards),
        failures=[
            Failure(row["shard"], row["key"], row["status"], row["error"])
            for row in failures.slice(0, FAILURES).to_pylist()
        ],
        warnings=_warnings(project, shards, samples),
        total_groups=n_groups,
        total_failures=len(failures),
    )


def _decided_samples(project: Project, shard: str) -> pa.Table:
    samples = read_samples(project, shard).select([*_SHOWN, *HISTOGRAM_MEASURES])
    decided = read_table(project.selection_url(shard), _DECIDED)
    for name in _DECIDED:
        samples = samples.append_column(name, decided[name])
    return samples


def _created_from(project: Project) -> dict[str, str]:
    settings = project.settings
    return {
        "Source": settings.source,
        "Encoder": project.profile.name,
        "Policy": f"{settings.policy or 'defaults'} ({project.policy.fingerprint()[:8]})",
        "Duplicates from cosine": f"{project.min_similarity:g}",
        "image-curation": image_curation.__version__,
    }


def _warnings(project: Project, shards: Sequence[str], samples: pa.Table) -> list[str]:
    warnings = [f"Shard {shard} cannot be read: {why}" for shard, why in unreadable_shards(project, shards).items()]
    warnings += _chain_warning(project, shards, samples)
    return warnings + [one for one in (preview_caution(project.policy), project.profile.caution) if one]


def _chain_warning(project: Project, shards: Sequence[str], samples: pa.Table) -> list[str]:
    facts = similarity_facts(samples, project.warn_below)
    if not facts["duplicates_below_limit"]:
        return []
    text = (
        f"Dropped duplicates with a cosine to their representative below {project.warn_below:g}: "
        f"{facts['duplicates_below_limit']:,}, the smallest {facts['smallest_similarity']:.4f}. "
        f"The largest group has {largest_group(project, shards):,} images."
    )
    if project.policy.duplicates.groups == "components":
        text += (
            " In the policy, `groups: star` drops none that is only linked through others, and `min_keeper_similarity` "
            "splits such groups."
        )
    return [text]


def _histograms(project: Project, samples: pa.Table, null_reasons: dict[str, str]) -> list[Histogram]:
    return [
        measure_histogram(project.policy, name, samples[name], null_reasons.get(name)) for name in HISTOGRAM_MEASURES
    ]


def _sheets(project: Project, samples: pa.Table, urls: dict[str, str]) -> list[Sheet]:
    """Kept samples, then the dropped ones by reason, most frequent first."""
    sheets = [
        _sheet(project, samples.filter(pc.equal(samples["decision"], "kept")), urls, "Kept", "A sample of what stays.")
    ]
    dropped = samples.filter(pc.equal(samples["decision"], "dropped"))
    reasons = sorted(dropped["reason"].value_counts().to_pylist(), key=lambda row: (-row["counts"], row["values"]))
    for row in reasons:
        chosen = dropped.filter(pc.equal(dropped["reason"], row["values"]))
        example = f"For example: {chosen['key'][0]}, {chosen['detail'][0]}."
        sheets.append(_sheet(project, chosen, urls, f"Dropped: {row['values'].replace('_', ' ')}", example))
    return [sheet for sheet in sheets if sheet.total]


def _sheet(project: Project, chosen: pa.Table, urls: dict[str, str], title: str, caption: str) -> Sheet:
    """An even sample: in order of the content hash, which has nothing to do with shard or subject."""
    shown = chosen.sort_by("sha256").slice(0, SHEET_IMAGES)
    return Sheet(title, caption, thumbnails(project, shown, urls), shown["key"].to_pylist(), total=len(chosen))


def _thresholds(project: Project, shards: Sequence[str]) -> ThresholdView:
    found = preview_thresholds(project, shards)
    return ThresholdView(found.chosen, found.by_cosine, found.by_distance, *pair_sheets(project, found))


def _groups(project: Project, samples: pa.Table, urls: dict[str, str]) -> tuple[list[GroupView], int]:
    """The largest duplicate groups, the representative first, and how many groups there are."""
    grouped = samples.filter(pc.is_valid(samples["group"]))
    sizes = sorted(grouped["group"].value_counts().to_pylist(), key=lambda row: (-row["counts"], row["values"]))
    views = []
    for row in sizes[:GROUPS]:
        members = grouped.filter(pc.equal(grouped["group"], row["values"])).sort_by([("similarity", "descending")])
        names = [
            f"{shard}/{key}"
            for shard, key in zip(members["shard"].to_pylist(), members["key"].to_pylist(), strict=True)
        ]
        first = names.index(row["values"])
        order = [first, *(i for i in range(len(names)) if i != first)][: GROUP_MEMBERS + 1]
        shown = members.take(pa.array(order))
        pictures = thumbnails(project, shown, urls)
        twins = [
            GroupMember(pictures[i], names[order[i]], shown["similarity"][i].as_py(), shown["how"][i].as_py() or "")
            for i in range(1, len(order))
        ]
        views.append(GroupView(pictures[0], row["values"], twins, total=len(names) - 1))
    return views, len(sizes)
