"""The whole graph over the demo's shards: what is materialized, what it says of itself, and a second run."""

import base64
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pyarrow.parquet as pq
import pytest
from PIL import Image

from assets.definitions import defs
from assets.partitions import range_tags
from image_curation.config import load_settings
from image_curation.project import Project
from image_curation.release.verify import verify_release

SHARDS = tuple(f"demo-0000{n}" for n in range(6))
PER_SHARD = ("shard_index", "embeddings", "aesthetic_scores", "nsfw_scores", "selection")  # with a file each
PARTITIONED = (*PER_SHARD, "known_matches", "duplicate_groups")
ROWS = {"rows", "reused", "path"}
SPEED = {"seconds", "samples_per_second"}
METADATA = {
    "shard_index": ROWS | SPEED | {"tar", "tar_megabytes", "samples", "strays", "damage"},
    "embeddings": ROWS | SPEED | {"encoder", "statuses", "weights_sha256", "preprocessing", "contact_sheet"},
    "aesthetic_scores": ROWS | SPEED | {"scored", "why_null", "histogram"},
    "nsfw_scores": ROWS | SPEED | {"scored", "why_null", "histogram"},
    "known_matches": {"sets"},  # of which there are none: nothing is written
    "duplicate_groups": {
        "samples_compared",
        "samples_with_a_twin",
        "samples_with_a_twin_in_all",
        "groups_at_the_floor",
        "similarity_floor",
        "recall",
    }
    | {"pairs_in_the_spanning_forest", "searched_by", "shards", "reused", "path"}
    | SPEED,
    "selection": ROWS
    | {"ledger", "shares", "dropped", "failed", "policy", "report", "fates"}
    | {"smallest_similarity", "duplicates_below_limit", "largest_group"},
    "curated_shards": {"ledger", "shares", "samples", "megabytes", "tars", "report", "path", "fates", "contact_sheet"},
    "curation_report": {"report", "ledger", "shares", "read", "kept", "dropped", "failed", "duplicate_groups"},
}
PICTURES = ("contact_sheet", "histogram", "similarities", "fates")
LEDGER = re.compile(r"(\d+) read = (\d+) kept \+ (\d+) dropped \+ (\d+) failed")


def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("curate").execute_in_process(
        instance=instance,
        tags=range_tags(list(SHARDS)),
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )


@pytest.fixture(scope="module")
def twice(demo, settings_from_environment, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """The results of two runs over the demo's shards, one after the other."""
    root = tmp_path_factory.mktemp("curated")
    settings_from_environment.setenv("IMAGE_CURATION_SOURCE", str(demo.folder))
    settings_from_environment.setenv("IMAGE_CURATION_ROOT", str(root))
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("shards", list(SHARDS))
        first = run(instance)
        written = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
        second = run(instance)
        project = Project.load(load_settings())
        yield SimpleNamespace(
            first=first, second=second, root=root, written=written, instance=instance, project=project
        )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, dict[str | None, dict[str, dg.MetadataValue]]]:
    """asset -> partition (None: the asset has none) -> its metadata."""
    found = defaultdict(dict)
    for event in result.get_asset_materialization_events():
        found[event.asset_key.to_user_string()][event.partition] = dict(event.materialization.metadata)
    return found


def table(value: dg.MetadataValue) -> dict[str, int]:
    """The counts of a Markdown table."""
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| ━* \|$", value.value, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows if name not in ("none",)}


def test_bar_of_shares_is_in_proportion_and_small_enough_to_be_shown_in_place(twice):
    seen = 0
    for words in [*metadata(twice.first)["selection"].values(), metadata(twice.first)["curated_shards"][None]]:
        text = words["shares"].value
        (encoded,) = re.findall(r"^!\[\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)$", text)
        widths = [
            float(one) for one in re.findall(r' width="([\d.]+)" height="14" fill', base64.b64decode(encoded).decode())
        ]
        read, *fates = map(int, LEDGER.fullmatch(words["ledger"].value).groups())
        assert widths == pytest.approx([400 * fate / read for fate in fates], abs=0.06)
        assert len(text) < 1000  # else the UI shows a link to the picture
        seen += 1
    assert seen == len(SHARDS) + 1


def picture(value: dg.MetadataValue) -> Image.Image:
    (encoded,) = re.findall(r"^!\[\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)$", value.value)
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.load()
    return image


def test_every_asset_is_materialized_for_every_shard(twice):
    assert twice.first.success
    found = metadata(twice.first)
    assert {name: set(partitions) for name, partitions in found.items()} == {
        name: set(SHARDS) if name in PARTITIONED else {None} for name in METADATA
    }


