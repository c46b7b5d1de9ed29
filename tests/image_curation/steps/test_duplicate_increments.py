"""A search that goes on from the one before gives what a search over everything gives, in any order and any split."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_curation import storage
from image_curation.artifacts import Certificate, read_artifact, write_table
from image_curation.config import load_settings
from image_curation.project import Project
from image_curation.steps import duplicate_cells, duplicate_strips
from image_curation.steps.duplicate_groups import build_duplicate_groups, read_duplicates

SHARDS = [f"s{i}" for i in range(5)]
ROWS, DIM = 14, 16
COARSE = 15_600  # a cut that some duplicates do not reach


def write_shard(project: Project, shard: str, seed: int) -> None:
    """A shard of its own: vectors around few centres, hashes of few values, copies of what other shards have too."""
    rng, shared = np.random.default_rng(seed), np.random.default_rng(0)
    centres = shared.standard_normal((6, DIM))
    vectors = centres[rng.integers(0, 6, ROWS)] + 0.22 * rng.standard_normal((ROWS, DIM))
    copies = centres + 0.3 * shared.standard_normal(centres.shape)
    which = rng.random(ROWS) < 0.3
    vectors[which] = copies[rng.integers(0, 6, which.sum())]  # equal rows, also across shards
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    status = np.where(rng.random(ROWS) < 0.1, "decode_failed", "ok")
    phash = shared.integers(0, 2**64, 8, np.uint64)[rng.integers(0, 8, ROWS)]
    phash ^= np.uint64(1) << rng.integers(0, 64, ROWS, np.uint64)
    keys = [f"{k:03d}" for k in rng.permutation(ROWS)]
    made = Certificate(artifact="test", code_version="1", settings={"seed": seed})
    columns = {
        "key": keys,
        "status": status,
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.astype(np.float16).ravel()), DIM, mask=pa.array(status != "ok")
        ),
        "phash": pa.array(phash, mask=status != "ok"),
        "contrast": pa.array(np.where(rng.random(ROWS) < 0.1, 0.0, 0.2).astype(np.float32), mask=status != "ok"),
    }
    facts = {"statuses": {"ok": int((status == "ok").sum())}}
    write_table(project.embeddings_url(shard), pa.table(columns), made, facts)
    hashes = [hashlib.sha256(f"{seed if rng.random() < 0.7 else 0}-{k % 7}".encode()).hexdigest() for k in range(ROWS)]
    write_table(project.index_url(shard), pa.table({"sha256": hashes}), made)


def project_at(root: Path, cells: bool = False) -> Project:
    duplicates = {"similarity_margin": 0.1, "brute_force_rows": 0 if cells else None}
    return Project.load(load_settings(source=str(root) + "-raw", root=str(root), device="cpu", duplicates=duplicates))


def stored(project: Project) -> tuple[str, str]:
    return read_artifact(project.members_url).content, read_artifact(project.edges_url).content


@pytest.fixture(scope="module", params=["all with all", "by cells", "by cells and coarse sketches"])
def whole(request, tmp_path_factory) -> tuple[Project, tuple[str, str]]:
    """All shards searched at once."""
    by_cells = request.param != "all with all"
    project = project_at(tmp_path_factory.mktemp("whole") / "out", cells=by_cells)
    for i, shard in enumerate(SHARDS):
        write_shard(project, shard, seed=i + 1)
    with pytest.MonkeyPatch.context() as patch:
        if request.param.endswith("sketches"):
            patch.setattr(duplicate_cells, "fitted_cut", lambda *asked: COARSE)
        facts = build_duplicate_groups(project, SHARDS).artifact.facts
    assert facts["searched_by"].endswith(" cells") == by_cells
    assert min(facts["pairs"].values()) >= 5, facts["pairs"]
    return project, stored(project)


def test_sketches_keep_pairs_from_being_found(tmp_path, monkeypatch):
    """As it should not be: without it the other tests would say nothing of them."""
    found = []
    for name, cut in (("low", 1), ("high", COARSE)):
        project = project_at(tmp_path / name, cells=True)
        for i, shard in enumerate(SHARDS):
            write_shard(project, shard, seed=i + 1)
        monkeypatch.setattr(duplicate_cells, "fitted_cut", lambda *asked, cut=cut: cut)
        found.append(build_duplicate_groups(project, SHARDS).artifact.facts["pairs"]["semantic"])
    assert 5 <= found[1] < found[0]


def copy_of(project: Project, root: Path, cells: bool) -> Project:
    """The same shards and the same generation of cells, but no search."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(project.settings.root, root)
    other = project_at(root, cells)
    for url in (other.members_url, other.edges_url):
        storage.remove(url)
    return other


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(SHARDS), cuts=st.sets(st.integers(1, 4)), block_rows=st.sampled_from([1, 20, 1000]))
def test_shards_added_in_any_order_and_split_give_the_same_files(whole, tmp_path, monkeypatch, order, cuts, block_rows):
    monkeypatch.setattr(duplicate_strips, "_CPU_BLOCK_ROWS", block_rows)
    by_cells = storage.exists(whole[0].cells_url)
    project = copy_of(whole[0], tmp_path / "out", by_cells)
    for end in [*sorted(cuts), len(order)]:
        build_duplicate_groups(project, order[:end])
    assert stored(project) == whole[1]
    assert not storage.exists(project.strips_url) or not storage.list_files(project.strips_url)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(gone=st.sets(st.sampled_from(SHARDS), min_size=1, max_size=4), replaced=st.sampled_from(SHARDS))
