"""The search over all shards: what it stores, what makes it search again, and that cells find what all pairs find."""

import shutil

import numpy as np
import pyarrow.compute as pc
import pytest

from image_curation.artifacts import read_artifact, read_table, write_table
from image_curation.duplicates.edges import Kind
from image_curation.duplicates.sketches import RADIUS, train_sketcher
from image_curation.duplicates.vectors import Vectors
from image_curation.errors import ArtifactError
from image_curation.steps.duplicate_cells import cells_for, read_cells, read_vectors
from image_curation.steps.duplicate_groups import build_duplicate_groups, member_vectors, read_duplicates
from image_curation.steps.selection import build_selection


@pytest.fixture
def copied(demo, tmp_path, workshop):
    """The curated demo in another root, with other settings."""

    def copy(policy: str | None = None, **settings: object):
        shutil.copytree(demo.root, tmp_path / "out", dirs_exist_ok=True)
        return workshop.project(demo.raw, tmp_path / "out", policy=policy, **settings)

    return copy


def test_members_are_what_the_edges_join(demo):
    members, edges = read_duplicates(demo.project)
    names = list(zip(members["shard"].to_pylist(), members["key"].to_pylist(), strict=True))
    assert len(set(names)) == len(names) < len(demo.samples)
    assert set(edges.a) | set(edges.b) == set(range(len(names)))
    assert (edges.a < edges.b).all()
    vectors = Vectors.measure(member_vectors(demo.project, members))
    for row in read_table(demo.project.edges_url).to_pylist():
        assert row["kind"] in ("exact", "perceptual", "semantic")
        if row["kind"] == "semantic":
            assert row["similarity"] >= demo.project.similarity_floor
            assert vectors.cosine(*np.array([[row["a"]], [row["b"]]])) == row["similarity"]


def test_members_are_told_as_their_shards_tell_them(demo):
    members, _ = read_duplicates(demo.project)
    for row in members.to_pylist():
        embedded = read_table(demo.project.embeddings_url(row["shard"]))
        indexed = read_table(demo.project.index_url(row["shard"]))["sha256"]
        told = embedded.append_column("sha256", indexed).filter(pc.equal(embedded["status"], "ok"))
        sample = told.slice(row["row"], 1).to_pylist()[0]
        assert (row["key"], row["phash"]) == (sample["key"], sample["phash"])
        assert row["sha256"] == sample["sha256"][:32]


def test_vectors_of_a_shard_that_was_embedded_anew_are_refused(copied):
    project = copied()
    members, _ = read_duplicates(project)
    shard = members["shard"][0].as_py()
    table = read_table(project.embeddings_url(shard))
    made = read_artifact(project.embeddings_url(shard))
    write_table(project.embeddings_url(shard), table.slice(1), made.certificate, made.facts)
    with pytest.raises(ArtifactError, match=f"{shard} was embedded anew since duplicates were searched"):
        member_vectors(project, members)


def test_exact_edges_are_the_planted_copies(demo):
    hashes: dict[str, list[str]] = {}
    for shard in demo.project.selected_shards():
        for row in read_table(demo.project.index_url(shard)).to_pylist():
            if row["status"] == "ok":
                hashes.setdefault(row["sha256"], []).append(row["key"])
    twins = {frozenset(keys) for keys in hashes.values() if len(keys) > 1}
    assert len(twins) == 6
    members, edges = read_duplicates(demo.project)
    keys, exact = members["key"].to_pylist(), edges.of(Kind.EXACT)
    assert {frozenset((keys[a], keys[b])) for a, b in zip(exact.a, exact.b, strict=True)} == twins


def test_facts_say_how_it_was_searched_and_what_recall_it_had(demo):
    facts = read_artifact(demo.project.members_url).facts
    assert facts["searched_by"] == "comparing all with all"
    assert facts["samples"] == demo.result.ledger.read - sum(demo.result.ledger.failed.values())
    assert facts["recall"]["recall"] == 1
    assert facts["recall"]["from"] == "all were compared with all"
    assert facts["groups_at_floor"] >= 12
    assert facts["pairs"]["exact"] == 6


