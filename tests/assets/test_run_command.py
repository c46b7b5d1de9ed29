"""`python -m assets.run`: the graph over all tars of the source in the instance at DAGSTER_HOME."""

import json
import os

import dagster as dg
import pytest

from assets import run, tars


@pytest.fixture
def two_tars(graph, demo):
    demo.pack(graph.source / "a.tar", *demo.plain()[:2])
    demo.pack(graph.source / "b.tar", *demo.plain()[2:4])
    return graph


def ledger(graph) -> dict:
    return json.loads((graph.root / "release" / "manifest.json").read_text())["ledger"]


def test_every_tar_is_curated_and_each_step_is_shown(two_tars, capsys):
    assert run.main() == 0
    assert two_tars.instance.get_dynamic_partitions("shards") == ["a", "b"]
    assert two_tars.done("selection") == {"a", "b"}
    assert ledger(two_tars)["read"] == 4
    shown = capsys.readouterr().err
    for step in ("shard_index", "embeddings", "duplicate_groups", "curation_report", "selection_ledger_adds_up"):
        assert step in shown


def test_tar_that_was_removed_leaves_the_release_and_the_partitions(two_tars):
    assert run.main() == 0
    os.remove(two_tars.source / "a.tar")
    assert run.main() == 0
    assert two_tars.instance.get_dynamic_partitions("shards") == ["b"]
    assert ledger(two_tars)["read"] == 2
    (newest, oldest) = two_tars.instance.get_runs()
    assert newest.status == oldest.status == dg.DagsterRunStatus.SUCCESS


def test_no_tar_is_a_sentence_and_exit_code_1(graph, capsys):
    assert run.main() == 1
    assert "there is no .tar file below" in " ".join(capsys.readouterr().err.split())
    assert graph.instance.get_runs() == []


def test_settings_that_are_missing_are_named(graph, capsys, monkeypatch):
    monkeypatch.delenv("IMAGE_CURATION_SOURCE")
    assert run.main() == 1
    assert "IMAGE_CURATION_SOURCE: Field required" in capsys.readouterr().err


def test_failed_step_is_told_in_a_sentence_and_exit_code_1(two_tars, capsys):
    (two_tars.root / "embeddings" / "embedded" / "b.parquet").mkdir(parents=True)
    assert run.main() == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "embeddings failed: 1 of 2 shards failed; the others are recorded. Retry these alone: b (" in shown
    assert "Traceback" not in shown
    assert ".py" not in shown


def test_encoder_without_its_weights_is_told_before_anything_runs(two_tars, capsys, monkeypatch):
    monkeypatch.setenv("IMAGE_CURATION_ENCODER", "onnx:/nowhere/model.onnx")
    assert run.main() == 1
    assert "there is no weights file at /nowhere/model.onnx" in " ".join(capsys.readouterr().err.split())
    assert two_tars.instance.get_runs() == []


def test_failed_shard_is_told_by_name(two_tars, capsys, monkeypatch):
    monkeypatch.setattr(tars, "partitions_of", without_b(tars.partitions_of))  # as `shard_index` sees them, not `run`
    assert run.main() == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "shard_index failed: 1 shards are no longer under" in shown
    assert "Traceback" not in shown


def without_b(partitions_of):
    """The source as it is once b.tar has been taken away."""
    return lambda settings: [one for one in partitions_of(settings) if one.key != "b"]


def test_check_that_fails_is_shown_with_what_it_found(two_tars, capsys, garbage):
    (two_tars.source / "b.tar").write_bytes(garbage)
    assert run.main() == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "✗ shards_are_readable: 1 tars cannot be read" in shown
    assert ledger(two_tars)["kept"] == 2
