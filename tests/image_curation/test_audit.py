"""Audits: all hold on an untouched curation, and each finds the one thing that was broken for it."""

import shutil
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from image_curation import audit
from image_curation.artifacts import read_artifact, read_table, write_table
from image_curation.errors import ArtifactError
from image_curation.project import Project

SHARD = "demo-00001"


@pytest.fixture
def broken(demo, tmp_path):
    """A copy of the curated demo whose files may be changed."""
    shutil.copytree(demo.root, tmp_path / "out")
    return Project.load(demo.project.settings.model_copy(update={"root": str(tmp_path / "out")}))


@pytest.fixture
def shards(demo) -> list[str]:
    return demo.project.selected_shards()


def rewrite(url: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the rows of an artifact behind its certificate's back."""
    artifact = read_artifact(url)
    write_table(url, change(read_table(url)), artifact.certificate, artifact.facts)


def replaced(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_untouched_curation_passes_all_audits(demo, shards):
    findings = {
        check.__name__: check(demo.project, shards)
        for check in (
            audit.shards_are_readable,
            audit.vectors_have_samples,
            audit.vectors_have_unit_norm,
            audit.ledger_adds_up,
            audit.release_equals_selection,
        )
    }
    assert findings == demo.result.findings
    assert all(finding.passed for finding in findings.values())
    assert findings["shards_are_readable"].sentence == "All 6 tars were read to their end."
    good = len(demo.samples) - sum(demo.result.ledger.failed.values())
    assert findings["vectors_have_unit_norm"].facts["vectors"] == good
    assert 0 < findings["vectors_have_unit_norm"].facts["largest_deviation"] < 1e-3
    assert findings["ledger_adds_up"].facts["read"] == len(demo.samples)
    kept = demo.result.ledger.kept
    assert findings["release_equals_selection"].sentence == f"{kept} samples are released, {kept} are kept."


def test_row_that_is_missing_from_the_selection_breaks_the_ledger_of_its_shard(broken, shards):
    rewrite(broken.selection_url(SHARD), lambda table: table.slice(1))
    finding = audit.ledger_adds_up(broken, shards)
    assert not finding.passed
    assert "≠" in finding.sentence
    assert f"It does not add up in shards {SHARD}. Materialize their selection again." in finding.sentence


def test_errors_of_two_shards_that_cancel_out_are_found_all_the_same(broken, shards):
    other = "demo-00004"
    extra = read_table(broken.selection_url(SHARD)).slice(0, 1)
    rewrite(broken.selection_url(SHARD), lambda table: table.slice(1))
    rewrite(broken.selection_url(other), lambda table: pa.concat_tables([table, extra]))
    finding = audit.ledger_adds_up(broken, shards)
    assert not finding.passed
    assert f"{SHARD}, {other}" in finding.sentence


def test_vectors_in_another_order_than_the_index(broken, shards):
    rewrite(broken.embeddings_url(SHARD), lambda table: table.take(pa.array([1, 0, *range(2, len(table))])))
    finding = audit.vectors_have_samples(broken, shards)
    assert not finding.passed
    assert finding.facts["wrong_shards"] == [SHARD]
    assert "Materialize their embeddings again" in finding.sentence


def test_good_sample_without_a_vector_and_failed_one_with_a_vector(broken, shards):
    def without(table: pa.Table) -> pa.Table:
        return replaced(table, "vector", [None, *table["vector"].to_pylist()[1:]])

    rewrite(broken.embeddings_url(SHARD), without)
    assert not audit.vectors_have_samples(broken, shards).passed

    def surplus(table: pa.Table) -> pa.Table:
        return replaced(table, "status", ["decode_failed", *table["status"].to_pylist()[1:]])

    rewrite(broken.embeddings_url("demo-00002"), surplus)
    assert audit.vectors_have_samples(broken, shards).facts["wrong_shards"] == [SHARD, "demo-00002"]


def test_one_vector_that_is_two_per_cent_too_long(broken, shards):
    def longer(table: pa.Table) -> pa.Table:
        vectors = table["vector"].to_pylist()
        vectors[3] = [float(np.float16(value * 1.02)) for value in vectors[3]]
        return replaced(table, "vector", vectors)

    rewrite(broken.embeddings_url(SHARD), longer)
    finding = audit.vectors_have_unit_norm(broken, shards)
    assert not finding.passed
    assert finding.facts["largest_deviation"] == pytest.approx(0.02, abs=1e-3)
    assert "materialize the embeddings again" in finding.sentence


def test_release_with_another_number_than_the_selection_keeps(broken, shards):
    def one_less(table: pa.Table) -> pa.Table:
        decisions, reasons = table["decision"].to_pylist(), table["reason"].to_pylist()
        place = decisions.index("kept")
        decisions[place], reasons[place] = "dropped", "too_dark"
        return replaced(replaced(table, "decision", decisions), "reason", reasons)

    rewrite(broken.selection_url(SHARD), one_less)
    finding = audit.release_equals_selection(broken, shards)
    assert not finding.passed
    assert finding.facts["released"] == finding.facts["kept"] + 1
    assert "materialize `curated_shards` again" in finding.sentence


def test_no_release_at_all(broken, shards):
    shutil.rmtree(broken.release_url)
    finding = audit.release_equals_selection(broken, shards)
    assert (finding.passed, finding.facts["released"]) == (False, 0)


def test_unreadable_and_damaged_tars_are_told_apart(broken, shards):
    def spoil(shard: str, **facts: str) -> None:
        artifact = read_artifact(broken.index_url(shard))
        write_table(artifact.url, read_table(artifact.url), artifact.certificate, artifact.facts | facts)

    spoil("demo-00000", unreadable="it is no tar")
    spoil("demo-00003", problem="cut off at byte 17")
    finding = audit.shards_are_readable(broken, shards)
    assert not finding.passed
    assert finding.sentence.startswith("1 tars cannot be read and 1 are damaged.")
    assert finding.facts == {
        "unreadable": {"demo-00000": "it is no tar"},
        "damaged": {"demo-00003": "cut off at byte 17"},
    }
    assert audit.unreadable_shards(broken, shards) == {"demo-00000": "it is no tar"}


def test_shard_that_was_never_selected(demo):
    with pytest.raises(ArtifactError, match=r"selection/other\.parquet has not been made yet"):
        audit.shard_ledger(demo.project, "other")


def test_null_scores_have_their_reason(demo, shards):
    reasons = audit.null_score_reasons(demo.project, shards)
    assert reasons == demo.result.null_scores
    assert set(reasons) == {"aesthetic", "nsfw"}
    assert "There is no nsfw head" in reasons["nsfw"]
