"""One bad tar costs its partition: what is recorded, what is missing, what is said, and how it is mended."""

import json
import os
import time

import dagster as dg
import pytest

from image_curation.artifacts import read_table
from image_curation.cluster import InlineCluster

SHARDS = ("alpha", "beta", "gamma")


@pytest.fixture
def three(graph, demo):
    """Three tars of four photographs each, indexed but not embedded."""
    keys = demo.plain()
    for n, shard in enumerate(SHARDS):
        demo.pack(graph.source / f"{shard}.tar", *keys[4 * n : 4 * n + 4])
    graph.register(*SHARDS)
    assert graph.run(*SHARDS, only=["shard_index"]).success
    return graph


def failure(result: dg.ExecuteInProcessResult, step: str) -> tuple[str, dict]:
    """What a failed step says, and the metadata of its failure."""
    (event,) = [event for event in result.all_events if event.is_step_failure and event.step_key == step]
    data = event.step_failure_data
    return data.user_failure_data.description, dict(data.user_failure_data.metadata)


def recorded(graph, result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dict[str, dg.MetadataValue]]:
    """Partition -> metadata of what this run materialized of an asset, by the instance's log."""
    logs = graph.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = [entry.asset_materialization for entry in logs]
    return {one.partition: dict(one.metadata) for one in found if one.asset_key == dg.AssetKey(asset)}


def test_tar_that_vanishes_after_indexing_costs_its_partition_alone(three):
    tar = three.source / "beta.tar"
    content, times = tar.read_bytes(), tar.stat()
    tar.unlink()

    result = three.run(*SHARDS, only=["embeddings"])

    assert not result.success
    assert set(recorded(three, result, "embeddings")) == {"alpha", "gamma"} == three.done("embeddings")
    assert {row["rows"].value for row in recorded(three, result, "embeddings").values()} == {4}
    said, metadata = failure(result, "embeddings")
    assert said.startswith("1 of 3 shards failed; the others are recorded. Retry these alone: beta (ShardError: ")
    assert "beta.tar" in said
    assert list(metadata["failed_shards"].value) == ["beta"]

    tar.write_bytes(content)
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    retried = three.run("beta", only=["embeddings"])
    assert retried.success
    assert set(recorded(three, retried, "embeddings")) == {"beta"}
    assert three.done("embeddings") == set(SHARDS)


