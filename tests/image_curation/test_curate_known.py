"""Known images end to end on the demo: what is blocked, contaminated or there already goes, is counted, and no more."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from image_curation.artifacts import Certificate, read_table, write_table
from image_curation.errors import ArtifactError, ConfigError
from image_curation.steps.selection import build_selection

EVALUATION = "known: {evaluation: [val]}\n"


@pytest.fixture
def root(tmp_path, demo) -> Path:
    """A copy of the demo's root, with hard links: nothing in it is written in place."""
    copy = tmp_path / "curated"
    for path in demo.root.rglob("*"):
        target = copy / path.relative_to(demo.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.link(path, target)
    return copy


def image(demo, sample) -> dict[str, object]:
    """What is known of one of the demo's samples: sha256, phash, vector."""
    index = read_table(demo.project.index_url(sample.shard), ["key", "sha256"])
    table = read_table(demo.project.embeddings_url(sample.shard), ["key", "phash", "vector"])
    table = table.append_column("sha256", index["sha256"])
    return table.filter(pc.equal(table["key"], sample.key)).to_pylist()[0]


def write_set(path: Path, rows: list[dict[str, object]]) -> Path:
    """A Parquet of keys and vectors."""
    vector = pa.list_(pa.float32(), len(rows[0]["vector"]))
    schema = pa.schema([("key", pa.string()), ("vector", vector)])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def twins(demo, sample) -> set[tuple[str, str]]:
    """A sample and those that were made of it."""
    return {(s.shard, s.key) for s in demo.samples if s.key == sample.key or s.of == sample.key}


def fates(workshop, project) -> dict[tuple[str, str], tuple[str, str | None]]:
    return {name: (row["decision"], row["reason"]) for name, row in workshop.decisions(project).items()}


def rewritten(root: Path, before: dict[str, int], workshop) -> set[str]:
    return {name.split("/")[0] for name, at in workshop.times(root).items() if before.get(name) != at}


def originals(demo, planted: str) -> list:
    keys = [s.of for s in demo.samples if s.planted == planted and s.of]
    return [s for key in keys for s in demo.samples if s.key == key]


def test_decontamination_drops_two_images_and_their_near_copies_and_no_more(demo, root, tmp_path, workshop):
    first, second = originals(demo, "exact")[0], originals(demo, "resized")[-1]
    val = write_set(tmp_path / "val.parquet", [{**image(demo, s), "key": f"val-{s.key}"} for s in (first, second)])
    before = workshop.times(root)
    project = workshop.project(demo.raw, root, EVALUATION, known_sets={"val": str(val)})

    result = workshop.run(project)

    assert result.failed_shards == {}
    old, new = fates(workshop, demo.project), fates(workshop, project)
    gone = {name for name, (_, reason) in new.items() if reason == "contaminated"}
    assert twins(demo, first) | twins(demo, second) <= gone | {n for n, (fate, _) in new.items() if fate == "failed"}
    assert {name: fate for name, fate in new.items() if name not in gone} == {
        name: fate for name, fate in old.items() if name not in gone
    }
    assert gone <= twins(demo, first) | twins(demo, second)
    assert result.ledger.dropped["contaminated"] == len(gone) >= 4
    assert result.ledger.adds_up
    detail = workshop.decisions(project)[first.shard, first.key]["detail"]
    assert detail == f"nearly the same content as val-{first.key} (cosine 1.0000) in the evaluation set val"
    assert rewritten(root, before, workshop) == {"known_matches", "selection", "release", "image-curation.json"}


def test_blocklist_of_bytes_and_of_a_hash_and_editing_it_makes_nothing_but_decisions(demo, root, tmp_path, workshop):
    one, two = [s for s in demo.samples if s.planted is None and twins(demo, s) == {(s.shard, s.key)}][:2]
    takedowns = tmp_path / "lists" / "takedowns.txt"
    takedowns.parent.mkdir()
    takedowns.write_text(f"# asked to go\n{image(demo, one)['sha256']}\n")
    project = workshop.project(demo.raw, root, "known: {blocklists: [lists/takedowns.txt]}")
    fingerprint = project.policy.fingerprint()

    result = workshop.run(project)

    assert result.ledger.dropped["blocked"] == 1
    row = workshop.decisions(project)[one.shard, one.key]
    assert (row["reason"], row["detail"]) == ("blocked", f"on the blocklist {takedowns}: equal bytes")

    before = workshop.times(root)
    with takedowns.open("a") as file:
        file.write(f"{image(demo, two)['phash'] ^ 0b101:016x}\n")
    result = workshop.run(project)

    assert result.ledger.dropped["blocked"] == 2
    assert " 2 of 64 bits differ from " in workshop.decisions(project)[two.shard, two.key]["detail"]
    assert project.policy.fingerprint() != fingerprint
    assert result.manifest.policy_hash == project.policy.fingerprint()
    assert rewritten(root, before, workshop) <= {"selection", "release", "image-curation.json"}
    assert "selection" in rewritten(root, before, workshop)

    before = workshop.times(root)
    takedowns.write_text(takedowns.read_text() + "# nothing new\n")
    workshop.run(project)
    assert rewritten(root, before, workshop) <= {"image-curation.json"}


def test_earlier_release_as_reference_leaves_only_what_is_new(demo, root, tmp_path, workshop):
    earlier = workshop.project(demo.raw, tmp_path / "earlier", "release: {vectors: true}")
    for path in root.iterdir():
        if path.is_dir() and path.name not in ("selection", "release", "report"):
            (tmp_path / "earlier").mkdir(exist_ok=True)
            os.rename(path, tmp_path / "earlier" / path.name)
    workshop.run(earlier)
    (tmp_path / "new").mkdir()
    os.link(demo.raw / "demo-00000.tar", tmp_path / "new" / "same.tar")
    workshop.source(tmp_path / "new", {"new": {"1.jpg": workshop.photo(1), "2.jpg": workshop.photo(2)}})
    project = workshop.project(
        tmp_path / "new", tmp_path / "out", "known: {reference: [v1]}", known_sets={"v1": earlier.release_url}
    )

    result = workshop.run(project)

    kept = {name for name, (fate, _) in fates(workshop, project).items() if fate == "kept"}
    assert kept == {("new", "1"), ("new", "2")}
    assert set(result.ledger.dropped) <= {"in_reference", "low_resolution", "too_dark"}
    details = {row["detail"] for row in workshop.decisions(project).values() if row["reason"] == "in_reference"}
    assert all(detail.endswith(" in the reference set v1") for detail in details)
    assert any(detail.startswith("the same bytes as demo-0000") for detail in details)


def test_set_that_changed_is_matched_anew_and_never_decided_by_what_it_was(demo, root, tmp_path, workshop):
    first, second = originals(demo, "exact")[0], originals(demo, "resized")[-1]
    place = write_set(tmp_path / "val.parquet", [image(demo, first)])
    project = workshop.project(demo.raw, root, EVALUATION, known_sets={"val": str(place)})
    with pytest.raises(ArtifactError, match=r"known_matches/embedded/demo-00000\.parquet has not been made yet"):
        build_selection(project, project.selected_shards())
    dropped = workshop.run(project).ledger.dropped["contaminated"]

    before = workshop.times(root)
    workshop.run(project)
    assert rewritten(root, before, workshop) <= {"image-curation.json"}

    write_set(place, [image(demo, first), image(demo, second)])
    with pytest.raises(ArtifactError, match=r"its matches are with other sets than val as they are now\. Materialize"):
        build_selection(project, project.selected_shards())
    assert workshop.run(project).ledger.dropped["contaminated"] > dropped
    assert rewritten(root, before, workshop) == {"known_matches", "selection", "release", "image-curation.json"}


def test_late_threshold_and_role_run_no_match(demo, root, tmp_path, workshop):
    place = write_set(tmp_path / "val.parquet", [image(demo, originals(demo, "resized")[-1])])
    sets = {"val": str(place)}
    project = workshop.project(demo.raw, root, EVALUATION, known_sets=sets)
    dropped = workshop.run(project).ledger.dropped["contaminated"]
    before = workshop.times(root)
    exact = "known: {reference: [val], min_similarity: 1.0, max_phash_distance: null}"
    result = workshop.run(workshop.project(demo.raw, root, exact, known_sets=sets))
    assert "contaminated" not in result.ledger.dropped
    assert 1 <= result.ledger.dropped["in_reference"] < dropped
    assert rewritten(root, before, workshop) == {"selection", "release", "image-curation.json"}


def test_set_of_another_encoder_stops_everything_before_it_starts(demo, tmp_path, workshop):
    place = write_set(tmp_path / "val.parquet", [{"key": "1", "vector": [1.0] + [0.0] * 767}])
    project = workshop.project(demo.raw, tmp_path / "out", EVALUATION, known_sets={"val": str(place)})
    with pytest.raises(
        ConfigError, match=r"known set val has vectors of 768 numbers, and encoder embedded makes 610: .* Embed the set"
    ):
        workshop.run(project)
    assert not (tmp_path / "out").exists()


def test_set_of_other_weights_is_refused(demo, root, tmp_path, workshop):
    table = read_table(demo.project.embeddings_url("demo-00000"))
    place = str(tmp_path / "val.parquet")
    write_table(place, table, Certificate(artifact="embeddings", code_version="1"), {"weights_sha256": "f" * 64})
    project = workshop.project(demo.raw, root, EVALUATION, known_sets={"val": place})
    with pytest.raises(ConfigError, match=r"known set val was embedded with weights f{12}, and here encoder embedded"):
        workshop.run(project)


def test_tar_that_cannot_be_read_and_image_that_failed_match_nothing(demo, root, tmp_path, workshop):
    source = workshop.source(
        tmp_path / "raw", {"bad": b"no tar", "ok": {"1.jpg": b"no image", "2.jpg": workshop.photo(2)}}
    )
    project = workshop.project(source, tmp_path / "out", EVALUATION, known_sets={"val": str(root)})
    result = workshop.run(project)
    assert result.failed_shards == {}
    assert read_table(project.known_matches_url("bad")).num_rows == 0
    assert read_table(project.known_matches_url("ok"))["matches"].to_pylist() == [[], []]
    assert (result.ledger.kept, result.ledger.failed) == (1, {"not_an_image": 1})


def test_without_sets_there_is_no_step_and_no_file(demo):
    assert not (demo.root / "known_matches").exists()
