"""Embeddings as artifacts: one engine a process, whoever asks, and a tar that changed is refused."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from image_curation.artifacts import read_table
from image_curation.errors import ShardError
from image_curation.shards.discover import discover
from image_curation.steps import embeddings
from image_curation.steps.embeddings import build_embeddings
from image_curation.steps.shard_index import build_shard_index


@pytest.fixture
def raw(tmp_path, workshop):
    names = ("a", "b", "c", "d")
    return workshop.source(
        tmp_path / "raw",
        {name: {f"{name}{i}.jpg": workshop.photo(7 * n + i) for i in range(5)} for n, name in enumerate(names)},
    )


@pytest.fixture(autouse=True)
def no_engine_from_elsewhere():
    embeddings._engines.clear()
    yield
    embeddings._engines.clear()


def engine_threads() -> int:
    return sum(thread.name.startswith("engine") for thread in threading.enumerate())


def indexed(project) -> list[str]:
    """Index all shards of a project; returns their keys."""
    shards, _ = discover(project.settings.source)
    for shard in shards:
        build_shard_index(project, shard)
    return [shard.key for shard in shards]


def test_threads_that_ask_at_once_share_one_engine_which_is_loaded_once(raw, tmp_path, workshop, monkeypatch):
    project = workshop.project(raw, tmp_path / "out")
    shards, loaded, load = indexed(project), [], embeddings.load_encoder

    def slow(*arguments):
        loaded.append(arguments)
        time.sleep(0.2)
        return load(*arguments)

    monkeypatch.setattr(embeddings, "load_encoder", slow)
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(partial(build_embeddings, project), shards))
    assert [(outcome.reused, outcome.artifact.rows) for outcome in outcomes] == [(False, 5)] * 4
    assert len(loaded) == 1
    one_by_one = workshop.project(raw, tmp_path / "one by one")
    for shard in indexed(one_by_one):
        build_embeddings(one_by_one, shard)
    assert workshop.hashes(tmp_path / "out" / "embeddings") == workshop.hashes(tmp_path / "one by one" / "embeddings")


def test_vectors_of_another_arithmetic_are_made_anew(raw, tmp_path, workshop):
    made = {}
    for dtype in ("fp32", "bf16", "bf16"):
        project = workshop.project(
            raw, tmp_path / "out", encoder="open_clip:ViT-S-32", weights="random:3", cpu_dtype=dtype
        )
        made[dtype] = build_embeddings(project, indexed(project)[0])
        assert made[dtype].artifact.certificate.settings["dtype"] == dtype
    assert made["bf16"].reused
    assert made["bf16"].artifact.content != made["fp32"].artifact.content


def test_other_settings_bring_another_engine_and_the_first_one_ends(raw, tmp_path, workshop):
    for limit in (10_000, 20_000):
        project = workshop.project(raw, tmp_path / str(limit), decode={"max_pixels": limit})
        for shard in indexed(project):
            build_embeddings(project, shard)
        assert engine_threads() == 2
    assert embeddings._loaded(project.settings, "cpu").stats().images == 20
    assert embeddings.engine_stats().images == 20


def test_process_that_embeds_nothing_has_done_nothing():
    assert embeddings.engine_stats().images == 0


def test_tar_that_changed_since_it_was_indexed_is_refused(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    indexed(project)
    workshop.source(raw, {"a": {"a0.jpg": workshop.photo(99)}})
    (raw / "b.tar").unlink()
    with pytest.raises(ShardError, match=r"a\.tar has changed since it was indexed: materialize `shard_index`"):
        build_embeddings(project, "a")
    with pytest.raises(ShardError, match=r"b\.tar is no longer there"):
        build_embeddings(project, "b")
    assert build_embeddings(project, "c").artifact.facts["statuses"] == {"ok": 5}


def test_rows_are_written_as_they_are_embedded(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    indexed(project)
    artifact = build_embeddings(project, "b").artifact
    rows = read_table(artifact.url)
    assert rows["key"].to_pylist() == [f"b{i}" for i in range(5)]
    assert rows["vector"].null_count == 0
    assert artifact.certificate.code_version == "4"
    assert build_embeddings(project, "b").reused


def test_dask_worker_with_threads_shares_an_engine_and_ends_by_itself(raw, tmp_path, workshop, caplog):
    """`still alive` is what Dask logs before it kills a worker that does not end."""
    distributed = pytest.importorskip("distributed")
    project = workshop.project(raw, tmp_path / "out")
    shards = indexed(project)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster) as client,
    ):
        outcomes = client.gather(client.map(partial(build_embeddings, project), shards))
        (made,) = client.run(lambda: embeddings.engine_stats().images).values()
        (process,) = client.run(os.getpid).values()
    assert [outcome.reused for outcome in outcomes] == [False] * 4
    assert made == 20
    assert process != os.getpid()
    assert "still alive" not in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
