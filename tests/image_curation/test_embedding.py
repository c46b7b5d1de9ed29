"""Embeddings of real shards: one row a sample in the order of the index, whatever is wrong with some of them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from image_curation.decode.decoder import ImageDecoder
from image_curation.decode.limits import DecodeLimits
from image_curation.embedding import embeddings_schema, vectors_of
from image_curation.encoders import load_encoder, profile
from image_curation.engine import EmbeddingEngine
from image_curation.shards.discover import Shard
from image_curation.shards.index import index_shard


class MeanColour:
    """An encoder that can be checked by hand: the mean of R, G and B as a unit vector; NaN where all is black."""

    dim, batch = 3, 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, pixels):
        self.batches.append(len(pixels))
        means = pixels.reshape(len(pixels), -1, 3).mean(axis=1)
        with np.errstate(invalid="ignore"):
            return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float16)


@pytest.fixture
def encoder():
    return MeanColour()


@pytest.fixture
def engine(encoder):
    with EmbeddingEngine([ImageDecoder(32, threads=1, batch_size=4)], encoder) as made:
        yield made


@pytest.fixture
def shard(tmp_path: Path, workshop):
    """A tar with eight samples, six of them with an image that the index finds good, and its index."""

    def plain(colour: tuple[int, int, int]) -> bytes:
        sink = io.BytesIO()
        Image.new("RGB", (40, 50), colour).save(sink, "PNG")
        return sink.getvalue()

    whole = workshop.photo(1)
    members = {
        "red.png": plain((255, 0, 0)),
        "text.jpg": b"no image",
        "green.png": plain((0, 255, 0)),
        "half.jpg": whole[: len(whole) // 2],
        "alone.txt": b"no image beside me",
        "black.png": plain((0, 0, 0)),
        "grey.png": plain((100, 100, 100)),
        "blue.png": plain((0, 0, 255)),
    }
    path = tmp_path / "s.tar"
    path.write_bytes(workshop.tar(members))
    index = index_shard(Shard("folder/s", str(path), path.stat().st_size, "f"), DecodeLimits()).table
    return index, str(path)


def test_each_sample_has_its_row_and_a_bad_one_costs_no_other(shard, engine, encoder):
    index, url = shard
    rows = engine.embed(index, url)
    assert rows.schema == embeddings_schema(3)
    assert rows["key"].to_pylist() == index["key"].to_pylist()
    assert {row["key"]: row["status"] for row in rows.to_pylist()} == {
        "red": "ok",
        "text": "not_an_image",
        "green": "ok",
        "half": "decode_failed",
        "alone": "missing_image",
        "black": "encode_failed",
        "grey": "ok",
        "blue": "ok",
    }
    vectors = {row["key"]: row["vector"] for row in rows.to_pylist()}
    third = float(np.float16(1 / np.sqrt(3)))
    assert vectors["red"] == [1, 0, 0]
    assert vectors["green"] == [0, 1, 0]
    assert vectors["blue"] == [0, 0, 1]
    assert vectors["grey"] == [third, third, third]
    assert [vectors[key] for key in ("text", "half", "alone", "black")] == [None] * 4
    assert encoder.batches == [2, 2, 1]  # red and green; black and grey without half; blue


def test_errors_say_which_sample_and_what(shard, engine):
    index, url = shard
    errors = {row["key"]: row["error"] for row in engine.embed(index, url).to_pylist()}
    assert errors["red"] is None
    assert errors["half"].startswith("folder/s/half: ")
    assert errors["black"] == "folder/s/black: the encoder gave a vector that is not finite."
    of_index = dict(zip(index["key"].to_pylist(), index["error"].to_pylist(), strict=True))
    for key in ("text", "alone"):
        assert errors[key] == of_index[key]
        assert "folder/s" in errors[key]


def test_measures_are_there_for_what_was_decoded(shard, engine):
    index, url = shard
    rows = {row["key"]: row for row in engine.embed(index, url).to_pylist()}
    assert (rows["grey"]["width"], rows["grey"]["height"]) == (40, 50)
    assert rows["grey"]["exposure"] == pytest.approx(100 / 255, abs=1e-3)
    assert rows["black"]["exposure"] == 0  # it was decoded, though its vector failed
    assert rows["grey"]["contrast"] == pytest.approx(0, abs=1e-6)
    assert rows["grey"]["damaged"] is False
    for name in ("width", "phash", "sharpness", "exposure", "contrast", "decoder", "damaged"):
        assert rows["half"][name] is rows["alone"][name] is None
        assert rows["red"][name] is not None


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_and_neighbours_change_nothing(tmp_path, workshop, monkeypatch, batch):
    path = tmp_path / "s.tar"
    path.write_bytes(workshop.tar({f"{i}.jpg": workshop.photo(i) for i in range(7)}))
    index = index_shard(Shard("s", str(path), path.stat().st_size, "f"), DecodeLimits()).table
    encoder = load_encoder(profile("embedded"))
    with ImageDecoder(encoder.profile.size, threads=1) as decoder:
        images = [workshop.photo(i) for i in range(7)]
        one_by_one = np.concatenate([encoder.encode(decoder.decode([image]).pixels) for image in images])
    monkeypatch.setattr(encoder, "batch", batch)
    with EmbeddingEngine([ImageDecoder(encoder.profile.size, threads=2, batch_size=3)], encoder) as engine:
        rows = engine.embed(index, str(path))
    assert rows["status"].to_pylist() == ["ok"] * 7
    assert (vectors_of(rows) == one_by_one).all()


def test_row_whose_vector_failed_holds_no_trace_of_it(shard, engine):
    """A NaN below a null would make equal tables unequal."""
    column = engine.embed(*shard)["vector"].combine_chunks()
    assert column.null_count == 4
    assert np.isfinite(column.values.to_numpy(zero_copy_only=False)).all()


def vector_table(vectors: list[list[float] | None]) -> pa.Table:
    return pa.table({"vector": pa.array(vectors, pa.list_(pa.float16(), 2))})


def test_vectors_of_rows_without_one_are_zero():
    table = vector_table([[1, 0], None, [0, 1]])
    assert vectors_of(table).tolist() == [[1, 0], [0, 0], [0, 1]]
    assert vectors_of(table).dtype == np.float16


def test_vectors_of_slices_chunks_and_nothing():
    table = vector_table([[1, 0], None, [0, 1], [3, 4]])
    assert vectors_of(table.slice(1, 2)).tolist() == [[0, 0], [0, 1]]
    assert vectors_of(pa.concat_tables([table.slice(3), table.slice(0, 2)])).tolist() == [[3, 4], [1, 0], [0, 0]]
    assert vectors_of(table.slice(0, 0)).shape == (0, 2)
    assert vectors_of(table.schema.empty_table()).shape == (0, 2)
    assert vectors_of(table.filter(table["vector"].is_valid())).tolist() == [[1, 0], [0, 1], [3, 4]]
