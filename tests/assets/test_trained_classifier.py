"""The asset of a trained model: from the raw tars to a model file, and back along what each of them names."""

import hashlib
import json
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest
import safetensors

from assets.definitions import defs

KEY = dg.AssetKey("trained_classifier")
SETTINGS = {"image_size": "32", "batch_size": "8", "threads": "1", "ema": "0", "amp": "none", "log_steps": "5"}
CONFIG = {"label_field": "curation.format", "model": "test_resnet", "epochs": 1, "val_fraction": 0.2}


def materialize(graph, **changes) -> dg.ExecuteInProcessResult:
    # The job of all assets, which is resolved once: Dagster resolves new ones by whichever instance was entered last.
    return defs.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[KEY],
        instance=graph.instance,
        run_config={"ops": {"trained_classifier": {"config": CONFIG | {"settings": SETTINGS} | changes}}},
        raise_on_error=False,
    )


@pytest.fixture
def curated(graph, demo):
    """Two raw shards of eighteen photos each, curated."""
    plain = demo.plain()
    for name, keys in (("one", plain[:18]), ("two", plain[18:36])):
        demo.pack(graph.source / f"{name}.tar", *keys)
    graph.prepare("one", "two")
    return graph


def test_walks_from_a_model_back_to_the_raw_shards(curated):
    assert materialize(curated).success
    event = curated.instance.get_latest_materialization_event(KEY)
    found = {name: value.value for name, value in event.asset_materialization.metadata.items()}

    model = Path(found["model"]) / "model.safetensors"
    with safetensors.safe_open(model, framework="pt") as file:
        named = file.metadata()["release_manifest_sha256"]
    manifest = Path(found["release_manifest"])
    assert named == found["release_manifest_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()

    shards = json.loads(manifest.read_text())["shards"]
    rows = [row for s in shards for row in pq.read_table(manifest.parent / s["parquet"]["name"]).to_pylist()]
    assert {row["shard"] for row in rows} == {"one", "two"}
    assert found["raw_shards_in_all"] == 2
    for shard in ("one", "two"):
        assert f"| {shard} | {sum(row['shard'] == shard for row in rows)} |" in found["raw_shards"]

    upstream, graph = {KEY}, defs.resolve_asset_graph()
    while grown := {parent for key in upstream for parent in graph.get(key).parent_keys} - upstream:
        upstream |= grown
    assert dg.AssetKey("shard_index") in upstream
    assert curated.done("shard_index") == {"one", "two"}


def test_trained_again_on_the_same_release_it_is_taken_as_it_is(curated):
    assert materialize(curated).success
    first = curated.instance.get_latest_materialization_event(KEY).asset_materialization
    assert materialize(curated).success
    again = curated.instance.get_latest_materialization_event(KEY).asset_materialization
    assert [event.metadata["reused"].value for event in (first, again)] == [False, True]
    assert first.tags["dagster/data_version"] == again.tags["dagster/data_version"]


def test_samples_without_a_label_fail_the_run_and_are_named(curated):
    result = materialize(curated, label_field="genus")
    assert not result.success
    assert "samples have no class in 'genus'" in str(result.all_events[-2:]) + str(
        [event.event_specific_data for event in result.all_events if event.is_step_failure]
    )
