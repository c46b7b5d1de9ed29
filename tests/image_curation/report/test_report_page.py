"""The page: sums that agree or a loud line, text that stays text, caps that say so, nothing from elsewhere."""

import base64
import dataclasses
import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from image_curation.duplicates.preview import Cut, Thresholds
from image_curation.report.data import (
    Failure,
    GroupMember,
    GroupView,
    Histogram,
    PairSheet,
    ReportData,
    ShardCounts,
    Sheet,
    ThresholdView,
)
from image_curation.report.page import ledger_problems, render_report

SCRIPT = "<script>alert('key')</script>"


@dataclass(frozen=True)
class Counts:
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("style", "title")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("style", "title")

    def handle_data(self, data):
        if not self._hidden and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def thumbs(count: int, side: int = 64) -> np.ndarray:
    """Pictures of about the detail of photographs."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, side // 4, side // 4, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side))) for one in coarse])


def a_report(**more) -> ReportData:
    picture = thumbs(1)[0]
    values = {
        "title": "Holiday photos",
        "created_from": {"encoder": "clip-vit-l-14", "source": "https://example.org/bucket"},
        "ledger": Counts(10, 6, {"too_dark": 2, "duplicate_exact": 1}, {"decode_failed": 1}),
        "per_shard": [ShardCounts("a/00000", 4, 3, 1, 0), ShardCounts("a/00001", 6, 3, 2, 1)],
        "histograms": [Histogram("aesthetic", "Aesthetic score", np.arange(10.0), 4.5, "above")],
        "sheets": [Sheet("Kept", "what stays", thumbs(3), ["k1", "k2", "k3"])],
        "duplicate_groups": [GroupView(picture, "a/k1", [GroupMember(picture, "a/k9", 0.98765, "perceptual")])],
        "failures": [Failure("a/00001", "k7", "decode_failed", "the JPEG ends early")],
    }
    return ReportData(**(values | more))


def thresholds(pairs: int = 2, total: int | None = None, label: str = "a/k1") -> ThresholdView:
    """The policy's 0.9 and 4 bits, of three cosines and two distances; pairs above the cosine, none below."""
    chosen = Thresholds(0.9, 4, True)
    shown = thumbs(2 * pairs).reshape(pairs, 2, 64, 64, 3)
    total = pairs if total is None else total
    return ThresholdView(
        chosen,
        [
            Cut(chosen._replace(min_similarity=0.85), 1_234, 70, 9, 0.7),
            Cut(chosen, 31, 12, 5, 0.87654),
            Cut(chosen._replace(min_similarity=None), 0, 0, 0, None),
        ],
        [Cut(chosen._replace(max_distance=0), 7, 6, 2, 1.0), Cut(chosen, 31, 12, 5, 0.87654)],
        PairSheet("Just above", shown, [(label, "b/k2")] * pairs, [0.91234] * pairs, total),
        PairSheet("Just below", shown[:0], [], [], 0),
    )


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_report(a_report()))


def references(page: Page) -> Iterator[str]:
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            if attributes.get(name):
                yield str(attributes[name])


def test_ledger_that_adds_up_says_so(page):
    assert "10 read = 6 kept + 3 dropped + 1 failed" in page.text
    assert "✓ adds up, in all and in each shard" in page.text
    assert "does not add up" not in page.text
    assert not any(attributes.get("role") == "alert" for _, attributes in page.tags)


def test_missing_samples_are_a_loud_line_before_all_else():
    page = Page(render_report(a_report(ledger=Counts(12, 6, {"too_dark": 3}, {"decode_failed": 1}))))
    assert any(attributes.get("role") == "alert" for _, attributes in page.tags)
    assert "12 samples were read, but 6 kept + 3 dropped + 1 failed = 10: 2 have no fate." in page.text
    assert "12 read ≠ 6 kept" in page.text
    assert page.text.index("The ledger does not add up") < page.text.index("Every sample that was read")


def test_a_shard_that_does_not_add_up_is_named():
    rows = [ShardCounts("a/00000", 5, 3, 1, 0), ShardCounts("a/00001", 5, 3, 2, 1)]
    data = a_report(per_shard=rows)
    assert ledger_problems(data) == [
        "Shard a/00000: 5 read, but 3 kept + 1 dropped + 0 failed = 4.",
        "Shard a/00001: 5 read, but 3 kept + 2 dropped + 1 failed = 6.",
    ]
    assert "Shard a/00000: 5 read" in Page(render_report(data)).text


