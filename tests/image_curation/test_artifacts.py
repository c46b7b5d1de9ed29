"""Artifacts: reused while their certificate fits, refused when foreign, made again when damaged, readable by anyone."""

import uuid
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_curation import storage
from image_curation.artifacts import (
    Certificate,
    content_hash,
    digest,
    fresh,
    read_artifact,
    read_table,
    write_table,
)
from image_curation.errors import ArtifactError
from image_curation.steps.outcome import reuse_or_make

CERTIFICATE = Certificate(
    artifact="embeddings", code_version="1", settings={"dtype": "fp32", "limits": {"a": 1}}, inputs={"tar": "ab"}
)


def table(n: int = 20) -> pa.Table:
    """All kinds of columns that artifacts have, with nulls."""
    vectors = pa.array(np.arange(n * 4, dtype=np.float16))
    return pa.table(
        {
            "key": pa.array([f"k{i}" for i in range(n)], pa.string()),
            "error": pa.array([None if i % 4 else f"error {i}" for i in range(n)], pa.string()),
            "phash": pa.array([2**64 - 1 - i if i % 3 else None for i in range(n)], pa.uint64()),
            "damaged": pa.array([i % 2 == 0 for i in range(n)], pa.bool_()),
            "score": pa.array([i / 7 if i % 5 else None for i in range(n)], pa.float32()),
            "sidecars": pa.array([[{"name": f"{i}.txt", "size": i}] * (i % 3) for i in range(n)]),
            "vector": pa.FixedSizeListArray.from_arrays(vectors, 4, mask=pa.array([i % 6 == 5 for i in range(n)])),
        }
    )


@pytest.fixture(params=["disk", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place = str(tmp_path) if request.param == "disk" else f"memory://artifacts-test-{uuid.uuid4().hex}"
    return storage.join(place, "embeddings", "a.parquet")


def test_what_is_written_is_read_with_its_certificate_and_facts(url):
    written = write_table(url, table(), CERTIFICATE, {"strays": [{"name": "ä"}], "problem": None})
    assert read_artifact(url) == written
    assert (written.rows, written.certificate) == (20, CERTIFICATE)
    assert written.facts == {"strays": [{"name": "ä"}], "problem": None}
    assert read_table(url).to_pylist() == table().to_pylist()
    assert read_table(url, ["score", "key"]).column_names == ["score", "key"]


@pytest.mark.parametrize(
    "change",
    [
        {"artifact": "scores"},
        {"code_version": "2"},
        {"settings": {"dtype": "bf16", "limits": {"a": 1}}},
        {"settings": {"dtype": "fp32", "limits": {"a": 2}}},
        {"settings": {"dtype": "fp32", "limits": {"a": 1}, "more": None}},
        {"inputs": {"tar": "ac"}},
        {"inputs": {}},
    ],
)
def test_any_change_of_the_certificate_makes_stale(tmp_path, change):
    url = str(tmp_path / "a.parquet")
    artifact = write_table(url, table(), CERTIFICATE)
    assert fresh(url, CERTIFICATE) == artifact
    assert fresh(url, Certificate.model_validate(CERTIFICATE.model_dump())) == artifact
    assert fresh(url, CERTIFICATE.model_copy(update=change)) is None


def test_matching_artifact_is_reused_and_another_is_made(url):
    made = []

    def make() -> tuple[pa.Table, dict]:
        made.append(1)
        return table(), {"n": len(made)}

    first = reuse_or_make(url, CERTIFICATE, make)
    second = reuse_or_make(url, CERTIFICATE, make)
    third = reuse_or_make(url, CERTIFICATE.model_copy(update={"code_version": "2"}), make)
    assert [outcome.reused for outcome in (first, second, third)] == [False, True, False]
    assert len(made) == 2
    assert second.artifact == first.artifact
    assert read_artifact(url).facts == {"n": 2}
    assert read_artifact(url).certificate.code_version == "2"


def test_failure_while_making_leaves_the_older_artifact(url):
    older = write_table(url, table(3), CERTIFICATE)

    def fail() -> tuple[pa.Table, dict]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        reuse_or_make(url, CERTIFICATE.model_copy(update={"code_version": "2"}), fail)
    assert read_artifact(url) == older


def test_artifact_that_is_not_there(url):
    for act in (read_artifact, read_table):
        with pytest.raises(ArtifactError, match=r"a\.parquet has not been made yet: materialize it, or run `image-cur"):
            act(url)
    assert fresh(url, CERTIFICATE) is None


def test_parquet_of_somebody_else_is_refused(tmp_path):
    url = str(tmp_path / "a.parquet")
    pq.write_table(table(), url)
    with pytest.raises(ArtifactError, match="carries no birth certificate, so it was not made by image-curation"):
        read_artifact(url)
    assert fresh(url, CERTIFICATE) is None


def test_certificate_of_an_unknown_version_is_made_anew(tmp_path):
    url = str(tmp_path / "a.parquet")
    for metadata in (
        {b"image_curation.certificate": b"{}"},
        {b"image_curation.certificate": b"not json"},
        {b"image_curation.certificate": CERTIFICATE.model_dump_json().encode()},  # no content hash, no facts
    ):
        pq.write_table(table().replace_schema_metadata(metadata), url)
        with pytest.raises(ArtifactError, match="birth certificate that this version does not understand"):
            read_artifact(url)
        assert fresh(url, CERTIFICATE) is None


def damage(content: bytes, how: str) -> bytes:
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    return {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "no parquet": b"PAR1 is all that is right about this file",
        "footer": content[:footer] + bytes(100) + content[footer + 100 :],
    }[how]


@pytest.mark.parametrize("how", ["cut", "empty", "no parquet", "footer"])
def test_damaged_artifact_is_made_again(tmp_path, how):
    path = tmp_path / "a.parquet"
    write_table(str(path), table(), CERTIFICATE)
    whole = path.read_bytes()
    path.write_bytes(damage(whole, how))
    with pytest.raises(ArtifactError, match=r"a\.parquet cannot be read: .*Delete it; the next run makes it again"):
        read_artifact(str(path))
    assert not reuse_or_make(str(path), CERTIFICATE, lambda: (table(), {})).reused
    assert path.read_bytes() == whole


def test_damage_in_the_rows_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(str(path), table(), CERTIFICATE)
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).dictionary_page_offset
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"a\.parquet cannot be read: .*Delete it"):
        read_table(str(path))


