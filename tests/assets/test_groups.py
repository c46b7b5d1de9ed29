"""Partitions that are groups of tars: taken up by the sensor, grown, changed, shrunk, and failed in one tar."""

import json
import os

import dagster as dg
import pytest

from assets.automation import DECISIONS, TRIES
from assets.partitions import range_tags
from assets.versions import SAMPLES
from tests.assets.ticks import night, settle, tick

FIRST, SECOND, THIRD = "group-000000", "group-000001", "group-000002"


@pytest.fixture
def grouped(graph, demo, monkeypatch):
    """Tars b, c, d of one photograph each; two of them fill a group."""
    pack(graph, demo, b=0, c=1, d=2)
    smallest = min(tar.stat().st_size for tar in graph.source.iterdir())
    largest = max(tar.stat().st_size for tar in graph.source.iterdir())
    assert largest < 2 * smallest
    monkeypatch.setenv("IMAGE_CURATION_PARTITION_BYTES", str(largest + 1))
    return graph


@pytest.fixture
def curated(grouped):
    assert settle(grouped) == [(SAMPLES, (FIRST, SECOND)), (DECISIONS, (FIRST, FIRST))]
    return grouped


def pack(graph, demo, **photographs: int) -> None:
    """Tars of one photograph each, padded to the same size."""
    for name, number in photographs.items():
        tar = graph.source / f"{name}.tar"
        demo.pack(tar, demo.plain()[number])
        with tar.open("ab") as file:
            file.truncate(1 << 20)


def files(graph) -> dict[str, int]:
    """Artifacts of samples, and when each was written."""
    folders = [graph.root / name for name in ("shard_index", "embeddings", "aesthetic_scores", "nsfw_scores")]
    found = [path for folder in folders for path in folder.rglob("*.parquet") if path.is_file()]
    return {path.relative_to(graph.root).as_posix(): path.stat().st_mtime_ns for path in found}


def rewritten(graph, before: dict[str, int]) -> set[str]:
    return {name.split("/")[-1].removesuffix(".parquet") for name, at in files(graph).items() if before.get(name) != at}


def latest(graph, asset: str, key: str) -> dg.AssetMaterialization:
    records = graph.instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[key]), limit=1
    ).records
    return records[0].asset_materialization


def test_groups_are_partitions_that_are_recorded_once_all_their_tars_are_done(curated):
    assert curated.instance.get_dynamic_partitions("shards") == [FIRST, SECOND]
    for asset in (*SAMPLES, "duplicate_groups", "selection"):
        assert curated.done(asset) == {FIRST, SECOND}
    assert curated.released()["read"] == 3
    first = latest(curated, "embeddings", FIRST).metadata
    assert (first["tars"].value, first["rows"].value, first["reused"].value) == (2, 2, False)
    assert "| ok | 2 |" in first["statuses"].value
    assert latest(curated, "selection", FIRST).metadata["ledger"].value == "2 read = 2 kept + 0 dropped + 0 failed"
    assert tick(curated).skip_message == "nothing new among the 2 tars in the source"
    assert isinstance(night(curated), dg.SkipReason)
    assert {check.passed for check in curated.audit().values()} == {True}


def test_newcomers_fill_the_open_group_and_no_tar_of_a_closed_one_moves_or_is_made_again(curated, demo):
    before, closed = files(curated), latest(curated, "embeddings", FIRST)
    pack(curated, demo, a=3, e=4)
    assert settle(curated) == [(SAMPLES, (SECOND, THIRD)), (DECISIONS, (FIRST, FIRST))]
    assert curated.instance.get_dynamic_partitions("shards") == [FIRST, SECOND, THIRD]
    assert rewritten(curated, before) == {"a", "e"}
    assert latest(curated, "embeddings", FIRST) == closed
    assert latest(curated, "embeddings", SECOND).metadata["tars"].value == 2
    assert curated.released()["read"] == 5


def test_changed_tar_makes_itself_again_and_its_group_a_new_record(curated, demo):
    before, other = files(curated), latest(curated, "embeddings", SECOND)
    pack(curated, demo, c=5)
    assert settle(curated)[0] == (SAMPLES, (FIRST, FIRST))
    assert rewritten(curated, before) == {"c"}
    assert latest(curated, "embeddings", SECOND) == other
    assert curated.released()["read"] == 3


def test_removed_tar_leaves_its_group_and_the_release_and_nothing_is_made(curated):
    before = files(curated)
    os.remove(curated.source / "b.tar")
    settle(curated)
    assert rewritten(curated, before) == set()
    assert [path.stem for path in sorted((curated.root / "selection").rglob("*.parquet"))] == ["c", "d"]
    assert curated.released()["read"] == 2
    os.remove(curated.source / "c.tar")
    settle(curated)
    assert curated.instance.get_dynamic_partitions("shards") == [SECOND]
    assert curated.released()["read"] == 1


def test_tar_that_fails_keeps_its_group_out_and_is_alone_to_be_made_when_it_is_mended(grouped):
    in_the_way = grouped.root / "embeddings" / "embedded" / "b.parquet"
    in_the_way.mkdir(parents=True)
    settle(grouped)
    assert grouped.done("embeddings") == {SECOND}
    assert grouped.released()["read"] == 1
    assert tick(grouped).skip_message.startswith(f"1 of the 2 tars in the source failed {TRIES} times: {FIRST}.")
    failures = [
        entry.dagster_event.step_failure_data.user_failure_data.metadata["failed_shards"].value[FIRST]
        for run in grouped.instance.get_runs()
        for entry in grouped.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    ]
    assert len(failures) == TRIES + 1
    assert all(said.startswith("b: ") for said in failures)
    before = {name: at for name, at in files(grouped).items() if name.startswith("embeddings/")}
    assert {name.split("/")[-1] for name in before} == {"c.parquet", "d.parquet"}
    in_the_way.rmdir()
    for request in night(grouped):
        assert grouped.run(tags=request.tags, only=[key.to_user_string() for key in request.asset_selection]).success
    assert before.items() <= files(grouped).items()
    assert grouped.released()["read"] == 3


def test_grouping_what_was_curated_tar_by_tar_makes_nothing_again(graph, demo, monkeypatch):
    pack(graph, demo, b=0, c=1, d=2)
    settle(graph)
    assert graph.instance.get_dynamic_partitions("shards") == ["b", "c", "d"]
    before, manifest = files(graph), json.loads((graph.root / "release" / "manifest.json").read_text())
    monkeypatch.setenv("IMAGE_CURATION_PARTITION_BYTES", str((1 << 20) + 1))
    settle(graph)
    assert graph.instance.get_dynamic_partitions("shards") == [FIRST, SECOND]
    assert rewritten(graph, before) == set()
    assert json.loads((graph.root / "release" / "manifest.json").read_text()) == manifest


def test_stale_group_in_a_step_of_its_own_is_named_with_what_to_do(curated, demo):
    pack(curated, demo, c=5)
    tick(curated)  # lists the source, so that the group has another tar
    result = curated.run(FIRST, only=["nsfw_scores"])
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert "materialize its shard_index first" in failed.step_failure_data.user_failure_data.description
    assert curated.run(tags=range_tags([FIRST])).success
    assert curated.released()["read"] == 3
