"""The whole job over small shards: what is done is reused, what is bad costs itself, and the order never matters."""

import io
import json
import os
import shutil
import tarfile
import uuid
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from image_curation import storage
from image_curation.artifacts import read_artifact, read_table
from image_curation.errors import ConfigError, ReleaseError, ShardError, StorageError
from image_curation.project import Project
from image_curation.release.verify import verify_release

PER_SHARD = ("shard_index", "embeddings", "aesthetic_scores", "nsfw_scores")
MODEL_FREE = ("selection/", "release/")  # what a policy may change; not the memory of the last settings


@pytest.fixture
def shards(workshop) -> dict[str, dict[str, bytes]]:
    """Three shards of twelve samples. Photo 1 is there three times: as it is, again, and larger, in every order."""
    photo = workshop.photo
    small = photo(1)
    sink = io.BytesIO()
    with Image.open(io.BytesIO(small)) as image:
        image.resize((240, 180)).save(sink, "JPEG", quality=95)
    return {
        "c": {"1.jpg": small, "1.txt": b"once", "2.jpg": photo(2), "3.jpg": b"no image", "3.txt": b"not this"},
        "a/a": {"1.jpg": small, "1.json": b'{"n": 1}', "4.jpg": photo(4), "5.png": photo(5, kind="PNG"), "6.txt": b"6"},
        "b": {"7.jpg": sink.getvalue(), "8.jpg": photo(8, (40, 30)), "9.jpg": photo(9), "10.jpg": photo(10)[:900]},
    }


@pytest.fixture
def raw(tmp_path, workshop, shards) -> Path:
    return workshop.source(tmp_path / "raw", shards)


def fates(workshop, project) -> dict[str, str | None]:
    rows = workshop.decisions(project)
    return {f"{shard}/{key}": row["reason"] or row["decision"] for (shard, key), row in rows.items()}


EXPECTED = {
    "a/a/1": "duplicate_perceptual",
    "a/a/4": "kept",
    "a/a/5": "kept",
    "a/a/6": "missing_image",
    "b/10": "decode_failed",
    "b/7": "kept",  # the largest of three
    "b/8": "low_resolution",
    "b/9": "kept",
    "c/1": "duplicate_perceptual",
    "c/2": "kept",
    "c/3": "not_an_image",
}


