"""Settings: from arguments and IMAGE_CURATION_* variables, with errors that list the variables to mend."""

import os
import pickle
from pathlib import Path

import pytest

from image_curation.config import Settings, gpu_count, load_settings, resolve_device
from image_curation.errors import ConfigError


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("IMAGE_CURATION_")]:
        monkeypatch.delenv(name)


def test_arguments_and_defaults():
    settings = load_settings(source="/raw", root="/curated", workers=None, encoder="clip-vit-b-32")
    assert (settings.source, settings.root, settings.encoder) == ("/raw", "/curated", "clip-vit-b-32")
    assert (settings.policy, settings.weights, settings.workers) == (None, None, None)
    assert (settings.device, settings.cluster) == ("auto", "auto")
    assert load_settings(source="/raw", root="/curated").encoder == "embedded"


def test_variables_stand_in_for_arguments_and_arguments_go_first(monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_SOURCE", "s3://bucket/raw")
    monkeypatch.setenv("IMAGE_CURATION_ROOT", "s3://bucket/curated")
    monkeypatch.setenv("IMAGE_CURATION_WORKERS", "3")
    monkeypatch.setenv("IMAGE_CURATION_DEVICE", "cuda")
    settings = load_settings(root="/elsewhere", device="cpu")
    assert settings.source == "s3://bucket/raw"
    assert settings.root == "/elsewhere"
    assert (settings.workers, settings.device) == (3, "cpu")


def test_nested_variables_change_one_field_of_a_section(monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_DECODE__MAX_PIXELS", "1000")
    monkeypatch.setenv("IMAGE_CURATION_DUPLICATES__SIMILARITY_MARGIN", "0.1")
    settings = load_settings(source="/a", root="/b")
    assert (settings.decode.max_pixels, settings.decode.max_bytes) == (1000, 100_000_000)
    assert (settings.duplicates.similarity_margin, settings.duplicates.max_phash_distance) == (0.1, 8)


def test_section_as_json(monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_DECODE", '{"max_pixels": 7}')
    assert load_settings(source="/a", root="/b").decode.max_pixels == 7


def test_section_that_is_no_json(monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_DECODE", "max_pixels=7")
    with pytest.raises(ConfigError, match=r'field "decode".*IMAGE_CURATION_DECODE__MAX_PIXELS.*JSON object'):
        load_settings(source="/a", root="/b")


def test_empty_variable_is_as_good_as_none(monkeypatch):
    for name in ("POLICY", "WORKERS", "WEIGHTS", "DEVICE"):
        monkeypatch.setenv(f"IMAGE_CURATION_{name}", "")
    assert load_settings(source="/a", root="/b") == Settings(source="/a", root="/b")


def test_variables_of_others_with_our_prefix_do_no_harm(monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_TEST_DATA", "/somewhere")
    assert load_settings(source="/a", root="/b") == Settings(source="/a", root="/b")


def test_error_lists_every_variable_that_is_missing_or_wrong(monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_DEVICE", "tpu")
    monkeypatch.setenv("IMAGE_CURATION_WORKERS", "0")
    monkeypatch.setenv("IMAGE_CURATION_DECODE__MAX_PIXELS", "many")
    monkeypatch.setenv("IMAGE_CURATION_DUPLICATES__MAX_PHASH_DISTANCE", "17")
    with pytest.raises(ConfigError) as caught:
        load_settings(root="/b")
    first, *lines = str(caught.value).splitlines()
    assert first == "settings are missing or wrong:"
    assert sorted(lines) == [
        "  IMAGE_CURATION_DECODE__MAX_PIXELS: Input should be a valid integer, unable to parse string as an integer",
        "  IMAGE_CURATION_DEVICE: Input should be 'auto', 'cpu' or 'cuda'",
        "  IMAGE_CURATION_DUPLICATES__MAX_PHASH_DISTANCE: Input should be less than or equal to 16",
        "  IMAGE_CURATION_SOURCE: Field required",
        "  IMAGE_CURATION_WORKERS: Input should be greater than or equal to 1",
    ]


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="IMAGE_CURATION_ENCODR: Extra inputs are not permitted"):
        load_settings(source="/a", root="/b", encodr="embedded")
    monkeypatch.setenv("IMAGE_CURATION_DECODE__MAX_PIXEL", "5")
    with pytest.raises(ConfigError, match="IMAGE_CURATION_DECODE__MAX_PIXEL: Extra inputs are not permitted"):
        load_settings(source="/a", root="/b")


def test_local_paths_become_absolute_and_urls_stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load_settings(source="raw", root="s3://bucket/x", policy="../policy.yaml", heads="~/heads")
    assert settings.source == str(tmp_path / "raw")
    assert settings.root == "s3://bucket/x"
    assert settings.policy == str(tmp_path.parent / "policy.yaml")
    assert settings.heads == "/home/somebody/heads"


def test_settings_travel_to_workers_and_serve_as_keys():
    settings = load_settings(source="/a", root="/b", decode={"max_pixels": 5})
    copy = pickle.loads(pickle.dumps(settings))  # noqa: S301 - what Dask does
    assert copy == settings
    assert hash(copy) == hash(settings)


def test_cores_are_shared_among_workers(monkeypatch):
    for gpus, cores, workers, expected in (
        (0, 8, None, (4, 2)),
        (0, 8, 3, (3, 2)),
        (0, 2, 4, (4, 1)),
        (0, 1, None, (1, 1)),
        (1, 16, None, (1, 16)),
        (8, 128, None, (8, 16)),
        (8, 128, 2, (2, 64)),
    ):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr("image_curation.config.gpu_count", lambda gpus=gpus: gpus)
        settings = Settings(source="/a", root="/b", workers=workers)
        assert (settings.local_workers(), settings.threads_per_worker()) == expected


def test_device(monkeypatch):
    for gpus, expected in ((0, "cpu"), (2, "cuda")):
        monkeypatch.setattr("image_curation.config.gpu_count", lambda gpus=gpus: gpus)
        assert resolve_device("auto") == expected
        assert (resolve_device("cpu"), resolve_device("cuda")) == ("cpu", "cuda")


def test_gpus_are_counted_by_the_driver_alone():
    assert (gpu_count() > 0) == Path("/dev/nvidiactl").exists()
