"""Turn report data into one self-contained HTML page: no script, nothing loaded from anywhere.

Keys, captions and error texts come from whoever made the tars, so all text is escaped, and a content security policy
in the page forbids scripts and requests.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from image_curation.duplicates.preview import Cut, Thresholds
from image_curation.report.contact_sheet import thumb_jpeg
from image_curation.report.data import (
    Failure,
    GroupView,
    Histogram,
    PairSheet,
    ReportData,
    ShardCounts,
    Sheet,
    Size,
    ThresholdView,
    Thumbs,
)
from image_curation.report.figures import (
    histogram_bins,
    histogram_png,
    histogram_summary,
    ledger_equation,
    share,
    threshold_png,
)

# What is shown at most, so that a page over millions of samples stays below 3 MB and loads at once.
MOST_THUMBS = 320
MOST_IN_A_SHEET = 48
MOST_GROUPS = 24
MOST_MEMBERS = 6
MOST_PAIRS = 12
MOST_FAILURES = 200
MOST_SHARDS = 100
LONGEST_TEXT = 300


@dataclass(frozen=True)
class Picture:
    """An image as a data URL, with the style that gives it its true shape in a square cell."""

    url: str
    label: str
    style: str = ""


@dataclass(frozen=True)
class Outcome:
    """One part of the ledger: its kind (kept, dropped, failed), its name, count, and share of all that was read."""

    kind: str
    name: str
    count: int
    percent: float
    share: str


@dataclass(frozen=True)
class Chart:
    """A histogram as two pictures, for light and dark pages ("" where there are no values), and in words."""

    name: str
    label: str
    light: str
    dark: str
    summary: str
    note: str | None


@dataclass(frozen=True)
class Gallery:
    """A sheet as it is shown: `more` says of how many, if not all are."""

    title: str
    caption: str
    total: int
    more: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Twin:
    """A member of a duplicate group as it is shown."""

    picture: Picture
    similarity: str
    how: str


@dataclass(frozen=True)
class Group:
    """A duplicate group as it is shown."""

    picture: Picture
    twins: Sequence[Twin]
    more: str


@dataclass(frozen=True)
class CutRow:
    """What a threshold would do, as it is shown; `own`: it is the policy's."""

    threshold: str
    cut: Cut
    least_alike: str
    own: bool


@dataclass(frozen=True)
class PairGallery:
    """Pairs next to the threshold as they are shown: the two pictures, and their cosine."""

    title: str
    total: int
    more: str
    pairs: Sequence[tuple[Picture, Picture, str]]


@dataclass(frozen=True)
class ThresholdSection:
    """The duplicate threshold as it is shown: a curve for light and dark pages, two tables, pairs on both sides."""

    light: str
    dark: str
    by_cosine: Sequence[CutRow]
    by_distance: Sequence[CutRow]
    galleries: Sequence[PairGallery]


def render_report(data: ReportData) -> str:
    """The page as HTML text. Equal data give equal text.

    Raises:
        ValueError: a sheet has not as many labels (or sizes) as thumbnails.
    """
    template = _environment().get_template("template.html.j2")
    shards = sorted(data.per_shard, key=lambda row: (-(row[3] + row[4]), row[0]))
    return template.render(
        title=data.title,
        created_from=data.created_from,
        warnings=data.warnings,
        problems=ledger_problems(data),
        ledger=data.ledger,
        equation=ledger_equation(data.ledger),
        totals=list(_totals(data)),
        parts=list(_outcomes(data)),
        shards=[ShardCounts(*row) for row in shards[:MOST_SHARDS]],
        more_shards=_more(min(MOST_SHARDS, len(shards)), len(shards)),
        charts=[_chart(histogram) for histogram in data.histograms],
        galleries=[_gallery(sheet, len(data.sheets)) for sheet in data.sheets],
        groups=[_group(group) for group in data.duplicate_groups[:MOST_GROUPS]],
        total_groups=_total(data.total_groups, data.duplicate_groups),
        more_groups=_more_of(MOST_GROUPS, data.duplicate_groups, data.total_groups),
        thresholds=None if data.thresholds is None else _thresholds(data.thresholds),
        failures=[Failure(*row) for row in data.failures[:MOST_FAILURES]],
        total_failures=_total(data.total_failures, data.failures),
        more_failures=_more_of(MOST_FAILURES, data.failures, data.total_failures),
    )


def ledger_problems(data: ReportData) -> list[str]:
    """Where counts disagree: in all, in a shard, or between the shards and the whole. Empty if nothing is wrong."""
    ledger = data.ledger
    dropped, failed = sum(ledger.dropped.values()), sum(ledger.failed.values())
    total = ledger.kept + dropped + failed
    problems = []
    if total != ledger.read:
        problems.append(
            f"{ledger.read:,} samples were read, but {ledger.kept:,} kept + {dropped:,} dropped + {failed:,} failed "
            f"= {total:,}: {abs(ledger.read - total):,} {'have no fate' if total < ledger.read else 'too many'}."
        )
    for shard, read, *fates in data.per_shard:
        if read != sum(fates):
            sums = " + ".join(
                f"{count:,} {fate}" for count, fate in zip(fates, ("kept", "dropped", "failed"), strict=True)
            )
            problems.append(f"Shard {shard}: {read:,} read, but {sums} = {sum(fates):,}.")
    if data.per_shard:
        columns = zip(*(row[1:] for row in data.per_shard), strict=True)
        wholes = {"read": ledger.read, "kept": ledger.kept, "dropped": dropped, "failed": failed}
        for (name, whole), column in zip(wholes.items(), columns, strict=True):
            if whole != sum(column):
                problems.append(f"The shards have {sum(column):,} {name} in all, but the ledger says {whole:,}.")
    return problems