def test_shards_that_differ_from_the_whole_are_a_problem():
    assert ledger_problems(a_report(per_shard=[ShardCounts("a", 9, 6, 3, 0)])) == [
        "The shards have 9 read in all, but the ledger says 10.",
        "The shards have 0 failed in all, but the ledger says 1.",
    ]
    assert ledger_problems(a_report(per_shard=[])) == []


def test_reasons_and_errors_are_listed_most_frequent_first(page):
    assert page.text.index("too_dark") < page.text.index("duplicate_exact") < page.text.index("decode_failed")
    assert "20\u00a0%" in render_report(a_report())


def test_untrusted_text_stays_text():
    picture = thumbs(1)[0]
    hostile = a_report(
        title=SCRIPT,
        created_from={SCRIPT: SCRIPT},
        ledger=Counts(2, 0, {SCRIPT: 1}, {SCRIPT: 1}),
        per_shard=[ShardCounts(SCRIPT, 2, 0, 1, 1)],
        histograms=[Histogram(SCRIPT, SCRIPT, np.ones(3), note=SCRIPT, unit=SCRIPT)],
        sheets=[Sheet(SCRIPT, SCRIPT, thumbs(1), [f'"><img src=x onerror="alert(1)">{SCRIPT}'])],
        duplicate_groups=[GroupView(picture, SCRIPT, [GroupMember(picture, SCRIPT, None, SCRIPT)])],
        failures=[Failure(SCRIPT, SCRIPT, SCRIPT, SCRIPT)],
        warnings=[SCRIPT],
    )
    html = render_report(hostile)
    page = Page(html)
    assert "<script" not in html.lower()
    assert not page.all("script")
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert page.text.count(SCRIPT) >= 10
    assert all(str(attributes["src"]).startswith("data:") for attributes in page.all("img"))


def test_nothing_is_loaded_from_elsewhere(page):
    found = list(references(page))
    assert len(found) > 5
    assert all(reference.startswith(("data:", "#")) for reference in found)
    style = render_report(a_report()).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert any("default-src 'none'" in str(attributes.get("content")) for attributes in page.all("meta"))


def test_every_picture_decodes_and_has_a_text(page):
    pictures = page.all("img")
    assert len(pictures) == 1 + 3 + 2
    for attributes in pictures:
        kind, _, content = str(attributes["src"]).removeprefix("data:image/").partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as picture:
            picture.load()
            assert picture.format == kind.upper()
        assert attributes["alt"]
    assert page.all("source")[0]["media"] == "(prefers-color-scheme: dark)"


def test_headings_do_not_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_threshold_is_said_beside_the_chart(page):
    summary = "10 values, median 4.5. 5 (50\u00a0%) below the threshold of 4.5."
    assert summary.replace("\u00a0", " ") in page.text.replace("\u00a0", " ")
    assert any(summary in str(attributes["alt"]) for attributes in page.all("img"))


def test_null_scores_show_the_reason_and_no_chart():
    empty = Histogram("nsfw", "NSFW score", np.full(4, np.nan), 0.5, "below", note="no head fits the encoder")
    page = Page(render_report(a_report(histograms=[empty])))
    assert "No values. 4 without a value. no head fits the encoder" in page.text
    assert not page.all("source")


def test_duplicate_group_shows_who_stays_how_and_how_alike(page):
    assert "0.988" in page.text
    assert "perceptual" in page.text
    alternatives = [attributes["alt"] for attributes in page.all("img")]
    assert {"Stays: a/k1", "Goes: a/k9"} <= set(alternatives)


def test_true_sizes_become_shapes():
    sheet = Sheet("Kept", "", thumbs(2), ["a", "b"], sizes=[(400, 200), (300, 900)])
    styles = [attributes.get("style") for attributes in Page(render_report(a_report(sheets=[sheet]))).all("img")]
    assert "width:100%;height:50%" in styles
    assert "width:33.33%;height:100%" in styles