def test_every_sample_has_its_fate_and_the_ledger_adds_up(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    result = workshop.run(project)
    assert fates(workshop, project) == EXPECTED
    assert result.ledger.read == 11
    assert result.ledger.kept == 5
    assert result.ledger.dropped == {"duplicate_perceptual": 2, "low_resolution": 1}
    assert result.ledger.failed == {"decode_failed": 1, "missing_image": 1, "not_an_image": 1}
    assert result.ledger.adds_up
    assert (result.failed_shards, result.ignored_files) == ({}, [])
    assert [name for name, finding in result.findings.items() if not finding.passed] == []
    assert len(result.findings) == 5
    assert set(result.null_scores) == {"aesthetic", "nsfw"}
    assert result.manifest.samples == 5
    assert verify_release(project.release_url).samples == 5


def test_release_holds_original_bytes_and_sidecars(raw, tmp_path, workshop, shards):
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    (path,) = (tmp_path / "out" / "release" / "images").glob("*.tar")
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    images = {name: content for name, content in members.items() if not name.endswith(("json", "txt"))}
    assert sorted(images.values()) == sorted(
        [
            shards["a/a"]["4.jpg"],
            shards["a/a"]["5.png"],
            shards["b"]["7.jpg"],
            shards["b"]["9.jpg"],
            shards["c"]["2.jpg"],
        ]
    )
    assert json.loads(members["7.json"])["curation"]["shard"] == "b"


def test_progress_is_told_step_by_step(raw, tmp_path, workshop):
    told = []
    workshop.run(workshop.project(raw, tmp_path / "out"), on_progress=lambda *step: told.append(step))
    assert told[:4] == [(step, 0, 3, 0) for step in PER_SHARD]
    made = (0, 4, 8, 11)  # by a/a, b and c: the largest first
    for step in PER_SHARD:
        assert [item for item in told if item[0] == step] == [(step, n, 3, made[n]) for n in range(4)]
    for step in ("duplicate_groups", "selection", "curated_shards", "curation_report"):
        assert [item for item in told if item[0] == step] == [(step, 0, 1, 0), (step, 1, 1, 0)]
    assert len(told) == 4 * 4 + 4 * 2

    told.clear()
    (raw / "a" / "a.tar").unlink()
    (raw / "a" / "a.tar").symlink_to(tmp_path / "gone.tar")
    workshop.run(workshop.project(raw, tmp_path / "out"), on_progress=lambda *step: told.append(step))
    last = {step: [item for item in told if item[0] == step][-1] for step in PER_SHARD}
    assert last.pop("shard_index") == ("shard_index", 3, 3, 0)
    assert list(last.values()) == [(step, 2, 2, 0) for step in PER_SHARD[1:]]  # nothing was made anew, one never came


def forbid_models(monkeypatch) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("image_curation.steps.embeddings._loaded", loaded)


def test_second_run_reuses_everything(raw, tmp_path, workshop, monkeypatch):
    project = workshop.project(raw, tmp_path / "out")
    first = workshop.run(project)
    before = workshop.times(tmp_path / "out")
    forbid_models(monkeypatch)
    second = workshop.run(workshop.project(raw, tmp_path / "out"))
    after = workshop.times(tmp_path / "out")
    assert len(before) == 3 * 5 + 3 + 4 + 1  # five artifacts a shard, duplicates, release, settings
    assert {name for name in before if after[name] != before[name]} <= {"image-curation.json"}
    assert after.keys() == before.keys()
    assert second == first


def test_policy_change_touches_only_selection_and_release(raw, tmp_path, workshop, monkeypatch):
    workshop.run(workshop.project(raw, tmp_path / "out"))
    before = workshop.times(tmp_path / "out")
    forbid_models(monkeypatch)
    looser = (
        "image: {min_short_side: 20}\nduplicates: {exact: false, max_phash_distance: null, min_similarity: 0.999999}"
    )
    project = workshop.project(raw, tmp_path / "out", policy=looser)
    result = workshop.run(project)
    assert result.ledger.dropped == {"duplicate_semantic": 1}  # a/a/1 and c/1 have equal vectors
    assert fates(workshop, project)["b/8"] == "kept"
    after = workshop.times(tmp_path / "out")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed - {"image-curation.json"} == {
        name for name in before.keys() | after.keys() if name.startswith(MODEL_FREE)
    }


def test_policy_that_decides_alike_changes_no_release_file_but_the_manifest(raw, tmp_path, workshop):
    workshop.run(workshop.project(raw, tmp_path / "out"))
    before = workshop.times(tmp_path / "out" / "release")
    workshop.run(workshop.project(raw, tmp_path / "out", policy="caption: {max_characters: 9999}"))
    after = workshop.times(tmp_path / "out" / "release")
    assert {name for name in after if after[name] != before.get(name)} == {"manifest.json"}


def test_policy_and_back_again_gives_the_first_bytes(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    first = workshop.hashes(tmp_path / "out")
    workshop.run(replace(project, policy=workshop.project(raw, tmp_path / "x", "image: {min_short_side: 20}").policy))
    assert workshop.hashes(tmp_path / "out") != first
    workshop.run(project)
    assert workshop.hashes(tmp_path / "out") == first


def test_shards_that_come_one_by_one_in_another_order_give_the_same_bytes(tmp_path, workshop, shards):
    growing = tmp_path / "raw"
    seen = []
    for name in ("c", "b", "a/a"):
        workshop.source(growing, {name: shards[name]})
        grown = workshop.project(growing, tmp_path / "grown")
        seen.append(fates(workshop, grown) if workshop.run(grown) else None)
    workshop.run(workshop.project(growing, tmp_path / "at-once"))
    assert workshop.hashes(tmp_path / "grown", *workshop.HISTORY) == workshop.hashes(
        tmp_path / "at-once", *workshop.HISTORY
    )
    assert seen[0]["c/1"] == "kept"  # until its larger twin came
    assert seen[1]["c/1"] == "duplicate_perceptual"
    assert seen[2] == EXPECTED


def test_roots_and_copies_of_the_source_give_the_same_release(raw, tmp_path, workshop):
    workshop.run(workshop.project(raw, tmp_path / "one"))
    workshop.run(workshop.project(raw, tmp_path / "two"))
    shutil.copytree(raw, tmp_path / "copy" / "of" / "raw")
    workshop.run(workshop.project(tmp_path / "copy" / "of" / "raw", tmp_path / "three"))
    one = workshop.hashes(tmp_path / "one" / "release")
    assert len(one) == 4
    assert one == workshop.hashes(tmp_path / "two" / "release") == workshop.hashes(tmp_path / "three" / "release")


def test_store_gives_the_same_release_as_a_disk(raw, tmp_path, workshop):
    bucket = f"memory://curate-test-{uuid.uuid4().hex}"
    for path in raw.rglob("*.tar"):
        storage.write_bytes(storage.join(bucket, "raw", str(path.relative_to(raw))), path.read_bytes())
    workshop.run(workshop.project(raw, tmp_path / "out"))
    project = workshop.project(raw, tmp_path / "unused")
    places = {"source": f"{bucket}/raw", "root": f"{bucket}/out"}
    workshop.run(Project.load(project.settings.model_copy(update=places)))
    on_disk = {
        name: (tmp_path / "out" / "release" / name).read_bytes()
        for name in workshop.hashes(tmp_path / "out" / "release")
    }
    in_store = {file.name: storage.read_bytes(file.url) for file in storage.list_files(f"{bucket}/out/release")}
    assert in_store == on_disk


def test_deleted_tar_leaves_selection_and_release(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    (raw / "b.tar").unlink()
    result = workshop.run(project)
    assert project.selected_shards() == ["a/a", "c"]
    assert fates(workshop, project) == {
        "a/a/1": "kept",
        "a/a/4": "kept",
        "a/a/5": "kept",
        "a/a/6": "missing_image",
        "c/1": "duplicate_exact",  # the larger twin went with b
        "c/2": "kept",
        "c/3": "not_an_image",
    }
    assert result.ledger.read == 7
    assert result.manifest.samples == 4
    assert result.findings["release_equals_selection"].passed
    workshop.run(workshop.project(raw, tmp_path / "fresh"))
    assert workshop.hashes(tmp_path / "out" / "release") == workshop.hashes(tmp_path / "fresh" / "release")


def test_changed_tar_is_read_again_and_no_other(raw, tmp_path, workshop, shards):
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    before = workshop.times(tmp_path / "out")
    workshop.source(raw, {"c": shards["c"] | {"11.jpg": workshop.photo(11)}})
    result = workshop.run(project)
    after = workshop.times(tmp_path / "out")
    assert result.manifest.samples == 6
    changed = {name for name in before if before[name] != after.get(name)}
    per_shard = {name for name in changed if name.startswith(("shard_index", "embeddings", "aesthetic", "nsfw"))}
    assert per_shard == {
        "shard_index/c.parquet",
        "embeddings/embedded/c.parquet",
        "aesthetic_scores/embedded/c.parquet",
        "nsfw_scores/embedded/c.parquet",
    }
    assert {name for name in changed if name.startswith("selection")} == {"selection/c.parquet"}


def test_truncated_tar_keeps_its_intact_samples_and_says_so(raw, tmp_path, workshop):
    path = raw / "b.tar"
    with tarfile.open(path) as tar:
        third = tar.getmember("9.jpg")
    path.write_bytes(path.read_bytes()[: third.offset_data + third.size // 2])
    project = workshop.project(raw, tmp_path / "out")
    result = workshop.run(project)
    expected = dict(EXPECTED) | {"b/9": "truncated_member"}
    del expected["b/10"]
    assert fates(workshop, project) == expected
    assert result.failed_shards == {}
    assert result.ledger.adds_up
    finding = result.findings["shards_are_readable"]
    assert not finding.passed
    assert finding.sentence.startswith("0 tars cannot be read and 1 are damaged.")
    assert "b: cut off at byte" in finding.sentence
    assert [name for name, one in result.findings.items() if not one.passed] == ["shards_are_readable"]
    assert verify_release(project.release_url).samples == 4


@pytest.mark.parametrize("garbage", [b"this is no tar" * 1000, b"", b"\x1f\x8b" + bytes(2000)], ids=["text", "0", "gz"])
def test_unreadable_tar_costs_only_itself(raw, tmp_path, workshop, garbage):
    workshop.run(workshop.project(raw, tmp_path / "good"))
    workshop.source(raw, {"bad": garbage})
    project = workshop.project(raw, tmp_path / "out")
    result = workshop.run(project)
    assert fates(workshop, project) == EXPECTED
    assert result.failed_shards == {}
    finding = result.findings["shards_are_readable"]
    assert not finding.passed
    assert list(finding.facts["unreadable"]) == ["bad"]
    assert "1 tars cannot be read" in finding.sentence
    assert "bad.tar" in finding.sentence
    good, out = (workshop.hashes(tmp_path / name / "release", "manifest") for name in ("good", "out"))
    assert out == good


def test_source_with_nothing_but_garbage(tmp_path, workshop):
    raw = workshop.source(tmp_path / "raw", {"bad": b"no tar" * 500, "empty": {}, "no-images": {"1.txt": b"text"}})
    project = workshop.project(raw, tmp_path / "out")
    result = workshop.run(project, report=True)
    assert fates(workshop, project) == {"no-images/1": "missing_image"}
    assert result.ledger.sentence() == "1 read = 0 kept + 0 dropped + 1 failed"
    assert (result.manifest.samples, result.manifest.shards) == (0, ())
    assert verify_release(project.release_url).samples == 0
    assert Path(project.report_url).stat().st_size > 1000


def test_source_without_duplicates_and_policy_that_keeps_nothing(tmp_path, workshop):
    raw = workshop.source(tmp_path / "raw", {"a": {"1.jpg": workshop.photo(1), "2.jpg": workshop.photo(2)}})
    result = workshop.run(workshop.project(raw, tmp_path / "out"))
    assert (result.ledger.kept, result.manifest.samples) == (2, 2)
    project = workshop.project(raw, tmp_path / "out", policy="image: {min_short_side: 1000}")
    result = workshop.run(project, report=True)
    assert result.ledger.dropped == {"low_resolution": 2}
    assert list((tmp_path / "out" / "release" / "images").iterdir()) == []
    assert verify_release(project.release_url).samples == 0


def test_single_black_image(tmp_path, workshop):
    sink = io.BytesIO()
    Image.new("RGB", (100, 100)).save(sink, "JPEG")
    project = workshop.project(workshop.source(tmp_path / "raw", {"a": {"1.jpg": sink.getvalue()}}), tmp_path / "out")
    workshop.run(project)
    assert fates(workshop, project) == {"a/1": "too_dark"}


def test_source_without_tars(tmp_path, workshop):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.zip").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"there is no \.tar file below .*a\.zip looks like a packed one"):
        workshop.run(workshop.project(tmp_path / "raw", tmp_path / "out"))
    with pytest.raises(StorageError, match="there is no folder"):
        workshop.run(workshop.project(tmp_path / "absent", tmp_path / "out"))


def test_files_that_look_like_shards_are_named(raw, tmp_path, workshop):
    (raw / "more.tar.gz").write_bytes(b"\x1f\x8b")
    (raw / "README.md").write_text("photos")
    assert workshop.run(workshop.project(raw, tmp_path / "out")).ignored_files == ["more.tar.gz"]


def at(step: str, act):
    """A progress callback that acts once, as `step` begins."""
    return lambda name, done, *_: act() if (name, done) == (step, 0) else None


def when_indexed(project, shard: str, act):
    """A progress callback that acts once, as a shard has been indexed and not yet embedded."""
    acts = iter([act])

    def on_progress(step: str, *_: int) -> None:
        if Path(project.index_url(shard)).exists():
            next(acts, lambda: None)()

    return on_progress


@pytest.mark.parametrize("name", ["b", "a/a", "c"])  # the largest first: whether another shard comes after it or not
def test_tar_that_vanishes_on_the_way_costs_itself_and_is_mended_by_a_second_run(raw, tmp_path, workshop, name):
    path, away = raw / f"{name}.tar", tmp_path / "away.tar"
    project = workshop.project(raw, tmp_path / "out")
    result = workshop.run(project, on_progress=when_indexed(project, name, lambda: path.rename(away)))
    assert list(result.failed_shards) == [name]
    assert result.failed_shards[name].startswith("embeddings: tar ")
    assert f"{name}.tar" in result.failed_shards[name]
    others = {shard: fate for shard, fate in EXPECTED.items() if not shard.startswith(f"{name}/")}
    assert fates(workshop, project).keys() == others.keys()
    assert result.ledger.read == len(others)
    assert all(finding.passed for finding in result.findings.values())
    away.rename(path)
    again = workshop.run(project)
    assert again.failed_shards == {}
    assert fates(workshop, project) == EXPECTED
    workshop.run(workshop.project(raw, tmp_path / "undisturbed"))
    assert workshop.hashes(tmp_path / "out", *workshop.HISTORY) == workshop.hashes(
        tmp_path / "undisturbed", *workshop.HISTORY
    )


def test_tar_that_is_overwritten_on_the_way_is_not_embedded_by_its_old_index(raw, tmp_path, workshop, shards):
    def overwrite() -> None:
        with open(raw / "b.tar", "r+b") as file:  # in place, of the same length
            file.write(workshop.tar({"7.jpg": workshop.photo(70)}))

    project = workshop.project(raw, tmp_path / "out")
    result = workshop.run(project, on_progress=when_indexed(project, "b", overwrite))
    assert list(result.failed_shards) == ["b"]
    assert "has changed since it was indexed" in result.failed_shards["b"]
    assert project.selected_shards() == ["a/a", "c"]
    workshop.source(raw, {"b": shards["b"]})
    assert workshop.run(project).failed_shards == {}
    assert fates(workshop, project) == EXPECTED


def test_links_are_read_and_one_that_leads_nowhere_costs_only_itself(raw, tmp_path, workshop):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in (raw / "c.tar", raw / "b.tar"):
        (linked / path.name).symlink_to(path)
    (linked / "gone.tar").symlink_to(tmp_path / "gone.tar")
    project = workshop.project(linked, tmp_path / "out")
    result = workshop.run(project)
    assert list(result.failed_shards) == ["gone"]
    assert result.failed_shards["gone"].startswith("shard_index: cannot open")
    assert fates(workshop, project) == {key: fate for key, fate in EXPECTED.items() if key[0] in "bc"}


def test_release_from_before_stays_when_a_tar_vanishes_before_the_export(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    before = workshop.hashes(tmp_path / "out" / "release")
    other = workshop.project(raw, tmp_path / "out", policy="image: {min_short_side: 20}")
    with pytest.raises(ReleaseError, match=r"nothing is released.*can no longer be read"):
        workshop.run(other, on_progress=at("curated_shards", lambda: (raw / "b.tar").rename(tmp_path / "away")))
    after = workshop.hashes(tmp_path / "out" / "release")
    assert after == before


def test_all_shards_failing_raises_the_first_error(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    with pytest.raises(ShardError, match="is no longer there"):
        workshop.run(project, on_progress=when_indexed(project, "a/a", lambda: shutil.rmtree(raw)))


@pytest.mark.parametrize(
    "name",
    [
        "shard_index/b.parquet",
        "embeddings/embedded/b.parquet",
        "nsfw_scores/embedded/b.parquet",
        "duplicate_groups/embedded/edges.parquet",
        "duplicate_groups/embedded/members.parquet",
        "selection/b.parquet",
    ],
)
def test_artifact_that_is_cut_or_gone_is_made_again(raw, tmp_path, workshop, name):
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    before = workshop.hashes(tmp_path / "out")
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:-100])
    workshop.run(project)
    assert workshop.hashes(tmp_path / "out") == before
    path.unlink()
    workshop.run(project)
    assert workshop.hashes(tmp_path / "out") == before


def test_certificates_name_what_decided_each_artifact(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out")
    workshop.run(project)
    index = read_artifact(project.index_url("b"))
    embeddings = read_artifact(project.embeddings_url("b"))
    scores = read_artifact(project.scores_url("nsfw", "b"))
    selection = read_artifact(project.selection_url("b"))
    size = os.path.getsize(raw / "b.tar")
    assert index.certificate.inputs["tar"].startswith(f"{size}-")
    assert embeddings.certificate.inputs == {"shard_index": index.content}
    assert scores.certificate.inputs == {"embeddings": embeddings.content}
    assert selection.certificate.inputs.items() >= {"embeddings": embeddings.content, "nsfw": scores.content}.items()
    settings = embeddings.certificate.settings
    assert settings["encoder"]["name"] == "embedded"
    assert settings["dtype"] == "fp32"
    assert settings["weights"] == embeddings.facts["weights_sha256"]
    assert len(settings["weights"]) == 64
    assert scores.certificate.settings == {"head": None}
    assert "no known vector space" in scores.facts["null_reason"]
    assert read_table(project.scores_url("nsfw", "b"))["nsfw"].null_count == 4


def test_vectors_go_into_the_release_if_the_policy_says_so(raw, tmp_path, workshop):
    project = workshop.project(raw, tmp_path / "out", policy="release: {vectors: true, samples_per_shard: 2}")
    workshop.run(project)
    paths = sorted((tmp_path / "out" / "release" / "images").glob("*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert [len(pq.read_table(path)) for path in paths] == [2, 2, 1]
    found = {row["key"]: row["vector"] for row in read_table(project.embeddings_url("b")).to_pylist()}
    assert {row["key"]: row["vector"] for row in rows if row["shard"] == "b"} == {"7": found["7"], "9": found["9"]}


def test_single_tar_as_source(raw, tmp_path, workshop):
    project = workshop.project(raw / "b.tar", tmp_path / "out")
    assert workshop.run(project).ledger.read == 4
    assert project.selected_shards() == ["b"]
