"""A release as other programs read it: webdataset, tar, DALI, Arrow, DuckDB."""

import hashlib
import io
import subprocess
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pytest
import webdataset as wds
from PIL import Image

from image_curation.release.manifest import Manifest


@pytest.fixture
def on_disk(make_source, tmp_path, tools) -> tuple[Path, Manifest]:
    source = make_source(str(tmp_path))
    folder = tmp_path / "release"
    return folder, tools.release(source.rows(), str(folder), max_samples=4)


def parquet_rows(folder: Path, manifest: Manifest) -> list[dict]:
    """All rows in the order of the release."""
    files = [str(folder / shard.parquet.name) for shard in manifest.shards]
    return ds.dataset(files).to_table().to_pylist()


def test_webdataset_reads_every_sample_with_its_key_and_json(on_disk):
    folder, manifest = on_disk
    rows = parquet_rows(folder, manifest)
    urls = [str(folder / shard.tar.name) for shard in manifest.shards]
    assert len(urls) == 3
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [row["release_key"] for row in rows]
    assert len(samples) == 9
    for sample, row in zip(samples, rows, strict=True):
        assert sample["json"]["curation"]["sha256"] == row["sha256"]
        image = sample[row["release_name"].rpartition(".")[2]]
        assert image.size == (row["width"], row["height"])


def test_tar_extracts_every_member(on_disk, tmp_path):
    folder, manifest = on_disk
    out = tmp_path / "out"
    out.mkdir()
    for shard in manifest.shards:
        subprocess.run(["tar", "-xf", folder / shard.tar.name, "-C", out], check=True)
    for row in parquet_rows(folder, manifest):
        assert hashlib.sha256((out / row["release_name"]).read_bytes()).hexdigest() == row["sha256"]
    assert sum(path.is_file() for path in out.rglob("*")) == 9 + 9 + 8  # images, JSON, other sidecars


def test_dali_reads_by_our_index_what_pillow_decodes(on_disk):
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def, types

    folder, manifest = on_disk
    rows = [row for row in parquet_rows(folder, manifest) if row["format"] != "GIF"]  # DALI decodes no GIF

    @pipeline_def(batch_size=8, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        encoded, text = fn.readers.webdataset(
            paths=[str(folder / shard.tar.name) for shard in manifest.shards],
            index_paths=[str(folder / shard.index.name) for shard in manifest.shards],
            ext=["jpg;jpeg;png;webp", "json"],
            missing_component_behavior="skip",
            name="reader",
        )
        return fn.decoders.image(encoded, device="cpu", output_type=types.RGB), text

    pipe = pipeline()
    pipe.build()
    assert pipe.epoch_size("reader") == len(rows) == 8
    images, texts = pipe.run()
    for i, row in enumerate(rows):
        assert row["sha256"].encode() in texts.at(i).tobytes()
        shard = next(s for s in manifest.shards if row["release_key"] in keys_of(folder / s.index.name))
        with (folder / shard.tar.name).open("rb") as tar:
            tar.seek(row["image_offset"])
            pillow = np.asarray(Image.open(io.BytesIO(tar.read(row["image_size"]))).convert("RGB"))
        assert np.abs(images.at(i).astype(int) - pillow.astype(int)).max() <= 1


def keys_of(index: Path) -> set[str]:
    return {line.split()[3].rpartition(".")[0] for line in index.read_text().splitlines()[1:]}


def test_duckdb_reads_the_parquet_files_as_one_table(on_disk):
    folder, _ = on_disk
    found = duckdb.sql(
        f"select count(*), count(distinct release_key), max(aesthetic), min(phash) from '{folder}/images/*.parquet'"
    ).fetchall()
    assert found == [(9, 9, pytest.approx(5.4), 2**64 - 1 - 4)]