def test_content_hash_looks_at_rows_alone():
    whole = table()
    pieces = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 1), whole.slice(8)])
    assert content_hash(whole) == content_hash(pieces) == content_hash(whole.replace_schema_metadata({"a": "b"}))
    assert len(content_hash(whole)) == 32


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.slice(1),
        lambda t: t.take(pa.array([1, 0, *range(2, 20)])),
        lambda t: t.drop_columns(["score"]),
        lambda t: t.rename_columns(["id", *t.column_names[1:]]),
        lambda t: t.set_column(4, "score", t["score"].cast(pa.float64())),
        lambda t: t.set_column(0, "key", pa.array([None, *t["key"].to_pylist()[1:]])),
        lambda t: t.set_column(0, "key", pa.array([*t["key"].to_pylist()[:-1], "k19 "])),
    ],
    ids=["a row less", "order", "a column less", "name", "type", "null", "one character"],
)
def test_content_hash_changes_with_what_the_rows_say(change):
    assert content_hash(change(table())) != content_hash(table())


def test_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    assert digest([1, 2]) != digest([2, 1])


def test_equal_rows_and_certificate_give_equal_bytes(tmp_path):
    one, two = tmp_path / "1.parquet", tmp_path / "2.parquet"
    write_table(str(one), table(), CERTIFICATE, {"b": 1, "a": 2})
    write_table(str(two), pa.concat_tables([table().slice(0, 9), table().slice(9)]), CERTIFICATE, {"a": 2, "b": 1})
    assert one.read_bytes() == two.read_bytes()


def test_others_read_an_artifact_without_our_code(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(str(path), table(), CERTIFICATE)
    rows = duckdb.sql(f"select key, phash, vector, len(vector) from '{path}' order by phash desc nulls last").fetchall()
    assert len(rows) == 20
    assert rows[0] == ("k1", 2**64 - 2, [4.0, 5.0, 6.0, 7.0], 4)
    nulls = duckdb.sql(f"select count(*) from '{path}' where vector is null").fetchall()
    assert nulls == [(3,)]  # rows 5, 11 and 17
    second_entries = duckdb.sql(f"select vector[2] from '{path}' where key in ('k1', 'k2') order by key").fetchall()
    assert second_entries == [(5.0,), (9.0,)]


def test_vectors_are_stored_plain_and_text_compressed(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(str(path), table(), CERTIFICATE)
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["vector.list.element"].compression == "UNCOMPRESSED"
    assert columns["key"].compression == "ZSTD"
