"""Turn measures and the ledger into PNG charts, with thresholds drawn in.

Matplotlib's object interface with the Agg canvas: no pyplot, no global state, so any thread may draw.
Colours are those of Okabe and Ito (2008), told apart with any kind of colour vision.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from image_curation.report.data import Histogram, LedgerLike, ThresholdView

BINS = 40
MOST_ROWS = 20
"""Bars in the ledger's chart; the rest is added up in one."""

DPI = 200
"""Twice what the pictures are shown at."""

TAIL = 99.5
"""Percentile from which on a long tail is put into the last bar."""


@dataclass(frozen=True)
class Theme:
    """Colours of one page background."""

    paper: str
    ink: str
    muted: str
    line: str
    kept: str
    dropped: str
    failed: str


LIGHT = Theme("#ffffff", "#16191d", "#59616b", "#e1e5ea", "#0072b2", "#e69f00", "#d55e00")
DARK = Theme("#171b21", "#e8ebef", "#9aa4b1", "#2a3038", "#56b4e9", "#e69f00", "#d55e00")


@dataclass(frozen=True)
class Bins:
    """Bars of a histogram: edges float [b + 1], counts int [b], and which bars are on the side that is kept, bool [b].

    `tail`: the last bar also holds all values beyond the last edge.
    """

    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    tail: bool


def histogram_bins(histogram: Histogram) -> Bins:
    """Count values in equal bins of which one edge is the threshold, so that no bar is half kept and half dropped."""
    values, threshold = _finite(histogram), histogram.threshold
    if not len(values):
        return Bins(np.empty(0), np.empty(0, np.int64), np.empty(0, bool), False)
    low, high, top = values.min(), values.max(), np.percentile(values, TAIL)
    tail = bool(high - low > 3 * (top - low) > 0)
    high = top if tail else high
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    if low == high:
        margin = abs(low) / 10 or 0.5
        low, high = low - margin, high + margin
    width = (high - low) / BINS
    origin = low if threshold is None else threshold
    # A value on the threshold is kept: bins are [a, b) where more is better, (a, b] where less is, and there is always
    # one on the side that is kept.
    below = histogram.keep_side == "below"
    first, last = np.floor((low - origin) / width), np.ceil((high - origin) / width - 1e-9)
    steps = np.arange(min(first, -1 if below else 0), max(last, 0 if below else 1) + 1)
    edges = np.asarray(origin + width * steps)
    places = np.searchsorted(edges, values, "left" if below else "right") - 1
    counts = np.bincount(places.clip(0, len(edges) - 2), minlength=len(edges) - 1)
    beyond = np.ones(len(counts), bool)
    if threshold is not None:
        beyond = steps[:-1] < 0 if below else steps[:-1] >= 0
    return Bins(edges, counts, beyond, tail)


def histogram_summary(histogram: Histogram) -> str:
    """What the chart shows, in words: how many values, their median, and how many are on the side that is dropped."""
    values, threshold = _finite(histogram), histogram.threshold
    missing = histogram.values.size - values.size
    without = f" {missing:,} without a value." if missing else ""
    if not len(values):
        return f"No values.{without}"
    text = f"{_counted(len(values), 'value')}, median {_number(float(np.median(values)), histogram.unit)}."
    if threshold is not None:
        dropped = int((values < threshold if histogram.keep_side == "above" else values > threshold).sum())
        side = "below" if histogram.keep_side == "above" else "above"
        limit = _number(threshold, histogram.unit)
        text += f" {dropped:,} ({share(dropped, len(values))}) {side} the threshold of {limit}."
    return text + without


def histogram_png(histogram: Histogram, *, title: bool = True, dark: bool = False) -> bytes:
    """A chart of 880 x 520 pixels, to be shown at half that size. Values that are NaN or infinite are left out."""
    theme, bins = DARK if dark else LIGHT, histogram_bins(histogram)
    figure = Figure(figsize=(4.4, 2.6), dpi=DPI, facecolor=theme.paper)
    axes = figure.add_axes((0.11, 0.17, 0.86, 0.79 - 0.09 * (histogram.threshold is not None) - 0.09 * title))
    _clear(axes, theme)
    if title:
        figure.text(0.02, 0.93, histogram.label, color=theme.ink, size=9.5, weight="bold", parse_math=False)
    if not len(bins.counts):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no values", color=theme.muted, size=11, ha="center", transform=axes.transAxes)
        return _png(figure)
    colours = [theme.kept if kept else theme.dropped for kept in bins.kept]
    axes.bar(bins.edges[:-1], bins.counts, np.diff(bins.edges) * 0.92, align="edge", color=colours, zorder=2)
    axes.set_xlim(bins.edges[0], bins.edges[-1])
    axes.set_ylim(0, bins.counts.max() * 1.08)
    axes.set_ylabel("samples", color=theme.muted, size=8)
    beyond = f"last bar: all from {_number(float(bins.edges[-2]), '')} up" if bins.tail else ""
    axes.set_xlabel(", ".join(filter(None, [histogram.unit, beyond])), color=theme.muted, size=8, parse_math=False)
    if histogram.threshold is not None:
        _draw_threshold(axes, histogram, theme)
    return _png(figure)


def _draw_threshold(axes: Axes, histogram: Histogram, theme: Theme) -> None:
    assert histogram.threshold is not None
    value = _number(histogram.threshold, histogram.unit)
    _mark(
        axes,
        histogram.threshold,
        f"keep ≥ {value} →" if histogram.keep_side == "above" else f"← keep ≤ {value}",
        theme,
    )


