"""The code location as Dagster loads it: cheap, valid, described, and wired as designed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import defs
from assets.versions import PARENTS

REPOSITORY = Path(__file__).resolve().parents[2]

DEPENDENCIES = {
    "shard_index": set(),
    "embeddings": {"shard_index"},
    "aesthetic_scores": {"embeddings"},
    "nsfw_scores": {"embeddings"},
    "known_matches": {"embeddings"},
    "duplicate_groups": {"embeddings"},
    "selection": {"aesthetic_scores", "nsfw_scores", "known_matches", "duplicate_groups"},
    "curated_shards": {"selection"},
    "curation_report": {"curated_shards"},
    "trained_classifier": {"curated_shards"},
}
GLOBAL = {"curated_shards", "curation_report", "trained_classifier"}
OPTIONAL = {"trained_classifier"}
CHECKS = {
    ("shard_index", "shards_are_readable"),
    ("embeddings", "vectors_have_samples"),
    ("embeddings", "vectors_have_unit_norm"),
    ("selection", "ledger_adds_up"),
    ("curated_shards", "release_equals_selection"),
}
HEAVY = ("torch", "nvidia", "cupy", "cudf", "cuml", "open_clip", "timm", "onnxruntime", "matplotlib", "sklearn")


def clean_environment(home: Path) -> dict[str, str]:
    """What a shell of a new user has: no setting of ours, no Dagster instance."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {"DAGSTER_HOME": str(home)}


def graph():
    return defs.resolve_asset_graph()


def node(name: str):
    return graph().get(dg.AssetKey(name))


def test_dagster_validates_the_workspace_without_any_setting(tmp_path):
    (tmp_path / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())
    result = subprocess.run(
        [Path(sys.executable).parent / "dagster", "definitions", "validate"],
        cwd=REPOSITORY,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert "Validation successful for code location image-curation" in said


def test_loading_the_definitions_loads_no_model_library(tmp_path):
    program = "import sys, json, assets.definitions; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    modules = json.loads(result.stdout)
    assert "assets.curated_shards" in modules
    assert "image_curation.steps.embeddings" in modules
    assert [name for name in modules if name.partition(".")[0] in HEAVY] == []


def test_assets_are_those_of_the_design_with_their_dependencies():
    assert {key.to_user_string() for key in graph().get_all_asset_keys()} == set(DEPENDENCIES)
    found = {name: {key.to_user_string() for key in node(name).parent_keys} for name in DEPENDENCIES}
    assert found == DEPENDENCIES


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_asset_says_who_what_and_which_version(name):
    asset = node(name)
    assert asset.owners == ["team:curation"]
    assert len(asset.kinds) >= 1
    assert len(asset.description) > 30
    assert asset.group_name in ("images", "measures", "release", "training")
    assert asset.code_version


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_partitions_are_shards_where_rows_are_of_one_shard(name):
    asset = node(name)
    if name in GLOBAL:
        assert asset.partitions_def is None
    else:
        assert asset.partitions_def.name == "shards"
        assert asset.backfill_policy.max_partitions_per_run == 500


def test_checks_stand_at_their_assets():
    found = {(key.asset_key.to_user_string(), key.name) for key in graph().asset_check_keys}
    assert found == CHECKS
    for key in graph().asset_check_keys:
        description = graph().get_check_spec(key).description
        assert description
        assert description.endswith(".")


def test_job_covers_every_asset_but_the_optional_ones_and_every_check():
    layer = defs.resolve_job_def("curate").asset_layer
    assert {key.to_user_string() for key in layer.selected_asset_keys} == set(DEPENDENCIES) - OPTIONAL
    assert {(key.asset_key.to_user_string(), key.name) for key in layer.asset_graph.asset_check_keys} == CHECKS


def test_sensor_and_schedule_are_off_until_somebody_turns_them_on():
    (sensor,), (schedule,) = defs.sensors, defs.schedules
    assert (sensor.name, schedule.name) == ("new_shards", "nightly")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_versions_are_told_along_the_graph_as_it_is():
    told = {name: set(parents) for name, parents in PARENTS.items()}
    assert told == {name: parents for name, parents in DEPENDENCIES.items() if name not in OPTIONAL}
    assert all(set(parents) <= set(list(PARENTS)[:n]) for n, parents in enumerate(PARENTS.values()))
