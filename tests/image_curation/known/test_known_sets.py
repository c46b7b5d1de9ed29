"""Known sets from Parquet, folders, roots and releases; and what is refused, with what to do."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_curation.errors import ConfigError
from image_curation.known import sets
from image_curation.known.sets import open_set

SHA = "a" * 64


def write(path: Path, vectors, kind=pa.float16(), **columns) -> str:  # noqa: B008
    path.parent.mkdir(parents=True, exist_ok=True)
    dim = next(len(vector) for vector in vectors if vector is not None)
    values = [None if v is None else np.array(v, kind.to_pandas_dtype()) for v in vectors]
    pq.write_table(pa.table({"vector": pa.array(values, pa.list_(kind, dim)), **columns}), path)
    return str(path)


def images(url: str):
    (block,) = open_set("val", url, "embedded").blocks()
    return block


def test_vectors_alone_in_fp32_are_enough_and_null_is_no_vector(tmp_path):
    found = images(write(tmp_path / "val.parquet", [[0.6, 0.8], None], pa.float32()))
    assert found.names == ["row 0", "row 1"]
    assert found.vectors.dtype == np.float16
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0, 0]], atol=1e-3)
    assert found.sha256.to_pylist() == [None, None]
    assert found.usable.tolist() == [False, False]


def test_hashes_keys_and_contrast_are_taken_where_they_are(tmp_path):
    columns = {
        "key": pa.array(["x", "y", "z"]),
        "sha256": pa.array([SHA.upper(), None, None]),
        "phash": pa.array([7, 8, None], pa.uint64()),
        "contrast": pa.array([0.5, 0.0, None], pa.float32()),
    }
    found = images(write(tmp_path / "val.parquet", [[1, 0]] * 3, **columns))
    assert found.names == ["x", "y", "z"]
    assert found.sha256.to_pylist() == [SHA, None, None]
    assert (found.phash[:2].tolist(), found.usable.tolist()) == ([7, 8], [True, False, False])


def test_folder_counts_by_all_its_files_in_blocks_that_number_rows_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "BLOCK_ROWS", 2)
    write(tmp_path / "val" / "a" / "1.parquet", [[1, 0]] * 3)
    write(tmp_path / "val" / "2.parquet", [[0, 1]], key=pa.array(["k"]), shard=pa.array(["s"]))
    blocks = list(open_set("val", str(tmp_path / "val"), "embedded").blocks())
    assert [block.names for block in blocks] == [["s/k"], ["row 0", "row 1"], ["row 2"]]


def test_content_follows_the_file(tmp_path):
    url = write(tmp_path / "val.parquet", [[1, 0]])
    before = open_set("val", url, "embedded").content
    assert open_set("other", url, "x").content == before
    write(tmp_path / "val.parquet", [[0, 1]])
    assert open_set("val", url, "embedded").content != before


def test_root_counts_by_what_it_embedded_and_knows_its_weights(demo):
    found = open_set("ours", str(demo.root), "embedded")
    assert (found.dim, len(found.files)) == (610, 6)
    assert len(found.weights) == 1
    names = {name for block in found.blocks() for name in block.names}
    assert names == {f"{sample.shard}/{sample.key}" for sample in demo.samples}
    with pytest.raises(ConfigError, match=r"the curation .* has no vectors of the encoder clip-vit-l-14"):
        open_set("ours", str(demo.root), "clip-vit-l-14")


def test_release_without_vectors_says_how_to_have_them(demo):
    with pytest.raises(ConfigError, match=r"no column `vector`\. A release has one if its policy sets "):
        open_set("ours", demo.project.release_url, "embedded")


def test_what_is_no_set(tmp_path):
    with pytest.raises(ConfigError, match=r"known set val: at .*/gone there is no Parquet file"):
        open_set("val", str(tmp_path / "gone"), "embedded")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(ConfigError, match=r"text\.parquet cannot be read as Parquet"):
        open_set("val", str(tmp_path / "text.parquet"), "embedded")
    pq.write_table(pa.table({"vector": [[1.0, 0.0]]}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match=r"`vector` is list<.*>\. It should be a fixed-size list of fp16 or fp32"):
        open_set("val", str(tmp_path / "list.parquet"), "embedded")
    write(tmp_path / "mixed" / "1.parquet", [[1, 0]])
    write(tmp_path / "mixed" / "2.parquet", [[1, 0, 0]])
    with pytest.raises(ConfigError, match=r"vectors of different lengths: \[2, 3\]"):
        open_set("val", str(tmp_path / "mixed"), "embedded")


@pytest.mark.parametrize(("vector", "length"), [([3, 4], "5"), ([0, 0], "0"), ([np.nan, 1], "nan")])
def test_vector_that_is_not_of_length_one_is_named(tmp_path, vector, length):
    url = write(tmp_path / "val.parquet", [[1, 0], vector], key=pa.array(["good", "bad"]))
    with pytest.raises(ConfigError, match=rf"the vector of bad has length {length}, and should have 1 within 0\.01"):
        images(url)


def test_hash_that_is_none_is_named_with_set_and_file(tmp_path):
    url = write(tmp_path / "val.parquet", [[1, 0]], sha256=pa.array(["md5"]))
    with pytest.raises(ConfigError, match=r"known set val: .*val\.parquet, column sha256, row 0: 'md5'"):
        images(url)