def _mark(axes: Axes, x: float, text: str, theme: Theme) -> None:
    """A dashed line across the chart, with a text above it."""
    low, high = axes.get_xlim()
    place = (x - low) / (high - low)
    anchor = "left" if place < 0.3 else "right" if place > 0.7 else "center"
    axes.axvline(x, color=theme.ink, linewidth=1.3, linestyle=(0, (4, 2)), zorder=3)
    axes.text(
        place, 1.04, text, color=theme.ink, size=8.5, ha=anchor, transform=axes.transAxes, parse_math=False, zorder=4
    )


def threshold_png(view: ThresholdView, *, dark: bool = False) -> bytes:
    """How many images would go by the cosine that is asked for, as a curve with the policy's own; 880 x 520 pixels."""
    theme = DARK if dark else LIGHT
    figure = Figure(figsize=(4.4, 2.6), dpi=DPI, facecolor=theme.paper)
    axes = figure.add_axes((0.11, 0.17, 0.86, 0.70))
    _clear(axes, theme)
    points = [(cut.thresholds.min_similarity, cut.goes) for cut in view.by_cosine]
    cosines, goes = zip(*((cosine, goes) for cosine, goes in points if cosine is not None), strict=True)
    axes.fill_between(cosines, goes, color=theme.dropped, alpha=0.25, linewidth=0, zorder=2)
    axes.plot(cosines, goes, color=theme.dropped, linewidth=1.8, marker="o", markersize=3, zorder=3, clip_on=False)
    axes.set_xlim(min(cosines[0], 0.99), 1)
    axes.set_ylim(0, max(1, *goes) * 1.08)
    axes.set_ylabel("images that go", color=theme.muted, size=8)
    axes.set_xlabel("duplicates from cosine", color=theme.muted, size=8)
    if view.chosen.min_similarity is not None:
        _mark(axes, view.chosen.min_similarity, f"policy: {view.chosen.min_similarity:g}", theme)
    return _png(figure)


def ledger_bar_png(ledger: LedgerLike, *, dark: bool = False) -> bytes:
    """A bar for what was kept, for each reason to drop and for each way to fail, 1280 pixels wide; equation on top."""
    theme = DARK if dark else LIGHT
    rows = list(_ledger_rows(ledger, theme))
    height = 0.55 + 0.25 * len(rows)
    figure = Figure(figsize=(6.4, height), dpi=DPI, facecolor=theme.paper)
    axes = figure.add_axes((0.30, 0.08 / height, 0.56, 0.25 * len(rows) / height))
    _clear(axes, theme)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.barh(range(len(rows)), [count for _, count, _ in rows], 0.72, color=[colour for _, _, colour in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, max(1, *(count for _, count, _ in rows)))
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], size=8.5, color=theme.ink, parse_math=False)
    for row, (_, count, _) in enumerate(rows):
        text = f" {count:,} ({share(count, ledger.read)})"
        axes.text(count, row, text, color=theme.ink, size=8.5, va="center_baseline", clip_on=False)
    total = ledger.kept + sum(ledger.dropped.values()) + sum(ledger.failed.values())
    figure.text(
        0.015,
        1 - 0.3 / height,
        ledger_equation(ledger) + ("" if total == ledger.read else f": DOES NOT ADD UP, it is {total:,}"),
        color=theme.ink if total == ledger.read else theme.failed,
        size=9.5,
        weight="bold",
    )
    return _png(figure)


def ledger_equation(ledger: LedgerLike) -> str:
    """The ledger as a sum, with = or ≠ as it is."""
    dropped, failed = sum(ledger.dropped.values()), sum(ledger.failed.values())
    sign = "=" if ledger.read == ledger.kept + dropped + failed else "≠"
    return f"{ledger.read:,} read {sign} {ledger.kept:,} kept + {dropped:,} dropped + {failed:,} failed"


def share(count: int, total: int) -> str:
    """A part in per cent, with a digit after the point where it is small; never 0 % of something or 100 % of less."""
    if total <= 0:
        return "–"
    percent = 100 * count / total
    if 0 < percent < 0.1:
        return "<0.1\u00a0%"
    if 99.9 < percent < 100:
        return ">99.9\u00a0%"
    return f"{percent:.0f}\u00a0%" if percent in (0, 100) or 10 <= percent < 99.5 else f"{percent:.1f}\u00a0%"


def _ledger_rows(ledger: LedgerLike, theme: Theme) -> Iterator[tuple[str, int, str]]:
    """Name, count and colour of each bar, the largest of each kind first."""
    yield "kept", ledger.kept, theme.kept
    losses = [(name, count, theme.dropped) for name, count in ledger.dropped.items()]
    losses = sorted(losses, key=lambda row: (-row[1], row[0]))
    failures = [(name, count, theme.failed) for name, count in ledger.failed.items()]
    losses += sorted(failures, key=lambda row: (-row[1], row[0]))
    yield from losses[:MOST_ROWS]
    if rest := losses[MOST_ROWS:]:
        yield f"{len(rest)} more", sum(count for _, count, _ in rest), theme.muted


def _finite(histogram: Histogram) -> npt.NDArray[np.float64]:
    values = np.asarray(histogram.values, np.float64).ravel()
    return values[np.isfinite(values)]


def _number(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}" if unit else text


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _clear(axes: Axes, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.tick_params(colors=theme.muted, labelsize=8, length=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="y", color=theme.line, linewidth=0.7)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    """Draw in 256 colours, which is all that a chart has and a third of the bytes."""
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no annotations
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()
    pixels.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