def test_tar_cut_short_after_indexing_costs_its_partition_alone(three):
    tar = three.source / "beta.tar"
    os.truncate(tar, tar.stat().st_size // 2)

    result = three.run(*SHARDS, only=["embeddings"])

    assert not result.success
    assert three.done("embeddings") == {"alpha", "gamma"}
    said, metadata = failure(result, "embeddings")
    assert "beta" in said
    assert list(metadata["failed_shards"].value) == ["beta"]


def test_tar_replaced_after_indexing_is_not_embedded_by_the_old_index(three, demo):
    demo.pack(three.source / "beta.tar", *demo.plain()[20:24])

    result = three.run(*SHARDS, only=["embeddings"])

    assert three.done("embeddings") == {"alpha", "gamma"}
    assert "beta" in failure(result, "embeddings")[0]
    assert three.run(*SHARDS).success
    assert three.done("selection") == set(SHARDS)


def test_tar_that_was_cut_short_for_a_while_loses_no_sample_for_good(three):
    tar = three.source / "beta.tar"
    content = tar.read_bytes()
    os.truncate(tar, len(content) // 2)
    three.run(*SHARDS, only=["embeddings"])

    tar.write_bytes(content)

    assert three.run(*SHARDS).success
    statuses = read_table(three.project.embeddings_url("beta"), ["status"])["status"].to_pylist()
    assert statuses == ["ok"] * 4


def test_nothing_follows_a_failed_step_and_the_rest_is_released_without_the_bad_shard(three):
    (three.source / "gamma.tar").unlink()
    whole = three.run(*SHARDS, only=["embeddings", "aesthetic_scores", "nsfw_scores", "duplicate_groups"])
    assert not whole.success
    assert recorded(three, whole, "aesthetic_scores") == {}

    rest = three.run("alpha", "beta")

    assert rest.success
    assert set(recorded(three, rest, "selection")) == {"alpha", "beta"}
    assert recorded(three, rest, "embeddings")["alpha"]["reused"].value is True
    manifest = json.loads((three.root / "release" / "manifest.json").read_text())
    assert manifest["ledger"]["read"] == 8


def test_shard_is_on_record_while_the_next_is_being_made(three, monkeypatch):
    run, on_record = InlineCluster.run, []

    def slowly(cluster, stages, items):
        for done in run(cluster, stages, items):
            yield done
            deadline = time.monotonic() + 30
            while done.item not in three.done("embeddings") and time.monotonic() < deadline:
                time.sleep(0.05)
            on_record.append(three.done("embeddings"))

    monkeypatch.setattr(InlineCluster, "run", slowly)
    assert three.run(*SHARDS, only=["embeddings"]).success
    assert on_record == [{"alpha"}, {"alpha", "beta"}, {"alpha", "beta", "gamma"}]


def test_tar_that_is_gone_before_indexing_is_named_with_what_to_do(three):
    (three.source / "beta.tar").unlink()
    result = three.run(*SHARDS)
    assert not result.success
    said, _ = failure(result, "shard_index")
    assert said.startswith(f"1 shards are no longer under {three.source}: beta. ")
    assert "put the tars back" in said


def test_garbage_tar_fails_the_check_by_name_and_the_rest_is_released(graph, demo, garbage):
    demo.pack(graph.source / "good.tar", *demo.plain()[:3])
    (graph.source / "trash.tar").write_bytes(garbage)
    graph.register("good", "trash")

    result = graph.run("good", "trash")

    assert result.success
    assert set(recorded(graph, result, "shard_index")) == {"good", "trash"}
    assert "trash" in recorded(graph, result, "shard_index")["trash"]["damage"].value
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert {name for name, check in checks.items() if not check.passed} == {"shards_are_readable"}
    said = checks["shards_are_readable"].description
    assert said.startswith("1 tars cannot be read and 0 are damaged.")
    assert "trash: " in said
    assert "good" not in said
    manifest = json.loads((graph.root / "release" / "manifest.json").read_text())
    assert manifest["ledger"] == {"read": 3, "kept": 3, "dropped": {}, "failed": {}}


def test_tar_with_a_torn_end_keeps_its_whole_samples_and_fails_the_check(graph, demo):
    demo.pack(graph.source / "torn.tar", *demo.plain()[:4])
    tar = graph.source / "torn.tar"
    os.truncate(tar, tar.stat().st_size * 2 // 3)
    graph.register("torn")

    result = graph.run("torn")

    assert result.success
    row = recorded(graph, result, "shard_index")["torn"]
    assert row["damage"].value != "none"
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert "torn: " in checks["shards_are_readable"].description
    assert {name for name, check in checks.items() if not check.passed} == {"shards_are_readable"}
    manifest = json.loads((graph.root / "release" / "manifest.json").read_text())
    assert 1 <= manifest["ledger"]["kept"] <= 3


def test_selection_of_a_shard_without_scores_is_not_recorded(three):
    assert three.run(*SHARDS, only=["embeddings", "duplicate_groups"]).success
    assert three.run("alpha", only=["aesthetic_scores", "nsfw_scores"]).success

    result = three.run("alpha", "beta", only=["selection"])

    assert not result.success
    assert three.done("selection") == {"alpha"}
    said, metadata = failure(result, "selection")
    assert said.startswith("1 of 2 shards failed; the others are recorded. Retry these alone: beta (it is not ready")
    assert list(metadata["failed_shards"].value) == ["beta"]
    assert three.run("alpha", "beta").success
    assert three.done("selection") == {"alpha", "beta"}