def test_cells_find_the_same_duplicates_as_comparing_all(demo, copied, workshop):
    project = copied(duplicates={"brute_force_rows": 0})
    shards = project.selected_shards()
    outcome = build_duplicate_groups(project, shards)
    assert not outcome.reused
    assert outcome.artifact.facts["searched_by"].endswith(" cells")
    assert outcome.artifact.facts["recall"]["recall"] == 1
    build_selection(project, shards)
    assert workshop.decisions(project) == workshop.decisions(demo.project)


def test_a_generation_keeps_its_cells_and_what_makes_sketches(copied):
    project = copied(duplicates={"brute_force_rows": 0})
    shards = project.selected_shards()
    counts = {shard: len(read_vectors(project, shard)) for shard in shards}
    content = cells_for(project, counts)
    assert cells_for(project, counts) == content
    cells, facts = read_cells(project), read_artifact(project.cells_url).facts
    sketcher = cells.sketcher
    assert len(cells.centroids) == facts["cells"] > 10
    assert np.linalg.norm(cells.centroids, axis=1) == pytest.approx(1, abs=1e-3)
    vectors = np.concatenate([read_vectors(project, shard) for shard in sorted(shards)])
    trained = train_sketcher(vectors)
    assert np.array_equal(sketcher.directions, trained.directions)
    assert np.array_equal(sketcher.offsets, trained.offsets)
    assert sketcher.scale == trained.scale
    assert 0 < sketcher.cut < RADIUS**2


def test_policy_is_no_reason_to_search_again_but_a_lower_floor_is(copied):
    project = copied(policy="duplicates: {min_similarity: 0.95, max_phash_distance: 2, survivor: [first]}")
    shards = project.selected_shards()
    assert build_duplicate_groups(project, shards).reused
    deeper = copied(duplicates={"similarity_margin": 0.2})
    outcome = build_duplicate_groups(deeper, shards)
    assert not outcome.reused
    similarities = read_table(deeper.edges_url)
    lowest = min(row["similarity"] for row in similarities.to_pylist() if row["kind"] == "semantic")
    assert 0.7 <= lowest < 0.85


def test_policy_leaves_no_trace_in_what_is_stored(demo, copied, tmp_path, workshop):
    project = copied(policy="duplicates: {min_similarity: 0.999}")
    shutil.rmtree(tmp_path / "out" / "duplicate_groups")
    build_duplicate_groups(project, project.selected_shards())
    assert workshop.hashes(tmp_path / "out" / "duplicate_groups") == workshop.hashes(demo.root / "duplicate_groups")


def test_without_a_pair_both_files_are_there_and_empty(tmp_path, workshop):
    raw = workshop.source(tmp_path / "raw", {"a": {"1.jpg": workshop.photo(1), "2.jpg": workshop.photo(2)}})
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    artifact = read_artifact(project.members_url)
    assert (artifact.rows, artifact.facts["samples"]) == (0, 2)
    members, edges = read_duplicates(project)
    assert (len(members), len(edges)) == (0, 0)


def test_order_of_shards_changes_nothing_and_a_shard_less_is_another_search(copied):
    project = copied()
    shards = project.selected_shards()
    whole = build_duplicate_groups(project, shards[::-1])
    assert whole.reused
    part = build_duplicate_groups(project, shards[1:])
    assert not part.reused
    assert shards[0] not in read_table(project.members_url)["shard"].to_pylist()
    again = build_duplicate_groups(project, shards)
    assert not again.reused
    assert again.artifact.content == whole.artifact.content


@pytest.mark.parametrize("gone", ["members_url", "edges_url"])
def test_one_of_the_two_files_alone_is_not_taken_for_the_whole(copied, gone, tmp_path, workshop):
    project = copied()
    before = workshop.hashes(tmp_path / "out" / "duplicate_groups")
    (tmp_path / "out" / "duplicate_groups" / "embedded" / getattr(project, gone).rpartition("/")[2]).unlink()
    assert not build_duplicate_groups(project, project.selected_shards()).reused
    assert workshop.hashes(tmp_path / "out" / "duplicate_groups") == before


def test_no_shard_and_shard_without_embeddings(copied):
    project = copied()
    with pytest.raises(ArtifactError, match="no shard has embeddings yet"):
        build_duplicate_groups(project, [])
    with pytest.raises(ArtifactError, match=r"embeddings/embedded/new\.parquet has not been made yet"):
        build_duplicate_groups(project, ["new"])
