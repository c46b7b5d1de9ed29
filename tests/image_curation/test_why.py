"""Why a sample was kept or dropped: its sentence, measures and group; and what is said of a key that is nowhere."""

import re

import pytest

from image_curation.errors import ConfigError
from image_curation.project import Project
from image_curation.steps.duplicate_groups import build_duplicate_groups
from image_curation.why import explain


@pytest.fixture(scope="module")
def planted(demo):
    """kind -> (shard, key), of those that were planted once."""
    return {sample.planted: (sample.shard, sample.key) for sample in demo.samples if sample.planted and not sample.of}


def test_kept_sample(demo, planted):
    shard, key = planted["png"]
    (one,) = explain(demo.project, key)
    assert (one.shard, one.key, one.decision) == (shard, key, "kept")
    assert one.sentence == "it passes every rule of the policy"
    assert one.facts["format"] == "PNG"
    assert one.facts["aesthetic"] == one.facts["nsfw"] == "none"
    assert len(one.facts["sha256"]) == 64
    assert one.group == one.chain == []
    assert one.lineage == {}


def test_sample_dropped_by_a_rule(demo, planted):
    (one,) = explain(demo.project, planted["tiny"][1])
    assert one.decision == "dropped"
    assert one.sentence == "low resolution: short side of 18 px, below 64"
    assert (one.facts["width"], one.facts["height"]) == ("24", "18")


def test_failed_sample(demo, planted):
    shard, key = planted["text_as_image"]
    (one,) = explain(demo.project, f"{shard}/{key}")
    assert one.decision == "failed"
    assert key in one.sentence
    assert one.facts["width"] == one.facts["exposure"] == "none"


def test_duplicate_is_shown_with_its_group(demo, workshop):
    decisions = workshop.decisions(demo.project)
    row = next(row for row in decisions.values() if row["reason"] == "duplicate_perceptual")
    (one,) = explain(demo.project, f"{row['shard']}/{row['key']}")
    group = [f"{r['shard']}/{r['key']}" for r in decisions.values() if r["group"] == row["group"]]
    representative = f"{row['representative_shard']}/{row['representative_key']}"
    assert one.sentence.startswith(f"duplicate perceptual: looks the same as {representative} (cosine ")
    heading, first, *others = one.group
    assert heading == f"duplicate group {representative}, {len(group)} images:"
    assert first == f"  kept    {representative}  represents the group"
    assert {line.split()[1] for line in others} == set(group) - {representative}
    assert len(others) == len(group) - 1
    own = next(line for line in others if line.split()[1] == f"{row['shard']}/{row['key']}")
    assert own.startswith("  dropped ")
    assert own.endswith(", perceptual")


def test_members_of_a_group_come_by_falling_similarity(demo, workshop):
    several = 0
    for group in {row["group"] for row in workshop.decisions(demo.project).values()} - {None}:
        (one,) = explain(demo.project, group)
        cosines = [float(line.split("cosine ")[1].split(",")[0]) for line in one.group[2:]]
        assert cosines == sorted(cosines, reverse=True)
        several += len(set(cosines)) > 1
    assert several > 3


def test_representative_is_shown_with_the_same_group(demo, workshop):
    row = next(row for row in workshop.decisions(demo.project).values() if row["reason"] == "duplicate_exact")
    (one,) = explain(demo.project, f"{row['shard']}/{row['key']}")
    (other,) = explain(demo.project, f"{row['representative_shard']}/{row['representative_key']}")
    assert other.decision == "kept"
    assert other.group == one.group
    assert one.sentence.startswith("duplicate exact: the same bytes as")


def test_chain_leads_from_each_duplicate_to_its_representative(demo, workshop):
    by_way_of_others = 0
    limits = {"semantic": lambda x: float(x) >= 0.9, "perceptual": lambda x: int(x) <= 4}
    for row in workshop.decisions(demo.project).values():
        if row["group"] is None:
            continue
        own = f"{row['shard']}/{row['key']}"
        (one,) = explain(demo.project, own)
        if own == row["group"]:
            assert one.chain == []
            continue
        first, *links = one.chain
        assert (first, links[-1].split("-> ")[1]) == (own, row["group"])
        for link in links:
            kind, value = re.match(r"  -(exact|semantic|perceptual) ?([\d.]*)", link).groups()
            assert kind == "exact" or limits[kind](value)
        if row["how"] == "exact":
            assert links == [f"  -exact-> {row['group']}"]
        by_way_of_others += len(links) > 1
    assert by_way_of_others > 0


