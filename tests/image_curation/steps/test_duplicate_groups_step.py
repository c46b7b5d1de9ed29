"""The search over all shards: what it stores, what makes it search again, and that cells find what all pairs find."""

import shutil

import pytest

from image_curation.artifacts import read_artifact, read_table
from image_curation.errors import ArtifactError
from image_curation.steps.duplicate_groups import build_duplicate_groups, read_duplicates
from image_curation.steps.selection import build_selection


@pytest.fixture
def copied(demo, tmp_path, workshop):
    """The curated demo in another root, with other settings."""

    def copy(policy: str | None = None, **settings: object):
        shutil.copytree(demo.root, tmp_path / "out", dirs_exist_ok=True)
        return workshop.project(demo.raw, tmp_path / "out", policy=policy, **settings)

    return copy


def test_members_are_what_the_edges_join_and_edges_name_them(demo):
    members, edges = read_duplicates(demo.project)
    names = list(zip(members["shard"].to_pylist(), members["key"].to_pylist(), strict=True))
    assert len(set(names)) == len(names) < len(demo.samples)
    assert set(edges.a) | set(edges.b) == set(range(len(names)))
    assert (edges.a < edges.b).all()
    for row in read_table(demo.project.edges_url).to_pylist():
        assert names[row["a"]] == (row["shard_a"], row["key_a"])
        assert names[row["b"]] == (row["shard_b"], row["key_b"])
        assert row["kind"] in ("exact", "perceptual", "semantic")
        assert row["kind"] != "semantic" or row["similarity"] >= demo.project.similarity_floor
    assert members["vector"].null_count == 0


def test_exact_edges_are_the_planted_copies(demo):
    hashes: dict[str, list[str]] = {}
    for shard in demo.project.selected_shards():
        for row in read_table(demo.project.index_url(shard)).to_pylist():
            if row["status"] == "ok":
                hashes.setdefault(row["sha256"], []).append(row["key"])
    twins = {frozenset(keys) for keys in hashes.values() if len(keys) > 1}
    assert len(twins) == 6
    edges = read_table(demo.project.edges_url).to_pylist()
    assert {frozenset((row["key_a"], row["key_b"])) for row in edges if row["kind"] == "exact"} == twins


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
