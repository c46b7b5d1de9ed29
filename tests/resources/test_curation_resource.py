"""The `curation` resource: what is set in it, what the environment says, and what is said when neither does."""

import os

import dagster as dg
import pytest

from image_curation.errors import ConfigError
from resources.curation import Curation


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """No setting of whoever runs the tests gets in."""
    for name in [name for name in os.environ if name.startswith("IMAGE_CURATION_")]:
        monkeypatch.delenv(name)


def test_nothing_set_names_the_variables_to_set():
    with pytest.raises(ConfigError) as caught:
        Curation().settings()
    said = str(caught.value)
    assert "IMAGE_CURATION_SOURCE: Field required" in said
    assert "IMAGE_CURATION_ROOT: Field required" in said
    assert len(said.splitlines()) == 3


def test_wrong_value_in_the_environment_names_its_variable(monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_DECODE__MAX_PIXELS", "many")
    with pytest.raises(ConfigError, match=r"IMAGE_CURATION_DECODE__MAX_PIXELS: .*valid integer"):
        Curation(source="/data/raw", root="/data/out").settings()


def test_environment_gives_all_settings(monkeypatch):
    for name, value in {
        "SOURCE": "s3://bucket/raw",
        "ROOT": "s3://bucket/curated",
        "ENCODER": "clip-vit-b-32",
        "CLUSTER": "tcp://scheduler:8786",
        "WORKERS": "3",
        "DECODE__MAX_PIXELS": "1000",
        "DUPLICATES__SIMILARITY_MARGIN": "0.1",
    }.items():
        monkeypatch.setenv(f"IMAGE_CURATION_{name}", value)
    settings = Curation().settings()
    assert (settings.source, settings.root) == ("s3://bucket/raw", "s3://bucket/curated")
    assert (settings.encoder, settings.cluster, settings.workers) == ("clip-vit-b-32", "tcp://scheduler:8786", 3)
    assert settings.decode.max_pixels == 1000
    assert settings.duplicates.similarity_margin == 0.1


def test_what_is_set_in_the_resource_comes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGE_CURATION_SOURCE", "/from/environment")
    monkeypatch.setenv("IMAGE_CURATION_ROOT", str(tmp_path))
    monkeypatch.setenv("IMAGE_CURATION_ENCODER", "clip-vit-l-14")
    settings = Curation(source="/from/resource", encoder="embedded").settings()
    assert (settings.source, settings.root, settings.encoder) == ("/from/resource", str(tmp_path), "embedded")


def test_relative_places_are_made_absolute_so_that_they_hold_in_any_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = Curation(source="raw", root="./curated").settings()
    assert (settings.source, settings.root) == (str(tmp_path / "raw"), str(tmp_path / "curated"))


def test_values_may_come_from_dagsters_own_environment_variables(monkeypatch):
    monkeypatch.setenv("WHERE_TARS_ARE", "/data/raw")
    resource = Curation(source=dg.EnvVar("WHERE_TARS_ARE"), root="/data/out")
    with dg.build_resources({"curation": resource}) as resources:
        assert resources.curation.settings().source == "/data/raw"


def test_policy_is_read_anew_for_each_project(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("image: {min_short_side: 10}\n")
    resource = Curation(source="/data/raw", root="/data/out", policy=str(policy))
    assert resource.project().policy.image.min_short_side == 10
    policy.write_text("image: {min_short_side: 20}\n")
    assert resource.project().policy.image.min_short_side == 20


def test_unknown_encoder_lists_what_is_allowed():
    with pytest.raises(ConfigError, match="clip-vit-l-14, clip-vit-l-14-fp8, clip-vit-b-32, "):
        Curation(source="/data/raw", root="/data/out", encoder="clip").project()
