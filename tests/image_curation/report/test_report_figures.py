"""Charts: bins split at the threshold, sums that agree, pictures that decode; drawn alike from many threads."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from image_curation.duplicates.preview import Cut, Thresholds
from image_curation.report.data import Histogram, PairSheet, ThresholdView
from image_curation.report.figures import (
    DARK,
    LIGHT,
    MOST_ROWS,
    histogram_bins,
    histogram_png,
    histogram_summary,
    ledger_bar_png,
    ledger_equation,
    share,
    threshold_png,
)


@dataclass(frozen=True)
class Counts:
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


def histogram(values, threshold=None, keep_side="above", **more) -> Histogram:
    return Histogram("m", "Measure", np.array(values, float), threshold, keep_side, **more)


def picture(png: bytes) -> np.ndarray:
    opened = Image.open(io.BytesIO(png))
    assert opened.format == "PNG"
    return np.asarray(opened.convert("RGB"))


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((pixels == rgb).all(-1).sum() > 50)


def test_threshold_is_an_edge_and_splits_the_counts():
    values = np.random.default_rng(0).normal(5, 1, 1_000)
    bins = histogram_bins(histogram(values, 4.5))
    assert 4.5 in bins.edges
    assert bins.counts.sum() == 1_000
    assert bins.counts[bins.kept].sum() == (values >= 4.5).sum()
    assert np.array_equal(bins.kept, bins.edges[:-1] >= 4.5)


def test_values_on_the_threshold_are_kept_on_both_sides():
    above = histogram_bins(histogram([1, 2, 2, 3], 2, "above"))
    below = histogram_bins(histogram([1, 2, 2, 3], 2, "below"))
    assert (above.counts[above.kept].sum(), above.counts[~above.kept].sum()) == (3, 1)
    assert (below.counts[below.kept].sum(), below.counts[~below.kept].sum()) == (3, 1)


@pytest.mark.parametrize("keep_side", ["above", "below"])
@pytest.mark.parametrize("threshold", [-2.0, 0.0, 0.3, 1.0, 7.0])
def test_bins_agree_with_direct_counts(keep_side, threshold):
    values = np.random.default_rng(1).integers(0, 11, 500) / 10
    bins = histogram_bins(histogram(values, threshold, keep_side))
    kept = values >= threshold if keep_side == "above" else values <= threshold
    assert bins.counts[bins.kept].sum() == kept.sum()
    assert bins.counts[~bins.kept].sum() == (~kept).sum()
    assert bins.edges[0] <= min(values.min(), threshold)
    assert bins.edges[-1] >= max(values.max(), threshold) - 1e-9


def test_long_tail_goes_into_the_last_bar():
    values = np.r_[np.linspace(0, 1, 1_000), 500.0]
    bins = histogram_bins(histogram(values))
    assert bins.tail
    assert bins.edges[-1] < 1.1
    assert bins.counts.sum() == 1_001
    assert not histogram_bins(histogram(np.linspace(0, 1, 1_000))).tail


def test_equal_values_make_one_bar():
    for value in (0.0, 3.0, -1e-9):
        bins = histogram_bins(histogram([value] * 5))
        assert bins.counts.max() == 5
        assert np.isfinite(bins.edges).all()
        assert (np.diff(bins.edges) > 0).all()


def test_summary_counts_what_the_threshold_drops_and_what_has_no_value():
    summary = histogram_summary(histogram([1, 2, 3, 4, np.nan, np.inf], 2.5, unit="px"))
    assert summary == "4 values, median 2.5 px. 2 (50\u00a0%) below the threshold of 2.5 px. 2 without a value."
    assert "1 (25\u00a0%) above the threshold of 3" in histogram_summary(histogram([1, 2, 3, 4], 3, "below"))
    assert histogram_summary(histogram([7])) == "1 value, median 7."


def test_all_null_scores_say_so():
    nothing = histogram([np.nan] * 3, 4.5)
    assert histogram_summary(nothing) == "No values. 3 without a value."
    assert picture(histogram_png(nothing)).shape == (520, 880, 3)
    assert picture(histogram_png(histogram([]))).shape == (520, 880, 3)


def test_threshold_colours_both_sides():
    values = np.random.default_rng(0).uniform(0, 1, 400)
    split = picture(histogram_png(histogram(values, 0.5)))
    assert split.shape == (520, 880, 3)
    assert has_colour(split, LIGHT.kept)
    assert has_colour(split, LIGHT.dropped)
    whole = picture(histogram_png(histogram(values)))
    assert has_colour(whole, LIGHT.kept)
    assert not has_colour(whole, LIGHT.dropped)
    dark = picture(histogram_png(histogram(values, 0.5), dark=True))
    assert has_colour(dark, DARK.kept)
    assert has_colour(dark, DARK.paper)


def test_dollar_signs_and_odd_labels_are_text_and_no_formula():
    odd = Histogram("m", "$\\frac{1$ <b>", np.array([1.0, 2.0]), 1.5, unit="$_$")
    assert picture(histogram_png(odd)).shape == (520, 880, 3)
    assert picture(ledger_bar_png(Counts(3, 1, {"$\\bad{": 1}, {"$x": 1}))).shape[1] == 1280


def test_pictures_are_small():
    values = np.random.default_rng(0).normal(size=5_000)
    many = Counts(1_000, 0, {f"a_rather_long_reason_{i}": 20 for i in range(50)})
    assert len(histogram_png(histogram(values, 0.1))) < 100_000
    assert len(ledger_bar_png(many)) < 100_000


def test_ledger_chart_has_a_bar_for_each_fate_and_adds_up_the_rest():
    few = picture(ledger_bar_png(Counts(6, 3, {"a": 2}, {"b": 1})))
    more = picture(ledger_bar_png(Counts(7, 3, {"a": 2, "c": 1}, {"b": 1})))
    assert more.shape[0] - few.shape[0] == 50
    for colour in (LIGHT.kept, LIGHT.dropped, LIGHT.failed):
        assert has_colour(few, colour)
    reasons = {f"r{i:02}": 1 for i in range(MOST_ROWS + 5)}
    capped = picture(ledger_bar_png(Counts(25, 0, reasons)))
    assert capped.shape[0] == few.shape[0] + 50 * (MOST_ROWS + 2 - 3)


def test_ledger_chart_of_nothing():
    assert picture(ledger_bar_png(Counts())).shape[1] == 1280


def test_equation_shows_whether_it_holds():
    assert ledger_equation(Counts(1_006, 1_003, {"a": 1, "b": 1}, {"c": 1})) == (
        "1,006 read = 1,003 kept + 2 dropped + 1 failed"
    )
    assert "≠" in ledger_equation(Counts(5, 3))


@pytest.mark.parametrize(
    ("count", "total", "text"),
    [
        (0, 10, "0\u00a0%"), (10, 10, "100\u00a0%"), (1, 3, "33\u00a0%"), (1, 30, "3.3\u00a0%"), (0, 0, "–"),
        (1, 100_000, "<0.1\u00a0%"), (99_999, 100_000, ">99.9\u00a0%"), (998, 1_000, "99.8\u00a0%"),
    ],
)  # fmt: skip
def test_share(count, total, text):
    assert share(count, total) == text


def test_threads_draw_the_same_pictures():
    charts = [histogram(np.random.default_rng(i).normal(size=50), 0.0) for i in range(6)]
    alone = [histogram_png(chart) for chart in charts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(histogram_png, charts)) == alone


def curve(chosen: float | None, *goes: int) -> ThresholdView:
    cosines = [*np.linspace(0.85, 1, len(goes) - 1).tolist(), None]
    cuts = [Cut(Thresholds(cosine, 4, True), n, 1, 2, 0.9) for cosine, n in zip(cosines, goes, strict=True)]
    none = PairSheet("", np.empty((0, 2, 8, 8, 3), np.uint8), [], [], 0)
    return ThresholdView(Thresholds(chosen, 4, True), cuts, [], none, none)


def test_curve_of_thresholds_falls_and_marks_the_chosen():
    falling, unmarked = (picture(threshold_png(curve(chosen, 100, 50, 10, 10))) for chosen in (0.9, None))
    assert falling.shape == unmarked.shape == (520, 880, 3)
    rgb = [int(LIGHT.dropped[i : i + 2], 16) for i in (1, 3, 5)]
    tops = [np.flatnonzero((falling[:, x] == rgb).all(-1)).min() for x in (150, 400, 700)]
    assert tops == sorted(set(tops))
    assert (falling != unmarked).any()


def test_curve_where_nothing_would_go():
    assert picture(threshold_png(curve(0.9, 0, 0, 0), dark=True)).shape == (520, 880, 3)
