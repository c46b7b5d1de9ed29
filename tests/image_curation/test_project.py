"""A project: where everything lies, what it remembers, and which settings and policies do not fit each other."""

import json
import pickle
from dataclasses import replace

import pytest

from image_curation import storage
from image_curation.config import Settings
from image_curation.errors import ConfigError
from image_curation.policy import DuplicateRules, Policy
from image_curation.project import Project


def project(tmp_path, policy=None, **settings) -> Project:
    if policy is not None:
        (tmp_path / "policy.yaml").write_text(policy)
        settings["policy"] = str(tmp_path / "policy.yaml")
    return Project.load(Settings(source=str(tmp_path / "raw"), root=str(tmp_path / "out"), **settings))


def test_artifacts_of_different_encoders_lie_in_different_folders(tmp_path):
    embedded, clip = project(tmp_path), project(tmp_path, encoder="clip-vit-l-14")
    root = str(tmp_path / "out")
    assert embedded.index_url("a/000") == clip.index_url("a/000") == f"{root}/shard_index/a/000.parquet"
    assert embedded.embeddings_url("a/000") == f"{root}/embeddings/embedded/a/000.parquet"
    assert clip.embeddings_url("a/000") == f"{root}/embeddings/clip-vit-l-14/a/000.parquet"
    assert clip.scores_url("nsfw", "a") == f"{root}/nsfw_scores/clip-vit-l-14/a.parquet"
    assert clip.edges_url == f"{root}/duplicate_groups/clip-vit-l-14/edges.parquet"
    other = project(tmp_path, encoder="open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert other.embeddings_url("a") == f"{root}/embeddings/open_clip_ViT-B-32_laion2b_s34b_b79k/a.parquet"


def test_threshold_auto_is_the_encoders_and_a_number_is_taken_as_it_is(tmp_path):
    assert project(tmp_path).min_similarity == 0.90
    assert project(tmp_path).similarity_floor == 0.85
    assert project(tmp_path, "duplicates: {min_similarity: 0.95}").min_similarity == 0.95
    assert project(tmp_path, "duplicates: {min_similarity: null}").min_similarity == 0.90
    assert project(tmp_path, "duplicates: {min_similarity: 0.85}").min_similarity == 0.85  # the floor itself


def test_limit_of_the_warning_follows_the_threshold_unless_it_is_given(tmp_path):
    assert project(tmp_path).warn_below == 0.85
    assert project(tmp_path, "duplicates: {min_similarity: 0.95}").warn_below == 0.9
    assert project(tmp_path, "duplicates: {warn_below: 0.5}").warn_below == 0.5
    assert project(tmp_path, "duplicates: {warn_below: null}").warn_below is None


def test_threshold_below_what_is_searched(tmp_path):
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, "duplicates: {min_similarity: 0.84}")
    text = str(caught.value)
    assert "duplicates.min_similarity=0.84 should be >= 0.85" in text
    assert "encoder embedded" in text
    assert "IMAGE_CURATION_DUPLICATES__SIMILARITY_MARGIN" in text
    assert project(tmp_path, "duplicates: {min_similarity: 0.84}", duplicates={"similarity_margin": 0.1})


def test_hash_distance_above_what_is_searched(tmp_path):
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, "duplicates: {max_phash_distance: 9}")
    assert "duplicates.max_phash_distance=9 should be <= 8" in str(caught.value)
    assert "IMAGE_CURATION_DUPLICATES__MAX_PHASH_DISTANCE" in str(caught.value)
    assert project(tmp_path, "duplicates: {max_phash_distance: 9}", duplicates={"max_phash_distance": 9})
    assert project(tmp_path, "duplicates: {max_phash_distance: null}", duplicates={"max_phash_distance": 0})


def test_margin_that_leaves_no_threshold(tmp_path):
    with pytest.raises(ConfigError, match=r"similarity_margin=0.9 should be < 0.9, .*encoder embedded"):
        project(tmp_path, duplicates={"similarity_margin": 0.9})


def test_unknown_encoder(tmp_path):
    with pytest.raises(
        ConfigError, match=r"there is no encoder 'clip'. Allowed: clip-vit-l-14, clip-vit-l-14-fp8, clip-vit-b"
    ):
        project(tmp_path, encoder="clip")


