"""The Dagster UI and the report page after a demo run, driven in a real browser."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 40_000
LEDGER = re.compile(r"^\d+ read = \d+ kept \+ \d+ dropped \+ \d+ failed$")
GROUPS = {
    "images": ["shard_index", "embeddings"],
    "measures": ["aesthetic_scores", "nsfw_scores", "known_matches", "duplicate_groups"],
    "release": ["selection", "curated_shards", "curation_report"],
}


@dataclass(frozen=True)
class Demo:
    """What the command `image-curation demo` left behind, and what it said."""

    folder: Path
    environment: dict[str, str]
    out: str


@dataclass(frozen=True)
class Site:
    """Dagster, webserver and daemon, on the demo's instance."""

    url: str
    demo: Demo

    def ask(self, query: str, **variables: Any) -> Any:
        """Ask the GraphQL interface, as the pages do."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="module")
def demo_run(clean_environment, run_command, tmp_path_factory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    ran = run_command(clean_environment, "image-curation", "demo", folder)
    assert ran.returncode == 0, ran.stderr
    places = {
        "DAGSTER_HOME": str(folder / "dagster"),
        "IMAGE_CURATION_SOURCE": str(folder / "raw"),
        "IMAGE_CURATION_ROOT": str(folder / "curated"),
        "IMAGE_CURATION_CLUSTER": "inline",
    }
    return Demo(folder, clean_environment | places, ran.stdout)


@pytest.fixture(scope="module")
def site(demo_run, browser) -> Iterator[Site]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log = (demo_run.folder / "dagster.log").open("w")
    command = [Path(sys.executable).parent / "dagster", "dev", "-h", "127.0.0.1", "-p", port]
    server = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=demo_run.environment,
        stdout=log,
        stderr=log,
        start_new_session=True,  # so that it can be ended with all that it starts, and nothing else
    )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/server_info", server)
        yield Site(address, demo_run)
    finally:
        end(server)
        log.close()


def end(server: subprocess.Popen) -> None:
    """Ask `dagster dev` to end; on a busy machine it can take longer than a test should wait."""
    os.killpg(server.pid, signal.SIGINT)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "dagster dev has ended; its log lies beside the demo"
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return
    raise TimeoutError(f"nothing answers at {address}")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@dataclass(frozen=True)
class Tab:
    """A page, what it asked for, and what it complained of."""

    page: Any
    requests: list[str]
    errors: list[str]

    def foreign(self, own: str) -> list[str]:
        """Requests to anywhere else."""
        return [address for address in self.requests if not address.startswith((own, "data:", "blob:"))]


@pytest.fixture
def tab(browser) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 2800, "height": 1500})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    opened = Tab(page, [], [])
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("console", lambda message: opened.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    yield opened
    context.close()


def keep(tab: Tab, name: str, height: int) -> None:
    """Take a picture anew, into the folder that IMAGE_CURATION_SCREENSHOTS names; docs/ has some of them."""
    if folder := os.environ.get("IMAGE_CURATION_SCREENSHOTS"):
        tab.page.wait_for_timeout(1500)  # the pages glide into place
        clip = {"x": 0, "y": 0, "width": tab.page.viewport_size["width"], "height": height}
        tab.page.screenshot(path=Path(folder) / f"{name}.png", clip=clip)


def test_lineage_shows_every_asset_in_its_group_and_asks_nobody_else(site, tab):
    tab.page.goto(f"{site.url}/asset-groups", wait_until="domcontentloaded")
    seen = 0
    for group, assets in GROUPS.items():
        tab.page.locator("foreignObject", has_text=group).first.click()
        for name in assets:
            tab.page.locator("foreignObject", has_text=name).first.wait_for(state="attached")
            seen += 1
    assert seen == 9
    assert tab.foreign(site.url) == []


def test_lineage_reads_from_left_to_right_group_by_group(site, tab):
    tab.page.set_viewport_size({"width": 1900, "height": 900})
    groups = "%2C".join(f"global%40global%3A{group}" for group in GROUPS)
    tab.page.goto(f"{site.url}/asset-groups?expanded={groups}", wait_until="domcontentloaded")
    sides = {group: [] for group in GROUPS}
    for group, assets in GROUPS.items():
        for name in assets:
            box = tab.page.locator("foreignObject", has=tab.page.get_by_text(name, exact=True)).last.bounding_box()
            sides[group] += [box["x"], box["x"] + box["width"]]
    images, measures, release = sides.values()
    assert max(images) < min(measures) < max(measures) < min(release)
    assert list(GROUPS) == sorted(GROUPS)  # the list beside the graph is alphabetical
    keep(tab, "dagster-lineage", height=780)


def test_asset_page_shows_metadata_with_its_picture(site, tab):
    tab.page.goto(f"{site.url}/assets/curated_shards", wait_until="domcontentloaded")
    tab.page.get_by_text(LEDGER).wait_for()
    for key in ("ledger", "samples", "megabytes", "tars", "path", "contact_sheet"):
        tab.page.get_by_text(key, exact=True).first.wait_for()
    tab.page.get_by_text("[Show Markdown]").last.click()
    tab.page.wait_for_function(
        "[...document.images].some(one => one.src.startsWith('data:') && one.naturalWidth > 400)"
    )
    assert tab.errors == []


def test_partition_page_begins_with_the_ledger_and_its_bar_in_place(site, tab):
    tab.page.set_viewport_size({"width": 1500, "height": 1000})
    tab.page.goto(f"{site.url}/assets/selection?view=partitions&partition=demo-00003", wait_until="domcontentloaded")
    tab.page.get_by_text(LEDGER).wait_for()
    tab.page.wait_for_function(
        "[...document.images].some(one => one.src.startsWith('data:image/svg') && one.naturalWidth === 400)"
    )
    keys = tab.page.locator("table td:first-child").all_inner_texts()
    assert [key for key in keys if key][:3] == ["ledger", "shares", "dropped"]
    keep(tab, "dagster-partition", height=812)


@pytest.mark.parametrize(
    ("asset", "checks"),
    [("embeddings", ["vectors_have_samples", "vectors_have_unit_norm"]), ("selection", ["ledger_adds_up"])],
)
def test_asset_page_shows_its_checks_and_that_they_passed(site, tab, asset, checks):
    tab.page.set_viewport_size({"width": 1500, "height": 700})
    tab.page.goto(f"{site.url}/assets/{asset}?view=checks", wait_until="domcontentloaded")
    for name in checks:
        tab.page.get_by_text(name, exact=True).first.wait_for()
    tab.page.get_by_text("Passed", exact=True).first.wait_for()
    tab.page.get_by_text("Failed", exact=True).first.wait_for(state="detached")
    if asset == "selection":
        keep(tab, "dagster-checks", height=660)


RUNS = """query Runs { runsOrError(limit: 1) { ... on Runs { results {
    runId status assetSelection { path } tags { key value } } } } }"""


def test_one_partition_is_materialized_by_three_clicks(site, tab):
    made = site.demo.folder / "curated/shard_index/demo-00003.parquet"
    content = made.read_bytes()
    made.unlink()
    (before,) = site.ask(RUNS)["runsOrError"]["results"]

    tab.page.goto(f"{site.url}/assets/shard_index?view=partitions&partition=demo-00003", wait_until="domcontentloaded")
    tab.page.get_by_text("Latest materialization").first.wait_for()
    tab.page.get_by_role("button", name="Materialize").first.click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Launch 1 run").click()

    run = finished(site, before["runId"])
    assert run["status"] == "SUCCESS"
    assert run["assetSelection"] == [{"path": ["shard_index"]}]
    assert {"key": "dagster/partition", "value": "demo-00003"} in run["tags"]
    assert made.read_bytes() == content


def test_backfill_over_all_partitions_is_one_run_that_names_its_shards(site, tab):
    (before,) = site.ask(RUNS)["runsOrError"]["results"]
    tab.page.set_viewport_size({"width": 1500, "height": 900})
    tab.page.goto(f"{site.url}/assets/aesthetic_scores", wait_until="domcontentloaded")
    tab.page.get_by_role("button", name="Materialize").first.click()
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_text("6 partitions").first.wait_for()
    keep(tab, "dagster-backfill", height=680)
    dialog.get_by_role("button", name="Launch backfill").click()

    run = finished(site, before["runId"])
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert run["status"] == "SUCCESS"
    assert run["assetSelection"] == [{"path": ["aesthetic_scores"]}]
    first, last = (tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end"))
    assert (first, last) == ("demo-00000", "demo-00005")
    tab.page.set_viewport_size({"width": 1500, "height": 500})
    tab.page.goto(f"{site.url}/runs/b/{tags['dagster/backfill']}", wait_until="domcontentloaded")
    tab.page.get_by_text("100% completed").wait_for()
    keep(tab, "dagster-backfill-done", height=300)


def finished(site: Site, not_this: str) -> dict[str, Any]:
    """The newest run, once there is one that has ended."""
    deadline = time.monotonic() + 180  # the daemon looks for backfills twice a minute
    while time.monotonic() < deadline:
        (run,) = site.ask(RUNS)["runsOrError"]["results"]
        if run["runId"] != not_this and run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            return run
        time.sleep(0.5)
    raise TimeoutError(f"the run has not ended: {run}")


def test_report_of_the_demo_renders_by_itself(demo_run, tab):
    page = demo_run.folder / "curated/report/report.html"
    tab.page.goto(page.as_uri())
    text = tab.page.inner_text("body")
    (sums,) = re.findall(r"([\d,]+) read = ([\d,]+) kept \+ ([\d,]+) dropped \+ ([\d,]+) failed", text)
    read, kept, dropped, failed = (int(number.replace(",", "")) for number in sums)
    assert read == kept + dropped + failed
    assert f"ledger adds up: {read} read = {kept} kept + {dropped} dropped + {failed} failed." in demo_run.out
    assert tab.page.locator("figure").count() >= 7
    widths = tab.page.evaluate("[...document.images].map(one => [one.complete, one.naturalWidth])")
    assert len(widths) >= 7
    assert [width for complete, width in widths if not complete or width == 0] == []
    for reason in ("duplicate", "decode failed", "too many pixels"):
        assert reason in text.replace("_", " ").lower()
    assert tab.errors == []
    assert tab.foreign(page.as_uri()) == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 2800
