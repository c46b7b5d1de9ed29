"""What Dagster calls stale, after each kind of change, and that the night brings just that up to date."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from assets import versions
from assets.automation import DECISIONS
from assets.definitions import defs
from assets.versions import PARENTS, SAMPLES
from tests.assets import ticks

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS = ("a", "b", "c")
GLOBAL = ("curated_shards", "curation_report")


def stale(graph) -> set[tuple[str, str | None]]:
    """(asset, shard) that Dagster shows as stale or missing to one who loads the graph under the present settings."""
    now = versions.versions(graph.project)
    loaded = [
        asset.map_asset_specs(lambda spec: spec.replace_attributes(code_version=now.get(spec.key.path[-1])))
        for asset in defs.assets or []
    ]
    resolver = CachingStaleStatusResolver(
        graph.instance,
        AssetGraph.from_assets(loaded),
        LoadingContextForTest(graph.instance),
    )
    shards = graph.instance.get_dynamic_partitions("shards")
    return {
        (asset, shard)
        for asset in PARENTS
        for shard in ([None] if asset in GLOBAL else shards)
        if resolver.get_status(dg.AssetKey(asset), shard) != StaleStatus.FRESH
    }


def everything(*assets: str, shards=SHARDS) -> set[tuple[str, str | None]]:
    return {(asset, shard) for asset in assets for shard in ([None] if asset in GLOBAL else shards)}


def night(graph) -> list[dg.ExecuteInProcessResult]:
    """Carry out what the schedule asks for."""
    requests = ticks.night(graph)
    assert not isinstance(requests, dg.SkipReason)
    only = [[key.to_user_string() for key in request.asset_selection] for request in requests]
    results = [graph.run(tags=request.tags, only=some) for request, some in zip(requests, only, strict=True)]
    assert all(result.success for result in results)
    return results


def materialized(graph, results) -> set[str]:
    logs = [graph.instance.all_logs(one.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION) for one in results]
    return {entry.asset_materialization.asset_key.to_user_string() for log in logs for entry in log}


@pytest.fixture
def curated(graph, demo):
    """Three curated shards; `a` holds a small copy of a photograph that is in none of them."""
    demo.pack(graph.source / "a.tar", demo.twins("resized")[0][0])
    demo.pack(graph.source / "b.tar", *demo.plain()[:2])
    demo.pack(graph.source / "c.tar", *demo.plain()[2:4])
    night(graph)
    return graph


def test_nothing_is_stale_after_a_night(curated):
    assert stale(curated) == set()


def test_new_policy_makes_selection_and_what_follows_stale_and_a_night_mends_just_that(curated, monkeypatch):
    policy = curated.root.parent / "policy.yaml"
    policy.write_text("image: {min_exposure: 0.03}\n")
    monkeypatch.setenv("IMAGE_CURATION_POLICY", str(policy))
    assert stale(curated) == everything("selection", *GLOBAL)
    assert materialized(curated, night(curated)) == {"duplicate_groups", "selection", *GLOBAL}
    assert stale(curated) == set()


def test_new_shape_of_the_release_makes_the_release_stale_alone(curated, monkeypatch):
    policy = curated.root.parent / "policy.yaml"
    policy.write_text("release: {samples_per_shard: 2}\n")
    monkeypatch.setenv("IMAGE_CURATION_POLICY", str(policy))
    assert stale(curated) == everything(*GLOBAL)


def test_new_encoder_makes_everything_from_the_embeddings_on_stale(curated, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_ENCODER", "clip-vit-b-32")
    assert stale(curated) == everything(*PARENTS) - everything("shard_index")


def test_new_code_makes_the_asset_and_what_follows_stale_and_a_night_mends_just_that(curated, monkeypatch):
    monkeypatch.setitem(versions.CODE, "nsfw_scores", "2")
    assert stale(curated) == everything("nsfw_scores", "selection", *GLOBAL)
    assert materialized(curated, night(curated)) == {"nsfw_scores", *DECISIONS}
    assert stale(curated) == set()


def test_new_shard_leaves_all_but_its_twin_as_fresh_as_they_were(curated, demo):
    demo.pack(curated.source / "d.tar", demo.twins("resized")[0][1])
    results = night(curated)
    assert stale(curated) == set()
    log = curated.instance.all_logs(results[-1].run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    recorded = {
        (entry.asset_materialization.asset_key.to_user_string(), entry.asset_materialization.partition) for entry in log
    }
    assert recorded >= {("duplicate_groups", "a"), ("selection", "a"), ("selection", "d")}
    assert ("selection", "b") not in recorded
    assert ("selection", "c") not in recorded


def test_changed_tar_makes_its_own_shard_stale_step_by_step(curated, demo):
    demo.pack(curated.source / "b.tar", *demo.plain()[4:7])
    assert curated.run("b", only=["shard_index"]).success
    assert stale(curated) == {("embeddings", "b")}
    assert curated.run("b", only=["embeddings"]).success
    assert stale(curated) == everything(*SAMPLES[2:], "duplicate_groups", shards=("b",))
    night(curated)
    assert stale(curated) == set()


def test_graph_is_loaded_with_the_versions_of_the_environments_settings(tmp_path):
    program = "import json; from assets.definitions import defs; g = defs.resolve_asset_graph(); "
    program += "print(json.dumps({k.to_user_string(): g.get(k).code_version for k in g.get_all_asset_keys()}))"
    (tmp_path / "policy.yaml").write_text("image: {min_exposure: 0.03}\n")
    places = {"IMAGE_CURATION_SOURCE": str(tmp_path / "raw"), "IMAGE_CURATION_ROOT": str(tmp_path / "curated")}

    def loaded(**more: str) -> dict[str, str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("IMAGE_CURATION_")}
        ran = subprocess.run(
            [sys.executable, "-c", program], cwd=REPOSITORY, env=given | places | more, capture_output=True, check=True
        )
        found: dict[str, str] = json.loads(ran.stdout)
        return found

    default, strict = loaded(), loaded(IMAGE_CURATION_POLICY=str(tmp_path / "policy.yaml"))
    assert {name for name in PARENTS if default[name] != strict[name]} == {"selection", *GLOBAL}
    wrong = loaded(IMAGE_CURATION_POLICY=str(tmp_path / "nowhere.yaml"))
    assert set(wrong) >= set(PARENTS)