def _totals(data: ReportData) -> Iterator[Outcome]:
    ledger = data.ledger
    counts = {"kept": ledger.kept, "dropped": sum(ledger.dropped.values()), "failed": sum(ledger.failed.values())}
    return (_outcome(kind, kind, count, ledger.read) for kind, count in counts.items())


def _outcomes(data: ReportData) -> Iterator[Outcome]:
    """Kept, then each reason and each status, the most frequent first."""
    ledger = data.ledger
    yield _outcome("kept", "kept", ledger.kept, ledger.read)
    for kind, counts in (("dropped", ledger.dropped), ("failed", ledger.failed)):
        for name, count in _most_first(counts):
            yield _outcome(kind, name, count, ledger.read)


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _outcome(kind: str, name: str, count: int, read: int) -> Outcome:
    return Outcome(kind, name, count, 100 * count / read if read > 0 else 0.0, share(count, read))


def _chart(histogram: Histogram) -> Chart:
    if not len(histogram_bins(histogram).counts):
        light = dark = ""
    else:
        light, dark = (_data_url(histogram_png(histogram, title=False, dark=dark), "png") for dark in (False, True))
    return Chart(histogram.name, histogram.label, light, dark, histogram_summary(histogram), histogram.note)


def _gallery(sheet: Sheet, sheets: int) -> Gallery:
    count = len(sheet.thumbs)
    sizes: Sequence[Size | None] = sheet.sizes if sheet.sizes is not None else [None] * count
    if not len(sheet.labels) == len(sizes) == count:
        raise ValueError(
            f"sheet {sheet.title!r} has {count} thumbnails, {len(sheet.labels)} labels and {len(sizes)} sizes; "
            "there should be as many of each"
        )
    most = max(6, min(MOST_IN_A_SHEET, MOST_THUMBS // sheets))
    total = count if sheet.total is None else sheet.total
    shown = zip(sheet.thumbs[:most], sheet.labels, sizes, strict=False)
    pictures = [_picture(thumb, label, size) for thumb, label, size in shown]
    return Gallery(sheet.title, sheet.caption, total, _more(len(pictures), total), pictures)


def _group(group: GroupView) -> Group:
    twins = [
        Twin(_picture(thumb, label, *size), "" if similarity is None else f"{similarity:.3f}", how)
        for thumb, label, similarity, how, *size in group.members[:MOST_MEMBERS]
    ]
    return Group(
        _picture(group.thumb, group.label, group.size), twins, _more_of(MOST_MEMBERS, group.members, group.total)
    )


def _thresholds(view: ThresholdView) -> ThresholdSection:
    light, dark = (_data_url(threshold_png(view, dark=dark), "png") for dark in (False, True))
    return ThresholdSection(
        light,
        dark,
        [_cut_row(cut, cut.thresholds.min_similarity, view.chosen) for cut in view.by_cosine],
        [_cut_row(cut, cut.thresholds.max_distance, view.chosen) for cut in view.by_distance],
        [_pair_gallery(sheet) for sheet in (view.above, view.below)],
    )


def _cut_row(cut: Cut, threshold: float | None, chosen: Thresholds) -> CutRow:
    least = "–" if cut.least_alike is None else f"{cut.least_alike:.4f}"
    return CutRow("not used" if threshold is None else f"{threshold:g}", cut, least, cut.thresholds == chosen)


def _pair_gallery(sheet: PairSheet) -> PairGallery:
    shown = list(zip(sheet.thumbs, sheet.labels, sheet.similarities, strict=True))[:MOST_PAIRS]
    pairs = [
        (_picture(pair[0], left), _picture(pair[1], right), f"{cosine:.4f}") for pair, (left, right), cosine in shown
    ]
    return PairGallery(sheet.title, sheet.total, _more(len(pairs), sheet.total), pairs)


def _picture(thumb: Thumbs, label: str, size: Size | None = None) -> Picture:
    style = ""
    if size is not None:
        longest = max(size)
        style = f"width:{max(2, 100 * size[0] / longest):.4g}%;height:{max(2, 100 * size[1] / longest):.4g}%"
    return Picture(_data_url(thumb_jpeg(thumb), "jpeg"), label, style)


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _total(total: int | None, items: Sequence[object]) -> int:
    return len(items) if total is None else total


def _more_of(most: int, items: Sequence[object], total: int | None) -> str:
    return _more(min(most, len(items)), _total(total, items))


def _more(shown: int, total: int) -> str:
    """Says that not all are shown; nothing if they are."""
    return "" if shown >= total else f"showing {shown:,} of {total:,}"


def _short(text: str) -> str:
    """Text of a tar's author may be of any length."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"grouped": lambda number: f"{number:,}", "short": _short}
    return environment