def test_what_was_curated_last_is_recalled_from_the_root_alone(tmp_path):
    made = project(
        tmp_path, "nsfw: {max: 0.25}", encoder="clip-vit-b-32", weights="random:3", decode={"max_pixels": 77}
    )
    made.remember()
    recalled = Project.recall(str(tmp_path / "out"))
    assert recalled == made
    assert recalled.policy.nsfw.max == 0.25


def test_root_that_has_moved_is_recalled_where_it_is_now(tmp_path):
    project(tmp_path).remember()
    (tmp_path / "out").rename(tmp_path / "moved")
    assert Project.recall(str(tmp_path / "moved")).settings.root == str(tmp_path / "moved")


def test_nothing_to_recall(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing has been curated into .*/out yet: `image-curation curate SOURCE"):
        Project.recall(str(tmp_path / "out"))


def test_what_is_remembered_holds_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    project(tmp_path).remember()
    content = (tmp_path / "out" / "image-curation.json").read_text()
    assert "hush" not in content
    assert set(json.loads(content)) == set(Settings.model_fields)


def test_selected_shards_are_named_and_temporary_files_are_not(tmp_path):
    made = project(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no selection below .*/out: run `image-curation curate` first"):
        made.selected_shards()
    for name in ("b.parquet", "a/1.parquet", ".writing-x81j"):
        storage.write_bytes(storage.join(made.settings.root, "selection", name), b"")
    assert made.selected_shards() == ["a/1", "b"]


def test_project_travels_to_workers(tmp_path):
    made = replace(project(tmp_path), policy=Policy(duplicates=DuplicateRules(survivor=("first",))))
    assert made.profile.name == "embedded"  # cached
    copy = pickle.loads(pickle.dumps(made))  # noqa: S301 - what Dask does
    assert copy == made
    assert copy.profile == made.profile


@pytest.mark.parametrize("root", ["raw", "raw/out", "raw/"])
def test_root_in_the_source_would_be_curated_again(tmp_path, root):
    with pytest.raises(ConfigError, match="lies in the source"):
        Project.load(Settings(source=str(tmp_path / "raw"), root=str(tmp_path / root)))
    assert Project.load(Settings(source=str(tmp_path / "raw"), root=str(tmp_path / "raw-curated")))


VAL = (("val", "s3://sets/val.parquet"),)


def test_known_sets_are_named_by_settings_and_have_one_role_in_the_policy(tmp_path, monkeypatch):
    given = project(tmp_path, "known: {evaluation: [val]}", known_sets={"val": "s3://sets/val.parquet"})
    assert given.settings.known_sets == VAL
    assert given.known_similarity == given.min_similarity
    given.remember()
    assert Project.recall(str(tmp_path / "out")) == given
    monkeypatch.setenv("IMAGE_CURATION_KNOWN_SETS", '{"val": "s3://sets/val.parquet"}')
    assert project(tmp_path, "known: {reference: [val], min_similarity: 0.95}").known_similarity == 0.95
    assert project(tmp_path, "known: {reference: [val], min_similarity: null}").known_similarity is None
    assert hash(given.settings) is not None  # caches are keyed by it


@pytest.mark.parametrize(
    ("policy", "sets", "said"),
    [
        ("known: {evaluation: [val]}", (), "names the known set 'val', but no setting says where it is: give `--known"),
        ("known: {}", VAL, "the known set 'val' has no role: name it in the policy under known.evaluation"),
        ("known: {evaluation: [val], reference: [val]}", VAL, "names the known set 'val' twice"),
        ("known: {evaluation: [val], min_similarity: 0.8}", VAL, "known.min_similarity=0.8 should be >= 0.85"),
        ("known: {evaluation: [val], max_phash_distance: 9}", VAL, "known.max_phash_distance=9 should be <= 8"),
        ("known: {evaluation: [val]}", "out", "the known set 'val' lies in the root"),
    ],
)
def test_known_sets_and_policy_that_do_not_fit(tmp_path, policy, sets, said):
    if sets == "out":
        sets = (("val", str(tmp_path / "out" / "release")),)
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, policy, known_sets=sets)
    assert said in str(caught.value)


def test_distance_beyond_the_search_is_no_mistake_for_blocklists_alone(tmp_path):
    assert project(tmp_path, "known: {max_phash_distance: 16}")
