"""A release as other programs read it: webdataset, tar, DALI, PyTorch, Hugging Face datasets, Arrow, DuckDB."""

import hashlib
import io
import subprocess
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
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


def test_hugging_face_datasets_reads_tars_and_parquet(tools, tmp_path):
    """It wants the same fields in all samples of a tar, as most sets have them."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    source = tools.Source(str(tmp_path / "source"))
    members = [(f"{i:03d}.{end}", data) for i in range(9) for end, data in (("jpg", tools.picture(i)), ("txt", b"a"))]
    source.write("a", members)
    folder = tmp_path / "release"
    manifest = tools.release(source.rows(), str(folder), max_samples=4)
    rows = parquet_rows(folder, manifest)
    read = {"split": "train", "streaming": True, "cache_dir": str(tmp_path / "cache")}
    tars = [str(folder / shard.tar.name) for shard in manifest.shards]
    samples = list(datasets.load_dataset("webdataset", data_files=tars, **read))
    assert [sample["__key__"] for sample in samples] == [row["release_key"] for row in rows]
    assert [sample["json"]["curation"]["sha256"] for sample in samples] == [row["sha256"] for row in rows]
    assert [sample["jpg"].size for sample in samples] == [(row["width"], row["height"]) for row in rows]
    files = [str(folder / shard.parquet.name) for shard in manifest.shards]
    table = list(datasets.load_dataset("parquet", data_files=files, **read))
    assert [row["release_key"] for row in table] == [row["release_key"] for row in rows]


class ByRange(torch.utils.data.Dataset):
    """A release in plain PyTorch: the Parquet says where each image lies."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._places = [
            (folder / shard.tar.name, row)
            for shard in manifest.shards
            for row in ds.dataset(str(folder / shard.parquet.name)).to_table().to_pylist()
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, str]:
        tar, row = self._places[i]
        with tar.open("rb") as file:
            file.seek(row["image_offset"])
            content = file.read(row["image_size"])
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB").resize((8, 8)))), row["key"]


def test_plain_pytorch_reads_every_image_by_its_range(on_disk):
    folder, manifest = on_disk
    loader = torch.utils.data.DataLoader(ByRange(folder, manifest), batch_size=4, num_workers=1)
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(4, 8, 8, 3), (4, 8, 8, 3), (1, 8, 8, 3)]
    assert [key for _, keys in batches for key in keys] == [row["key"] for row in parquet_rows(folder, manifest)]


def test_duckdb_reads_the_parquet_files_as_one_table(on_disk):
    folder, _ = on_disk
    found = duckdb.sql(
        f"select count(*), count(distinct release_key), max(aesthetic), min(phash) from '{folder}/images/*.parquet'"
    ).fetchall()
    assert found == [(9, 9, pytest.approx(5.4), 2**64 - 1 - 4)]