def test_removed_and_replaced_shards_leave_no_trace(whole, tmp_path, gone, replaced):
    by_cells = storage.exists(whole[0].cells_url)
    project, fresh = (copy_of(whole[0], tmp_path / name, by_cells) for name in ("out", "fresh"))
    build_duplicate_groups(project, SHARDS)
    left = [shard for shard in SHARDS if shard not in gone]
    if left:
        build_duplicate_groups(project, left)
        build_duplicate_groups(fresh, left)
        assert stored(project) == stored(fresh)
    for one in (project, fresh):
        write_shard(one, replaced, seed=99)
    build_duplicate_groups(project, SHARDS)
    storage.remove(fresh.members_url)
    build_duplicate_groups(fresh, SHARDS)
    assert stored(project) == stored(fresh) != whole[1]


def test_only_newcomers_are_compared(whole, tmp_path, monkeypatch):
    by_cells = storage.exists(whole[0].cells_url)
    project = copy_of(whole[0], tmp_path / "out", by_cells)
    build_duplicate_groups(project, SHARDS[:4])
    asked: list[duplicate_strips.Strip] = []
    real = duplicate_strips.build_strip

    def seen(project, generation, strip):
        asked.append(strip)
        return real(project, generation, strip)

    monkeypatch.setattr(duplicate_strips, "build_strip", seen)
    build_duplicate_groups(project, SHARDS)
    assert [list(strip.own) for strip in asked] == [[SHARDS[4]]]
    build_duplicate_groups(project, SHARDS[:4])
    assert len(asked) == 1  # nothing had to be compared to take a shard away


def test_a_strip_that_fails_keeps_what_the_others_found(whole, tmp_path, monkeypatch):
    by_cells = storage.exists(whole[0].cells_url)
    project = copy_of(whole[0], tmp_path / "out", by_cells)
    monkeypatch.setattr(duplicate_strips, "_CPU_BLOCK_ROWS", 1)
    real, calls = duplicate_strips.build_strip, []

    def fails_once(project, generation, strip):
        calls.append(strip)
        if len(calls) == 3:
            raise OSError("the disk went away")
        return real(project, generation, strip)

    monkeypatch.setattr(duplicate_strips, "build_strip", fails_once)
    with pytest.raises(OSError, match="the disk went away"):
        build_duplicate_groups(project, SHARDS)
    assert len(calls) == 5
    assert len(storage.list_files(project.strips_url)) == 4
    storage.remove(storage.list_files(project.blocks_url)[0].url)  # its strip is made again
    build_duplicate_groups(project, SHARDS)
    assert stored(project) == whole[1]
    members, edges = read_duplicates(project)
    assert len(members) > len(set(edges.a)) > 0
