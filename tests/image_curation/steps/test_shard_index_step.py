"""The index of a shard as an artifact: made once for a tar as it is, also for one that cannot be read."""

from image_curation.artifacts import read_table
from image_curation.shards.discover import discover
from image_curation.shards.index import SHARD_INDEX_SCHEMA
from image_curation.steps.shard_index import build_shard_index


def test_facts_say_what_the_rows_do_not(tmp_path, workshop):
    members = {"1.jpg": workshop.photo(1), "1.txt": b"one", "2.jpg": b"", "README": b"no extension"}
    raw = workshop.source(tmp_path / "raw", {"a": members})
    project = workshop.project(raw, tmp_path / "out")
    (shard,), _ = discover(str(raw))
    outcome = build_shard_index(project, shard)
    assert outcome.artifact.rows == 2
    assert outcome.artifact.facts == {
        "url": str(raw / "a.tar"),
        "bytes": (raw / "a.tar").stat().st_size,
        "unreadable": None,
        "problem": None,
        "strays": [{"name": "README", "reason": "no_extension"}],
        "statuses": {"empty_image": 1, "ok": 1},
    }
    assert build_shard_index(project, shard).reused


def test_unreadable_tar_gives_an_index_without_rows_and_is_read_again_when_it_changes(tmp_path, workshop):
    raw = workshop.source(tmp_path / "raw", {"a": b"no tar" * 1000})
    project = workshop.project(raw, tmp_path / "out")
    (shard,), _ = discover(str(raw))
    outcome = build_shard_index(project, shard)
    assert "a.tar is no tar" in outcome.artifact.facts["unreadable"]
    assert (outcome.artifact.rows, outcome.artifact.facts["statuses"]) == (0, {})
    assert read_table(project.index_url("a")).schema.names == SHARD_INDEX_SCHEMA.names
    assert build_shard_index(project, shard).reused
    workshop.source(raw, {"a": {"1.jpg": workshop.photo(1)}})
    (shard,), _ = discover(str(raw))
    outcome = build_shard_index(project, shard)
    assert (outcome.reused, outcome.artifact.facts["unreadable"], outcome.artifact.rows) == (False, None, 1)


def test_tar_that_changed_since_it_was_listed_is_not_indexed_as_what_it_was(tmp_path, workshop):
    raw = workshop.source(tmp_path / "raw", {"a": {"1.jpg": workshop.photo(1)}})
    project = workshop.project(raw, tmp_path / "out")
    (listed,), _ = discover(str(raw))
    workshop.source(raw, {"a": {"1.jpg": workshop.photo(1), "2.jpg": workshop.photo(2), "2.npy": bytes(20_000)}})
    assert "but had" in build_shard_index(project, listed).artifact.facts["unreadable"]
    (now,), _ = discover(str(raw))
    assert build_shard_index(project, now).artifact.rows == 2


def test_other_limits_are_another_index(tmp_path, workshop):
    raw = workshop.source(tmp_path / "raw", {"a": {"1.jpg": workshop.photo(1, (120, 90))}})
    (shard,), _ = discover(str(raw))
    assert build_shard_index(workshop.project(raw, tmp_path / "out"), shard).artifact.facts["statuses"] == {"ok": 1}
    strict = workshop.project(raw, tmp_path / "out", decode={"max_pixels": 10_799})
    outcome = build_shard_index(strict, shard)
    assert (outcome.reused, outcome.artifact.facts["statuses"]) == (False, {"too_many_pixels": 1})
