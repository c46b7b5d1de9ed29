"""Vectors read by their place: what Parquet's own reader gives, without the rest of the file, or an error."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from image_curation import storage
from image_curation.artifacts import Certificate, read_table, write_table
from image_curation.embedding import packed, vector_type
from image_curation.errors import ArtifactError
from image_curation.vector_files import open_vectors

ROWS, DIM = 5_000, 256  # 2,500 rows are more than the MiB that Parquet puts in a page if it is not told otherwise
MADE = Certificate(artifact="embeddings", code_version="1")


def some_vectors(n: int = ROWS, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, dim)).astype(np.float16)


def column(vectors: np.ndarray, kind: str, is_null: np.ndarray | None = None) -> pa.Array:
    """Vectors [n, dim] as a list of numbers, or packed; null where `is_null` [n]."""
    mask = None if is_null is None else pa.array(is_null)
    if kind == "list":
        numbers = pa.array(vectors.ravel())
        return pa.FixedSizeListArray.from_arrays(numbers, type=vector_type(vectors.shape[1]), mask=mask)
    values = packed(vectors)
    return values if mask is None else pc.if_else(mask, pa.scalar(None, values.type), values)


def table_of(vectors: pa.Array) -> pa.Table:
    n = len(vectors)
    return pa.table({"key": [f"{i:06d}" for i in range(n)], "vector": vectors, "phash": np.arange(n, dtype=np.uint64)})


@pytest.fixture(params=["disk", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place on disk, and one in fsspec's memory file system, which stands in for object stores."""
    place = str(tmp_path) if request.param == "disk" else f"memory://vectors-test-{uuid.uuid4().hex}"
    return storage.join(place, "a.parquet")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.parquet")


def as_pyarrow_reads(url: str) -> np.ndarray:
    """The vectors that are not null, number by number."""
    vectors = read_table(url, ["vector"])["vector"].combine_chunks().drop_null()
    if pa.types.is_fixed_size_binary(vectors.type):
        return np.array([np.frombuffer(value, np.float16) for value in vectors.to_pylist()])
    return vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)


@pytest.mark.parametrize("row_group_rows", [10_000, 2_500, 1_700], ids=lambda n: f"{n} a group")
@pytest.mark.parametrize("nulls", [False, True], ids=["no null", "nulls"])
@pytest.mark.parametrize("kind", ["list", "packed"])
def test_vectors_are_those_that_pyarrow_reads(url, kind, nulls, row_group_rows):
    rng = np.random.default_rng(1)
    is_null = rng.random(ROWS) < 0.2 if nulls else np.zeros(ROWS, bool)
    is_null[1_700:3_400] |= nulls  # a row group in which all are null
    vectors = some_vectors()
    write_table(url, table_of(column(vectors, kind, is_null if nulls else None)), MADE, row_group_rows=row_group_rows)
    given = vectors[~is_null]
    assert np.array_equal(as_pyarrow_reads(url), given)
    with open_vectors(url) as stored:
        assert (stored.count, stored.dim) == given.shape
        every, out_of_order = stored.all(), rng.integers(0, len(given), 400)
        assert every.dtype == np.float16
        assert every.flags.writeable
        assert np.array_equal(every, given)
        for places in (out_of_order, np.sort(out_of_order), np.array([7, 7, 0, len(given) - 1]), np.arange(len(given))):
            assert np.array_equal(stored.rows(places), given[places])
        assert stored.rows(np.array([], np.int64)).shape == (0, DIM)


def test_row_group_of_more_rows_than_parquet_puts_in_a_page(path):
    vectors = some_vectors(45_000, 4)
    write_table(path, table_of(column(vectors, "packed")), MADE, row_group_rows=45_000)
    with open_vectors(path) as stored:
        assert np.array_equal(stored.all(), vectors)


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("kind", ["list", "packed"])
def test_file_without_any_vector(url, kind, n):
    write_table(url, table_of(column(np.zeros((n, 4), np.float16), kind, np.ones(n, bool))), MADE)
    with open_vectors(url) as stored:
        assert stored.all().shape == (0, 4)
        with pytest.raises(
            ArtifactError, match=r"a\.parquet holds 0 vectors and none at place 0: .* Start the run again"
        ):
            stored.rows(np.array([0]))


@pytest.mark.parametrize("place", [-1, 20])
def test_place_that_is_not_there(url, place):
    write_table(url, table_of(column(some_vectors(20, 4), "list")), MADE)
    with (
        open_vectors(url) as stored,
        pytest.raises(
            ArtifactError, match=rf"a\.parquet holds 20 vectors and none at place {place}: it was made again"
        ),
    ):
        stored.rows(np.array([3, place]))