def test_lineage_names_the_rules_of_the_selection_and_how_was_searched(demo, workshop):
    row = next(row for row in workshop.decisions(demo.project).values() if row["how"] == "exact")
    (one,) = explain(demo.project, f"{row['shard']}/{row['key']}")
    assert one.lineage["rules"] == (
        "exact True, max phash distance 4, min similarity 0.9, survivor aesthetic > resolution > bytes > first, "
        "groups components, min keeper similarity none, warn below auto"
    )
    assert one.lineage["search"].startswith("similarity floor 0.85, ")
    assert one.lineage["made from"].startswith("6 shards by code version ")
    assert one.lineage["searched_by"] == "comparing all with all"
    assert "recall 1" in one.lineage["recall"]
    (representative,) = explain(demo.project, row["group"])
    assert representative.lineage == one.lineage


def test_lineage_is_of_the_policy_that_decided_not_of_one_edited_since(tmp_path, workshop):
    raw = workshop.source(tmp_path / "raw", {"a": {"1.jpg": workshop.photo(1), "2.jpg": workshop.photo(1)}})
    project = workshop.project(raw, tmp_path / "out", "duplicates: {min_similarity: null, survivor: [first]}\n")
    workshop.run(project)
    (tmp_path / "out-policy.yaml").write_text("duplicates: {exact: false, max_phash_distance: null}\n")
    (one,) = explain(Project.recall(str(tmp_path / "out")), "a/2")
    assert one.lineage["rules"].startswith("exact True, max phash distance 4, min similarity none, survivor first, ")
    assert one.chain == ["a/2", "  -exact-> a/1"]


def test_pairs_searched_again_since_are_said(tmp_path, workshop):
    shards = {"a": {"1.jpg": workshop.photo(1)}, "b": {"2.jpg": workshop.photo(1)}}
    project = workshop.project(workshop.source(tmp_path / "raw", shards), tmp_path / "out", "image: {}\n")
    workshop.run(project)
    build_duplicate_groups(project, ["a"])
    explained = [one.chain for name in ("a/1", "b/2") for one in explain(project, name)]
    assert ["none: duplicates were searched again since. Run `image-curation curate` again."] in explained


def test_key_that_several_shards_have(tmp_path, workshop):
    photo = workshop.photo
    raw = workshop.source(tmp_path / "raw", {"a": {"x/1.jpg": photo(1)}, "b/b": {"x/1.jpg": photo(2), "2.txt": b"2"}})
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    assert [(one.shard, one.key) for one in explain(project, "x/1")] == [("a", "x/1"), ("b/b", "x/1")]
    assert [(one.shard, one.key) for one in explain(project, "b/b/x/1")] == [("b/b", "x/1")]
    (recalled,) = explain(Project.recall(str(tmp_path / "out")), "2")
    assert recalled.decision == "failed"
    assert "there is no image beside its members (txt)" in recalled.sentence
    (raw / "a.tar").unlink()
    workshop.run(project)
    assert [(one.shard, one.key) for one in explain(project, "x/1")] == [("b/b", "x/1")]


def test_key_that_is_nowhere(demo):
    with pytest.raises(ConfigError) as caught:
        explain(demo.project, "no/such")
    assert str(caught.value).startswith(f"no sample 'no/such' below {demo.root}. Give its key, or SHARD/KEY;")
    assert "`image-curation inspect` lists the keys of a tar" in str(caught.value)


def test_root_where_nothing_was_curated(tmp_path, workshop):
    with pytest.raises(ConfigError, match=r"there is no selection below .*: run `image-curation curate` first"):
        explain(workshop.project(tmp_path / "raw", tmp_path / "out"), "1")
