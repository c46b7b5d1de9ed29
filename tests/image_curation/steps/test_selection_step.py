"""The rules of groups on the demo's artifacts: a chain that a low threshold makes, decided, shown and explained."""

import shutil

import pytest

from image_curation.artifacts import read_artifact
from image_curation.report.gather import gather
from image_curation.steps.duplicate_groups import build_duplicate_groups
from image_curation.steps.selection import build_selection
from image_curation.why import explain

A, B, C = ("demo-00003", "astronaut-013"), ("demo-00003", "motorcycle-004"), ("demo-00004", "china-007")
LOW = "min_similarity: 0.72, max_phash_distance: null, survivor: [first]"  # A ~ B ~ C, but not A ~ C


@pytest.fixture
def selected(demo, workshop, tmp_path):
    """policy of duplicates -> the project with its selection, made of the embeddings that are there."""
    root = shutil.copytree(demo.root, tmp_path / "curated")

    def of(duplicates: str):
        policy = f"duplicates: {{{LOW}, {duplicates}}}"
        project = workshop.project(demo.raw, root, policy, duplicates={"similarity_margin": 0.2})
        build_duplicate_groups(project, project.selected_shards())
        build_selection(project, project.selected_shards())
        return project

    return of


@pytest.mark.parametrize(
    ("policy", "gone_for"),
    [
        ("groups: components", {B: A, C: A}),
        ("groups: star", {B: A}),
        ("groups: ranked", {B: A, C: B}),
        ("min_keeper_similarity: 0.7", {B: A}),
        ("min_keeper_similarity: 0.5", {B: A, C: A}),
    ],
)
def test_chain_is_decided_by_the_rule(selected, workshop, policy, gone_for):
    rows = workshop.decisions(selected(policy))
    chain = {name: rows[name] for name in (A, B, C)}
    dropped = {name: row for name, row in chain.items() if row["decision"] == "dropped"}
    assert {n: (row["representative_shard"], row["representative_key"]) for n, row in dropped.items()} == gone_for
    assert {row["group"] for row in dropped.values()} == {"/".join(A)}
    assert chain[C]["group"] == ("/".join(A) if C in gone_for else None)


def test_group_whose_representatives_went_themselves_is_shown_and_explained(selected):
    project = selected("groups: ranked")
    (explained,) = explain(project, "/".join(C))
    assert explained.group[0] == f"duplicate group {'/'.join(A)}, 3 images:"
    assert "motorcycle-004 (cosine 0.75" in explained.sentence
    shown = {group.label: group for group in gather(project, project.selected_shards()).duplicate_groups}
    assert {member.label for member in shown["/".join(A)].members} == {"/".join(B), "/".join(C)}


def test_facts_of_a_shard_tell_how_unlike_its_duplicates_are(selected):
    project = selected("groups: components, warn_below: 0.6")
    facts = read_artifact(project.selection_url(C[0])).facts
    assert facts["smallest_similarity"] == pytest.approx(0.5303, abs=1e-3)
    assert facts["duplicates_below_limit"] == 1


def test_another_rule_leaves_the_search_as_it_is(selected):
    before = read_artifact(selected("groups: components").members_url)
    assert read_artifact(selected("groups: star").members_url) == before
