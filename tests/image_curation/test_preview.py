"""The preview of a curation counts what a selection by each threshold really drops."""

import json

import pytest

from image_curation.artifacts import read_table
from image_curation.policy import Policy
from image_curation.preview import preview_caution, preview_thresholds
from image_curation.project import Project


def duplicates(project: Project) -> tuple[int, int]:
    """Images that the selection drops as duplicates, and its groups."""
    rows = [row for s in project.selected_shards() for row in read_table(project.selection_url(s)).to_pylist()]
    gone = sum(row["decision"] == "dropped" and row["reason"].startswith("duplicate_") for row in rows)
    return gone, len({row["group"] for row in rows} - {None})


def test_own_threshold_counts_what_the_demo_dropped(demo):
    found = preview_thresholds(demo.project, demo.project.selected_shards())
    own = [cut for cut in found.by_cosine if cut.thresholds == found.chosen]
    assert own == [cut for cut in found.by_distance if cut.thresholds == found.chosen]
    assert [(cut.goes, cut.groups) for cut in own] == [duplicates(demo.project)]
    assert own[0].goes == 31


@pytest.mark.parametrize("thresholds", [(0.99, 4), (0.85, None), (None, 0), (1.0, 8)])
def test_other_thresholds_count_what_a_selection_by_them_drops(demo, workshop, tmp_path, thresholds):
    cosine, bits = thresholds
    numbers = json.dumps({"min_similarity": cosine, "max_phash_distance": bits})
    policy = (
        f"duplicates: {numbers}\n"
        "image: {min_sharpness: 0.015}\n"  # another rule that drops members of groups
    )
    project = workshop.project(demo.raw, tmp_path / "out", policy)
    workshop.run(project)
    found = preview_thresholds(project, project.selected_shards())
    assert found.chosen == (cosine, bits, True)
    (own,) = (cut for cut in found.by_cosine if cut.thresholds == found.chosen)
    assert (own.goes, own.groups) == duplicates(project)
    assert 0 < own.goes < 31


def test_pairs_of_the_demo_lie_on_their_sides_of_the_threshold(demo):
    found = preview_thresholds(demo.project, demo.project.selected_shards())
    assert found.above.total == len(found.above.similarity) == 4
    assert found.above.similarity == sorted(found.above.similarity)
    assert found.below.total == len(found.below.similarity) == 1
    assert found.below.similarity[0] < 0.9 <= found.above.similarity[0]
    keys = zip(found.above.left["key"].to_pylist(), found.above.right["key"].to_pylist(), strict=True)
    assert all("-cropped" in left + right for left, right in keys)  # hashes find the other copies


def test_images_of_shards_that_are_gone_are_not_counted(demo):
    one = demo.project.selected_shards()[:1]
    found = preview_thresholds(demo.project, one)
    own = next(cut for cut in found.by_cosine if cut.thresholds == found.chosen)
    assert own.goes < 31
    assert set(found.above.left["shard"].to_pylist()) <= set(one)


def test_a_rule_under_which_fewer_go_is_told():
    assert preview_caution(Policy()) is None
    star = Policy.model_validate({"duplicates": {"groups": "star"}})
    assert "has `groups: star`, under which fewer go" in str(preview_caution(star))
    guarded = Policy.model_validate({"duplicates": {"min_keeper_similarity": 0.9}})
    assert "has `min_keeper_similarity`, under which fewer go" in str(preview_caution(guarded))