def test_every_check_passes_with_a_sentence_and_numbers(twice):
    evaluations = twice.first.get_asset_check_evaluations()
    assert len(evaluations) == 5
    for evaluation in evaluations:
        assert evaluation.passed, evaluation.description
        assert evaluation.description.endswith(".")
        assert evaluation.metadata


@pytest.mark.parametrize("asset", METADATA)
def test_metadata_has_what_a_user_looks_for(twice, asset):
    for found in metadata(twice.first)[asset].values():
        assert set(found) - {"similarities"} == METADATA[asset]  # a picture of all shards, on the last of them


@pytest.mark.parametrize(
    "asset", ["duplicate_groups", *(name for name, keys in METADATA.items() if keys & set(PICTURES))]
)
def test_pictures_in_metadata_are_pngs_with_something_on_them(twice, asset):
    seen = 0
    for found in metadata(twice.first)[asset].values():
        for name in found.keys() & set(PICTURES):
            image = picture(found[name])
            assert image.format == "PNG"
            assert min(image.size) >= 100
            assert len(image.convert("RGB").getcolors(1 << 24)) > 2
            seen += 1
    assert seen >= 1


def test_rows_and_paths_are_those_of_the_files(twice):
    checked = 0
    for asset in PER_SHARD:
        for found in metadata(twice.first)[asset].values():
            assert pq.read_metadata(found["path"].value).num_rows == found["rows"].value > 0
            checked += 1
    assert checked == 5 * len(SHARDS)
    release = metadata(twice.first)["curated_shards"][None]
    check = verify_release(release["path"].value)
    assert (check.samples, check.shards) == (release["samples"].value, release["tars"].value)
    report = Path(metadata(twice.first)["curation_report"][None]["report"].value)
    assert report.read_text("utf-8").startswith("<!DOCTYPE html>")


def test_ledgers_in_the_metadata_add_up_shard_by_shard_and_in_all(twice, demo):
    found = metadata(twice.first)
    sums = [0, 0, 0, 0]
    for shard, words in found["selection"].items():
        read, kept, dropped, failed = map(int, LEDGER.fullmatch(words["ledger"].value).groups())
        assert read == kept + dropped + failed
        assert read == words["rows"].value == sum(sample.shard == shard for sample in demo.samples)
        assert dropped == sum(table(words["dropped"]).values())
        assert failed == sum(table(words["failed"]).values())
        sums = [total + one for total, one in zip(sums, (read, kept, dropped, failed), strict=True)]
    release, report = found["curated_shards"][None], found["curation_report"][None]
    assert list(map(int, LEDGER.fullmatch(release["ledger"].value).groups())) == sums
    assert sums[0] == len(demo.samples) == report["read"].value
    assert sums[1] == release["samples"].value == report["kept"].value
    assert sums[2] == sum(table(report["dropped"]).values())
    assert table(report["failed"]) == {
        "decode_failed": 1,  # the truncated JPEG
        "empty_image": 1,
        "missing_image": 1,
        "not_an_image": 1,
        "too_many_pixels": 1,
    }


def test_scores_without_a_head_say_why_they_are_null(twice):
    for asset in ("aesthetic_scores", "nsfw_scores"):
        for found in metadata(twice.first)[asset].values():
            assert found["scored"].value == 0
            assert "no known vector space" in found["why_null"].value


def test_second_run_reuses_every_artifact_and_writes_none(twice):
    assert twice.second.success
    found = metadata(twice.second)
    for asset in (*PER_SHARD, "duplicate_groups"):
        assert [words["reused"].value for words in found[asset].values()] == [True] * len(found[asset])
        assert [words["reused"].value for words in metadata(twice.first)[asset].values()] == [False] * len(found[asset])
    rewritten = {
        path.relative_to(twice.root).as_posix()
        for path in twice.root.rglob("*")
        if path.is_file() and twice.written.get(path) != path.stat().st_mtime_ns
    }
    assert rewritten <= {"report/report.html", "image-curation.json"}


def test_data_versions_say_that_nothing_changed(twice):
    def found(result) -> dict[tuple[str, str | None], str]:
        events = result.get_asset_materialization_events()
        tags = {(e.asset_key.to_user_string(), e.partition): e.materialization.tags for e in events}
        return {where: tag["dagster/data_version"] for where, tag in tags.items() if where[0] != "curation_report"}

    assert len(found(twice.first)) == 1 + len(PARTITIONED) * len(SHARDS)
    assert found(twice.first) == found(twice.second)


def test_each_shard_is_recorded_once_an_asset(twice):
    events = [(e.asset_key.to_user_string(), e.partition) for e in twice.first.get_asset_materialization_events()]
    assert len(events) == len(set(events)) == 2 + len(PARTITIONED) * len(SHARDS)
