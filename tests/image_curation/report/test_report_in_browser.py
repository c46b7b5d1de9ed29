"""The page in a real browser: no request, no script, no sideways scrolling on a phone or a wide screen."""

import shutil
from dataclasses import dataclass, field

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
from image_curation.report.page import render_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@dataclass(frozen=True)
class Counts:
    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page with the longest words that a tar can bring."""
    word = "x" * 255
    script = "<img src=y onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
    noise = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3)).astype(np.uint8)
    cut = Cut(Thresholds(0.912345, 4, True), 10**9, 10**9, 10**9, 0.98765)
    pairs = PairSheet(word, noise.reshape(6, 2, 64, 64, 3), [(word, script)] * 6, [0.9] * 6, 10**9)
    data = ReportData(
        title=f"Report {script}",
        created_from={"source": word, script: script},
        ledger=Counts(4_000_000, 1_000_000, {word: 1_999_999}, {"decode_failed": 1_000_000}),
        per_shard=[ShardCounts(word, 4_000_000, 1_000_000, 1_999_999, 1_000_000)],
        histograms=[Histogram("m", word, np.random.default_rng(0).normal(size=200), 0.5, note=word)],
        sheets=[Sheet(word, word, noise, [word, *["k"] * 10, script])],
        duplicate_groups=[GroupView(noise[0], word, [GroupMember(one, word, 0.5, word) for one in noise])],
        thresholds=ThresholdView(cut.thresholds, [cut], [cut] * 2, pairs, pairs),
        failures=[Failure(word, word, word, word)],
        warnings=[word],
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(data), "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_page_fits_and_asks_for_nothing(browser, address, width, scheme, tmp_path):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    requests: list[str] = []
    messages: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: messages.append(message.text))
    tab.goto(address)
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert messages == []
    assert tab.title().startswith("Report <img")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.images].filter(image => image.naturalWidth === 0).length") == 0
    assert tab.evaluate("document.images.length") == 1 + 12 + 1 + 6 + 1 + 24
    tab.screenshot(path=tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as shot:
        corner = shot.convert("L").getpixel((2, 2))
    assert corner > 200 if scheme == "light" else corner < 40
    context.close()