def test_vectors_of_one_number(path):
    is_null = np.array([False, True, False])
    write_table(path, table_of(column(np.array([[1], [2], [3]], np.float16), "list", is_null)), MADE)
    with open_vectors(path) as stored:
        assert stored.all().tolist() == [[1], [3]]


def test_nothing_is_read_of_a_file_on_disk_but_the_rows(path):
    write_table(path, table_of(column(some_vectors(), "list")), MADE)
    for places in ([10], [0, 1_000, 4_999], [1_000, 1_003]):
        with open_vectors(path) as stored:
            stored.rows(np.array(places))
            assert stored.bytes_read == len(places) * 2 * DIM


def test_nothing_is_read_of_a_file_in_a_store_but_the_rows_and_small_gaps():
    url = "memory://rows-and-gaps/a.parquet"
    write_table(url, table_of(column(some_vectors(), "list")), MADE)
    for places, rows in (([10], 1), ([0, 4_999], 2), ([1_001, 1_000, 1_001], 2), ([1_000, 1_003], 4)):
        with open_vectors(url) as stored:
            stored.rows(np.array(places))
            assert stored.bytes_read == 32 + rows * 2 * DIM


def test_threads_share_an_opened_file(url):
    vectors = some_vectors()
    write_table(url, table_of(column(vectors, "list")), MADE, row_group_rows=2_000)
    places = np.random.default_rng(2).integers(0, ROWS, (40, 50))
    with open_vectors(url) as stored, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(stored.rows, places))
    assert np.array_equal(found, vectors[places])
    assert stored.bytes_read >= 40 * 2 * DIM


def test_file_written_over_while_it_is_open_is_read_as_it_was(path):
    older, newer = some_vectors(30, 4), some_vectors(90, 4)[30:]
    write_table(path, table_of(column(older, "list")), MADE)
    with open_vectors(path) as stored:
        write_table(path, table_of(column(newer, "list")), MADE)
        assert np.array_equal(stored.all(), older)


def test_others_read_the_file(path):
    vectors, is_null = some_vectors(50, 4), np.arange(50) % 7 == 3
    write_table(path, table_of(column(vectors, "list", is_null)), MADE, row_group_rows=20)
    expected = [None if null else vector.tolist() for vector, null in zip(vectors, is_null, strict=True)]
    assert pq.read_table(path)["vector"].to_pylist() == expected
    by_duckdb = duckdb.sql(f"select vector from '{path}' order by key").fetchall()
    assert [None if vector is None else list(vector) for (vector,) in by_duckdb] == expected


def test_file_without_the_mark_is_refused(path):
    pq.write_table(table_of(column(some_vectors(20, 4), "list")), path)
    with (
        pytest.raises(
            ArtifactError, match=r"a\.parquet: column vector is not marked .* delete it; the next run makes it"
        ),
        open_vectors(path),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            {"compression": "none", "use_dictionary": False},
            "has 1,280,000 entries in a row group, of which its first page",
        ),
        ({"compression": "none"}, "is compressed, encoded or"),
        ({"use_dictionary": False}, "is compressed, encoded or"),
        ({"compression": "none", "use_dictionary": False, "write_statistics": False}, "is .* without statistics"),
    ],
    ids=["pages", "dictionary", "compressed", "no statistics"],
)
def test_file_that_was_written_anew_with_its_mark_is_refused(path, options, what):
    write_table(path, table_of(column(some_vectors(), "list")), MADE)
    pq.write_table(pq.read_table(path), path, **options)
    with pytest.raises(ArtifactError, match=rf"a\.parquet: column vector {what}"), open_vectors(path) as stored:
        stored.rows(np.array([4_900]))


@pytest.mark.parametrize(
    "vectors",
    [pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), pa.array([b"abc"], pa.binary(3))],
    ids=["fp32", "odd"],
)
def test_column_that_holds_no_vectors_in_fp16_is_refused(path, vectors):
    write_table(path, pa.table({"vector": vectors}), MADE)
    with pytest.raises(ArtifactError, match="which is no vector in fp16"), open_vectors(path):
        pass


def test_numbers_that_are_null_are_refused(path):
    write_table(path, pa.table({"vector": pa.array([[1.0, None], [2.0, 3.0]], pa.list_(pa.float16(), 2))}), MADE)
    with pytest.raises(ArtifactError, match="column vector has 1 vectors in"), open_vectors(path):
        pass
