"""Each asset check can fail: something is tampered with, and the check that watches it says what, and only it."""

import os

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from image_curation.artifacts import read_artifact, read_table, write_table
from image_curation.shards.discover import discover
from image_curation.steps.shard_index import build_shard_index


@pytest.fixture
def curated(graph, demo):
    """Two curated shards of three photographs each."""
    keys = demo.plain()
    demo.pack(graph.source / "left.tar", *keys[:3])
    demo.pack(graph.source / "right.tar", *keys[3:6])
    graph.prepare("left", "right")
    return graph


def rewrite(url: str, table: pa.Table) -> None:
    """Put other rows under the same certificate."""
    artifact = read_artifact(url)
    write_table(url, table, artifact.certificate, artifact.facts)


def failed(graph) -> dict[str, str]:
    """The checks that fail, with what they say."""
    found = graph.audit()
    assert len(found) == 5
    return {name: check.description for name, check in found.items() if not check.passed}


def test_untouched_all_pass(curated):
    assert failed(curated) == {}


def test_vector_that_is_not_of_length_one(curated):
    url = curated.project.embeddings_url("right")
    table = read_table(url)
    vectors = pa.FixedSizeListArray.from_arrays(
        pc.multiply(table["vector"].combine_chunks().values.cast(pa.float32()), 1.01).cast(pa.float16()),
        table.schema.field("vector").type.list_size,
    )
    rewrite(url, table.set_column(table.schema.get_field_index("vector"), "vector", vectors))
    (said,) = failed(curated).values()
    assert list(failed(curated)) == ["vectors_have_unit_norm"]
    assert said.startswith("The lengths of 6 vectors are 1 within 1.")
    assert "materialize the embeddings again" in said


def test_vector_without_its_sample(curated):
    url = curated.project.embeddings_url("left")
    table = read_table(url)
    keys = pa.array(["a stranger", *table["key"].to_pylist()[1:]])
    rewrite(url, table.set_column(table.schema.get_field_index("key"), "key", keys))
    found = failed(curated)
    assert list(found) == ["vectors_have_samples"]
    assert "left" in found["vectors_have_samples"]
    assert "right" not in found["vectors_have_samples"]


def test_good_sample_without_its_vector(curated):
    url = curated.project.embeddings_url("left")
    table = read_table(url)
    vectors = pa.array([None, *table["vector"].to_pylist()[1:]], table.schema.field("vector").type)
    rewrite(url, table.set_column(table.schema.get_field_index("vector"), "vector", vectors))
    assert list(failed(curated)) == ["vectors_have_samples"]


def test_sample_that_is_lost_from_the_selection(curated):
    url = curated.project.selection_url("right")
    rewrite(url, read_table(url).slice(1))
    found = failed(curated)
    assert set(found) == {"ledger_adds_up", "release_equals_selection"}
    assert found["ledger_adds_up"].startswith("6 read ≠ 5 kept + 0 dropped + 0 failed.")
    assert "in shards right." in found["ledger_adds_up"]


def test_losses_that_cancel_out_between_shards_are_seen(curated):
    left, right = (curated.project.selection_url(shard) for shard in ("left", "right"))
    rows = read_table(right)
    rewrite(left, pa.concat_tables([read_table(left), rows.slice(0, 1)]))
    rewrite(right, rows.slice(1))
    found = failed(curated)
    assert list(found) == ["ledger_adds_up"]
    assert found["ledger_adds_up"].startswith("6 read = 6 kept")
    assert "in shards left, right." in found["ledger_adds_up"]


def test_selection_that_was_not_released(curated):
    url = curated.project.selection_url("left")
    table = read_table(url)
    rows = [row | {"decision": "dropped", "reason": "too_dark"} for row in table.slice(0, 1).to_pylist()]
    rewrite(url, pa.concat_tables([pa.Table.from_pylist(rows, table.schema), table.slice(1)]))
    found = failed(curated)
    assert list(found) == ["release_equals_selection"]
    assert found["release_equals_selection"].startswith("6 samples are released, 5 are kept.")


def test_release_that_is_gone(curated):
    os.remove(curated.root / "release" / "manifest.json")
    found = failed(curated)
    assert list(found) == ["release_equals_selection"]
    assert found["release_equals_selection"].startswith("0 samples are released, 6 are kept.")


def test_tar_that_cannot_be_read(curated, garbage):
    (curated.source / "left.tar").write_bytes(garbage)
    for tar in discover(str(curated.source))[0]:
        build_shard_index(curated.project, tar)
    said = failed(curated)["shards_are_readable"]
    assert "left: " in said
    assert "right: " not in said