def test_long_lists_are_capped_and_say_of_how_many():
    picture = thumbs(1)[0]
    many = a_report(
        ledger=Counts(2_000, 0, {}, {"decode_failed": 2_000}),
        per_shard=[ShardCounts(f"s{i}", 2, 0, 0, 2) for i in range(1_000)],
        sheets=[Sheet("Kept", "", thumbs(60), [f"k{i}" for i in range(60)], total=1_234)],
        duplicate_groups=[
            GroupView(picture, f"g{i}", [GroupMember(picture, f"m{j}", 0.9, "exact") for j in range(9)], total=70)
            for i in range(30)
        ],
        failures=[Failure("s", f"k{i}", "decode_failed", "e" * 10_000) for i in range(500)],
        total_groups=4_321,
        total_failures=2_000,
    )
    html = render_report(many)
    text = Page(html).text
    assert "showing 48 of 1,234" in text
    assert "Groups: showing 24 of 4,321." in text
    assert "showing 6 of 70" in text
    assert "Failures: showing 200 of 2,000." in text
    assert "Shards: showing 100 of 1,000." in text
    assert "e" * 301 not in html


def test_full_page_stays_below_three_megabytes():
    pictures = thumbs(60, 128)
    labels = [f"shard-00000/some/key-{i:08}" for i in range(60)]
    members = [GroupMember(pictures[i], labels[i], 0.9, "semantic") for i in range(8)]
    values = np.random.default_rng(0).normal(size=100_000)
    html = render_report(
        a_report(
            per_shard=[],
            sheets=[Sheet(f"Dropped: {i}", "", pictures, labels, total=99_999) for i in range(16)],
            histograms=[Histogram(f"m{i}", f"Measure {i}", values, 0.2) for i in range(8)],
            duplicate_groups=[GroupView(pictures[0], "k", members) for _ in range(100)],
            failures=[Failure("s" * 50, "k" * 50, "decode_failed", "e" * 500) for _ in range(5_000)],
        )
    )
    assert 1_000_000 < len(html.encode()) < 3_000_000


def test_empty_report():
    page = Page(render_report(ReportData("Nothing", {}, Counts())))
    assert "0 read = 0 kept + 0 dropped + 0 failed ✓ adds up" in page.text
    for sentence in ("No sample was read.", "Nothing was dropped.", "Nothing failed.", "No duplicates were found."):
        assert sentence in page.text
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all(str(link["href"])[1:] in targets for link in page.all("a"))


def test_nothing_kept_is_said():
    page = Page(render_report(a_report(ledger=Counts(3, 0, {"too_dark": 3}), per_shard=[])))
    assert "No sample was kept." in page.text
    empty_sheet = Sheet("Kept", "", np.empty((0, 64, 64, 3), np.uint8), [])
    assert "There is none." in Page(render_report(a_report(sheets=[empty_sheet]))).text


def test_warnings_stand_above_the_ledger():
    text = Page(render_report(a_report(warnings=["embedded is not CLIP", "second"]))).text
    assert text.index("Warnings embedded is not CLIP second") < text.index("Every sample that was read")


def test_equal_data_give_equal_pages():
    assert render_report(a_report()) == render_report(a_report())


def test_labels_must_be_as_many_as_thumbnails():
    data = a_report(sheets=[Sheet("Kept", "", thumbs(3), ["k1"])])
    with pytest.raises(ValueError, match="sheet 'Kept' has 3 thumbnails, 1 labels and 3 sizes"):
        render_report(data)


def test_data_are_plain_values_that_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_report().title = "other"


def test_thresholds_are_shown_with_the_policys_own_marked():
    html = render_report(a_report(thresholds=thresholds()))
    page = Page(html)
    assert "Cosine Images go Groups Largest Its lowest cosine 0.85 1,234 70 9 0.7000 policy 0.9 31 12 5" in page.text
    assert "not used 0 0 0 –" in page.text
    assert "Bits of 64 Images go Groups Largest Its lowest cosine 0 7 6 2 1.0000 policy 4 31 12 5 0.8765" in page.text
    assert html.count('<tr class="own">') == 2
    assert {"href": "#threshold"} in page.all("a")


def test_pairs_at_the_threshold_are_side_by_side_and_capped():
    page = Page(render_report(a_report(thresholds=thresholds(pairs=14, total=1_400), sheets=(), duplicate_groups=())))
    assert page.text.count("0.9123") == 12
    assert sum(image["alt"] in ("Image a/k1", "Image b/k2") for image in page.all("img")) == 24
    assert "showing 12 of 1,400" in page.text
    assert "Just below 0 There is none." in page.text


def test_names_of_pairs_stay_text():
    html = render_report(a_report(thresholds=thresholds(label=SCRIPT)))
    assert SCRIPT not in html
    assert not Page(html).all("script")


def test_without_thresholds_there_is_no_section(page):
    assert "Duplicate threshold" not in page.text
    assert {"href": "#threshold"} not in page.all("a")
