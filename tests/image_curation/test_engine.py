"""The embedding engine: shards at once give what each gives alone, errors stay where they belong, nothing hangs."""

import gc
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from image_curation import engine as engine_module
from image_curation import storage
from image_curation.embedding import embeddings_schema, vectors_of
from image_curation.engine import EmbeddingEngine, EngineStats
from image_curation.errors import ShardError, StorageError
from image_curation.shards.header import Header

BAD = 255  # the first byte of an image that the fake decoder refuses
CURSED = 254  # one on which the fake decoder itself fails
POISON = 253  # one on which the fake encoder fails
FATAL = 252  # one on which the fake encoder's thread dies


class FakeDecoder:
    """An image's one pixel is its first byte, as a picture [1, 1, 3]."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.threads: set[int] = set()
        self.closed = False

    def decode(self, images, headers):
        assert len(images) == len(headers)
        self.threads.add(threading.get_ident())
        self.headers += headers
        firsts = [image[0] for image in images]
        if CURSED in firsts:
            raise RuntimeError("no more memory on the GPU")
        rows = np.array([i for i, first in enumerate(firsts) if first != BAD], np.int64)
        values = np.array([firsts[i] for i in rows], np.uint8)
        return SimpleNamespace(
            pixels=np.repeat(values, 3).reshape(-1, 1, 1, 3),
            rows=rows,
            facts=[SimpleNamespace(width=1, height=2, decoder="fake", damaged=False) for _ in rows],
            measures={name: values for name in ("phash", "sharpness", "exposure", "contrast")},
            errors={i: ("decode_failed", "no good") for i, first in enumerate(firsts) if first == BAD},
        )

    def close(self):
        self.closed = True


class FakeEncoder:
    """The vector of a pixel v is (v, 1); the sizes of all batches are in `batches`."""

    dim = 2

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.batches: list[int] = []

    def encode(self, pixels):
        self.batches.append(len(pixels))
        values = pixels[:, 0, 0, 0]
        if POISON in values:
            raise ValueError("the model chokes")
        if FATAL in values:
            raise SystemExit("the thread ends")
        return np.stack([values, np.ones_like(values)], axis=1).astype(np.float16)


@pytest.fixture
def make_shard(tmp_path: Path):
    """Make a file of fake images, each of so many bytes that all are its number; returns its index and path."""

    def make(name: str, values: list[int], size: int = 10) -> tuple[pa.Table, str]:
        path = tmp_path / name
        path.write_bytes(b"".join(bytes([value]) * size for value in values))
        n = len(values)
        columns = {
            "shard": [name] * n,
            "key": [str(i) for i in range(n)],
            "status": ["ok"] * n,
            "error": pa.nulls(n, pa.string()),
            "image_offset": [size * i for i in range(n)],
            "image_size": [size] * n,
            "format": ["PNG"] * n,
            "width": [1] * n,
            "height": [2] * n,
            "orientation": [1] * n,
            "damaged": pa.nulls(n, pa.bool_()),
        }
        return pa.table(columns), str(path)

    return make


@pytest.fixture
def make_engine():
    """Make engines that are closed at the end, and prove that their threads end."""
    made: list[EmbeddingEngine] = []

    def make(batch: int, *decoders: FakeDecoder, encode_threads: int = 1) -> tuple[EmbeddingEngine, FakeEncoder]:
        encoder = FakeEncoder(batch)
        made.append(EmbeddingEngine(decoders or [FakeDecoder()], encoder, encode_threads))
        return made[-1], encoder

    yield make
    for engine in made:
        engine.close()
    assert engine_threads() == []


_before: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def before():
    """The threads that were there before a test: other tests leave an engine for their whole process."""
    _before.clear()
    _before.update(threading.enumerate())


def engine_threads() -> list[str]:
    started = set(threading.enumerate()) - _before
    return [thread.name for thread in started if thread.name.startswith("engine")]


@pytest.fixture
def all_read_at_once(monkeypatch):
    """Make so many callers read their first batches before any of these is decoded."""

    def hold(callers: int) -> None:
        barrier = threading.Barrier(callers, timeout=30)
        firsts = iter(range(callers))
        read_ranges = storage.read_ranges

        def read(url, ranges):
            if next(firsts, None) is not None:
                barrier.wait()
            return read_ranges(url, ranges)

        monkeypatch.setattr(storage, "read_ranges", read)

    return hold


def at_once(engine: EmbeddingEngine, shards) -> list[pa.Table | BaseException]:
    """Embed each shard on a thread of its own: tables, and what was raised in the place of one."""
    with ThreadPoolExecutor(len(shards)) as pool:
        calls = [pool.submit(engine.embed, *shard) for shard in shards]
        return [call.exception(60) or call.result() for call in calls]


def values_of(table: pa.Table) -> list[int | None]:
    return [None if row["vector"] is None else int(row["vector"][0]) for row in table.to_pylist()]


def test_rows_are_those_of_the_index_in_its_order(make_engine, make_shard):
    engine, encoder = make_engine(4)
    table = engine.embed(*make_shard("s", [7, BAD, 9, 8, 1, 2]))
    assert table.schema == embeddings_schema(2)
    assert values_of(table) == [7, None, 9, 8, 1, 2]
    assert table["status"].to_pylist() == ["ok", "decode_failed", "ok", "ok", "ok", "ok"]
    assert table["error"].to_pylist() == [None, "s/1: no good", None, None, None, None]
    assert table["phash"].to_pylist() == [7, None, 9, 8, 1, 2]
    assert table["height"].to_pylist() == [2, None, 2, 2, 2, 2]
    assert encoder.batches == [4, 1]  # the bad one leaves no hole in the first


def test_headers_are_as_the_file_stores_the_image(make_engine, make_shard):
    """The index has the size as shown: orientations 5 to 8 swap the sides."""
    decoder = FakeDecoder()
    engine, _ = make_engine(2, decoder)
    index, url = make_shard("s", [1, 2, 3])
    index = index.set_column(index.schema.get_field_index("orientation"), "orientation", [[1, 6, 4]])
    engine.embed(index, url)
    assert decoder.headers == [Header("PNG", 1, 2, 1), Header("PNG", 2, 1, 6), Header("PNG", 1, 2, 4)]


def test_last_batch_is_not_kept_waiting(make_engine, make_shard):
    engine, encoder = make_engine(4)
    assert values_of(engine.embed(*make_shard("a", [1, 2, 3, 4, 5]))) == [1, 2, 3, 4, 5]
    assert values_of(engine.embed(*make_shard("b", [6]))) == [6]
    assert encoder.batches == [4, 1, 1]


def test_batches_cross_the_borders_of_shards(make_engine, make_shard, all_read_at_once):
    engine, encoder = make_engine(4)
    all_read_at_once(3)
    tables = at_once(engine, [make_shard("a", [1, 2, 3]), make_shard("b", [4, 5, 6]), make_shard("c", [7, 8, BAD])])
    assert [values_of(table) for table in tables] == [[1, 2, 3], [4, 5, 6], [7, 8, None]]
    assert encoder.batches == [4, 4]


@pytest.mark.parametrize(("decode_threads", "encode_threads"), [(1, 1), (3, 2)])
def test_many_shards_at_once_give_what_each_gives_alone(make_engine, make_shard, decode_threads, encode_threads):
    chance = random.Random(0)
    shards = [
        make_shard(str(i), [chance.choice([BAD, *range(200)]) for _ in range(chance.randint(0, 90))]) for i in range(24)
    ]
    alone, _ = make_engine(64)
    decoders = [FakeDecoder() for _ in range(decode_threads)]
    together, encoder = make_engine(7, *decoders, encode_threads=encode_threads)
    with ThreadPoolExecutor(5) as pool:
        tables = list(pool.map(lambda shard: together.embed(*shard), shards))
    assert tables == [alone.embed(*shard) for shard in shards]
    good = sum(len(table) - table["vector"].null_count for table in tables)
    assert sum(encoder.batches) == together.stats().images == good > 500
    assert max(encoder.batches) == 7
    threads = [decoder.threads for decoder in decoders]
    assert len(set.union(*threads)) == sum(map(len, threads)) > 0  # a decoder can be used by one thread only


def test_shard_without_a_good_image_never_asks_the_encoder(make_engine, make_shard):
    engine, encoder = make_engine(4)
    for values in ([], [BAD], [BAD] * 9):
        table = engine.embed(*make_shard("s", values))
        assert table.schema == embeddings_schema(2)
        assert values_of(table) == [None] * len(values)
        assert vectors_of(table).shape == (len(values), 2)
    assert encoder.batches == []


class WatchedMemory:
    """Counts the bytes that are read and not decoded yet."""

    def __init__(self, monkeypatch, decoder: FakeDecoder) -> None:
        self.held = self.most = 0
        lock, read_ranges, decode = threading.Lock(), storage.read_ranges, decoder.decode

        def read(url, ranges):
            with lock:
                self.held += sum(size for _, size in ranges)
                self.most = max(self.most, self.held)
            return read_ranges(url, ranges)

        def decoded(images, headers):
            time.sleep(0.002)  # readers get ahead
            with lock:
                self.held -= sum(map(len, images))
            return decode(images, headers)

        monkeypatch.setattr(storage, "read_ranges", read)
        monkeypatch.setattr(decoder, "decode", decoded)


def test_images_in_memory_are_bounded_over_all_shards(make_engine, make_shard, monkeypatch):
    monkeypatch.setattr(engine_module, "_HELD_BYTES", 350)
    decoder = FakeDecoder()
    engine, _ = make_engine(10, decoder)
    memory = WatchedMemory(monkeypatch, decoder)
    values = list(range(100))
    tables = at_once(engine, [make_shard(name, values) for name in "abcd"])
    assert [values_of(table) for table in tables] == [values] * 4
    assert 100 < memory.most <= 300  # of batches with 100 bytes each, three fit
    assert memory.held == 0


def test_bound_below_one_image_lets_them_through_one_by_one(make_engine, make_shard, monkeypatch):
    monkeypatch.setattr(engine_module, "_HELD_BYTES", 5)
    monkeypatch.setattr(engine_module, "_BATCH_BYTES", 5)
    decoder = FakeDecoder()
    engine, encoder = make_engine(4, decoder)
    memory = WatchedMemory(monkeypatch, decoder)
    values = list(range(20))
    tables = at_once(engine, [make_shard(name, values) for name in "ab"])
    assert [values_of(table) for table in tables] == [values] * 2
    assert memory.most == 10
    assert sum(encoder.batches) == 40


def test_reading_goes_on_while_images_are_decoded(make_engine, make_shard, monkeypatch):
    """So that nobody waits for a slow store: all is read before the first image has to be decoded."""
    decoder = FakeDecoder()
    engine, _ = make_engine(10, decoder)
    values = list(range(100))
    index, url = make_shard("s", values)
    reads, all_read, read_ranges, decode = [], threading.Event(), storage.read_ranges, decoder.decode

    def read(url, ranges):
        reads.extend(ranges)
        if len(reads) == len(values):
            all_read.set()
        return read_ranges(url, ranges)

    def late(images, headers):
        assert all_read.wait(30), f"after {len(reads)} images, reading waits for decoding"
        return decode(images, headers)

    monkeypatch.setattr(storage, "read_ranges", read)
    monkeypatch.setattr(decoder, "decode", late)
    assert values_of(engine.embed(index, url)) == values


def test_decoding_waits_for_a_slow_encoder(make_engine, make_shard, monkeypatch):
    """Pixels are larger than encoded images: the decoder must not run ahead by a shard."""
    decoder = FakeDecoder()
    engine, encoder = make_engine(2, decoder)
    started, go_on, encode = threading.Event(), threading.Event(), encoder.encode

    def slow(pixels):
        started.set()
        assert go_on.wait(30)
        return encode(pixels)

    monkeypatch.setattr(encoder, "encode", slow)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(engine.embed, *make_shard("s", list(range(50))))
        assert started.wait(30)
        time.sleep(0.1)
        ahead = len(decoder.headers)
        go_on.set()
        assert values_of(call.result(30)) == list(range(50))
    assert ahead <= 2 + 2 * 2 + 2  # with the encoder, waiting for it, and the batch that filled the queue


def test_batches_are_shorter_where_images_are_large(monkeypatch):
    monkeypatch.setattr(engine_module, "_BATCH_BYTES", 100)
    sizes = [40, 40, 40, 500, 1, 1, 1]
    runs = engine_module._runs(np.arange(7), sizes, batch_size=3)
    assert [run.tolist() for run in runs] == [[0, 1], [2], [3], [4, 5, 6]]


def test_tar_that_is_gone_is_an_error_of_its_shard_alone(make_engine, make_shard, all_read_at_once):
    engine, _ = make_engine(4)
    all_read_at_once(2)
    gone, there = make_shard("gone", [1, 2, 3, 4, 5, 6]), make_shard("there", [7, 8])
    Path(gone[1]).unlink()
    error, table = at_once(engine, [gone, there])
    assert isinstance(error, StorageError)
    assert "cannot read " in str(error)
    assert values_of(table) == [7, 8]


def test_tar_that_fails_half_way_leaves_nothing_behind(make_engine, make_shard, monkeypatch):
    monkeypatch.setattr(engine_module, "_HELD_BYTES", 60)  # what is not freed would be missed soon
    engine, _ = make_engine(4)
    for n in range(20):
        index, url = make_shard("cut", [n] * 10)
        content = Path(url).read_bytes()
        Path(url).write_bytes(content[:95])
        with pytest.raises(ShardError, match=r"ends before its index says: of the 10 bytes from byte 90 there are 5"):
            engine.embed(index, url)
    assert values_of(engine.embed(*make_shard("good", [1, 2, 3]))) == [1, 2, 3]


def test_failing_decoder_costs_the_shards_of_its_batch(make_engine, make_shard, all_read_at_once):
    engine, _ = make_engine(4)
    all_read_at_once(2)
    error, table = at_once(engine, [make_shard("a", [1, CURSED] + [2] * 30), make_shard("b", [3, 4])])
    assert str(error) == "no more memory on the GPU"
    assert values_of(table) == [3, 4]
    assert values_of(engine.embed(*make_shard("c", [5]))) == [5]


def test_failing_encoder_costs_the_shards_of_its_batch(make_engine, make_shard, all_read_at_once):
    engine, encoder = make_engine(6)
    all_read_at_once(2)
    errors = at_once(engine, [make_shard("a", [1, POISON, 2]), make_shard("b", [3, 4, 5])])
    assert [str(error) for error in errors] == ["the model chokes"] * 2
    assert encoder.batches == [6]
    assert values_of(engine.embed(*make_shard("c", [5] * 20))) == [5] * 20


@pytest.mark.parametrize("batch", [2, 100])
def test_failing_encoder_ends_a_long_shard_early(make_engine, make_shard, batch):
    engine, _ = make_engine(batch)
    with pytest.raises(ValueError, match="the model chokes"):
        engine.embed(*make_shard("a", [POISON] + [1] * 500))
    assert values_of(engine.embed(*make_shard("b", [1]))) == [1]


def test_thread_that_dies_fails_all_who_wait_and_all_who_come(make_engine, make_shard, all_read_at_once):
    engine, _ = make_engine(3)
    all_read_at_once(2)
    errors = at_once(engine, [make_shard("a", [1, FATAL, 2]), make_shard("b", [3] * 500)])
    assert [str(error) for error in errors] == ["the thread ends"] * 2
    with pytest.raises(SystemExit, match="the thread ends"):
        engine.embed(*make_shard("c", [5]))


def test_closed_engine_ends_its_threads_its_decoder_and_those_who_wait(make_shard):
    decoder, encoder = FakeDecoder(), FakeEncoder(2)
    entered, leave, encode = threading.Event(), threading.Event(), encoder.encode

    def hang(pixels):
        entered.set()
        assert leave.wait(30)
        return encode(pixels)

    encoder.encode = hang
    engine = EmbeddingEngine([decoder], encoder)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(engine.embed, *make_shard("s", [1] * 100))
        assert entered.wait(30)
        closing = threading.Thread(target=engine.close)
        closing.start()
        assert str(call.exception(30)) == "the embedding engine was closed"
        leave.set()
        closing.join(30)
    assert decoder.closed
    assert engine_threads() == []
    with pytest.raises(RuntimeError, match="was closed"):
        engine.embed(*make_shard("s", [1]))
    engine.close()  # once more does nothing


def test_engine_that_nobody_holds_ends_its_threads(make_shard):
    decoder = FakeDecoder()
    engine = EmbeddingEngine([decoder], FakeEncoder(2), encode_threads=2)
    engine.embed(*make_shard("s", [1, 2, 3]))
    assert sorted(engine_threads()) == ["engine_decode", "engine_encode", "engine_encode"]
    del engine
    gc.collect()
    assert decoder.closed
    assert engine_threads() == []


def test_process_ends_though_its_engine_was_not_closed():
    program = (
        "from types import SimpleNamespace as N\n"
        "from image_curation.engine import EmbeddingEngine\n"
        "engine = EmbeddingEngine([N(close=lambda: print('closed'))], N(batch=1, dim=1), encode_threads=2)\n"
        "print('made')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "made\nclosed\n", "")


def test_stats_add_up(make_engine, make_shard):
    engine, _ = make_engine(4)
    assert engine.stats() == EngineStats()
    engine.embed(*make_shard("s", [1, BAD, 2]))
    stats = engine.stats()
    assert stats.images == 2
    assert all(seconds > 0 for seconds in (stats.read_s, stats.decode_s, stats.encode_s))
