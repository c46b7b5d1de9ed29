"""A release over time: made again, changed, interrupted, emptied."""

import dataclasses
import os

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from image_curation import storage
from image_curation.errors import ReleaseError
from image_curation.ledger import Ledger
from image_curation.release import writer
from image_curation.release.manifest import publish, read_manifest
from image_curation.release.plan import plan_shards
from image_curation.release.verify import verify_release
from image_curation.release.writer import write_release_shard


@pytest.fixture
def folder(place) -> str:
    return storage.join(place, "release")


def fingerprints(folder_url: str) -> dict[str, str]:
    """What changes when a file is written again, by file."""
    return {file.name: file.fingerprint for file in storage.list_files(folder_url)}


def replaced(rows: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), name, values)


def with_scores(rows: pa.Table, changed_key: str) -> pa.Table:
    scores = pc.if_else(pc.equal(rows["key"], changed_key), pa.scalar(9.5, pa.float32()), rows["aesthetic"])
    return replaced(rows, "aesthetic", scores)


def test_the_same_rows_give_the_same_bytes_in_another_folder(source, place, folder, tools):
    rows = source.rows()
    tools.release(rows, folder)
    other = storage.join(place, "other")
    tools.release(pa.concat_tables([rows.slice(0, 1), rows.slice(1)]), other)
    assert tools.contents(folder) == tools.contents(other)
    assert len(tools.contents(folder)) == 3 * 3 + 1


def test_a_release_on_disk_and_one_in_an_object_store_have_the_same_bytes(make_source, tmp_path, tools):
    on_disk, in_store = make_source(str(tmp_path)), make_source(f"memory://{tmp_path.name}")
    tools.release(on_disk.rows(), str(tmp_path / "release"))
    tools.release(in_store.rows(), f"memory://{tmp_path.name}/release")
    assert tools.contents(str(tmp_path / "release")) == tools.contents(f"memory://{tmp_path.name}/release")


def test_making_it_again_in_place_writes_nothing(source, folder, tools, monkeypatch):
    first = tools.release(source.rows(), folder)
    before = fingerprints(folder)
    opened = []
    monkeypatch.setattr(storage, "write_atomic", lambda url: opened.append(url))
    assert tools.release(source.rows(), folder) == first
    assert opened == []
    assert fingerprints(folder) == before


def test_one_changed_score_writes_one_shard_and_the_manifest_and_removes_what_it_replaces(source, folder, tools):
    rows = source.rows()
    before = tools.release(rows, folder, max_samples=4)
    old = fingerprints(folder)
    storage.write_bytes(storage.join(folder, "images", "notes.txt"), b"not ours")
    after = tools.release(with_scores(rows, "train/deep/0003"), folder, max_samples=4)
    assert [a == b for a, b in zip(after.shards, before.shards, strict=True)] == [False, True, True]
    new = fingerprints(folder)
    unchanged = {file.name for shard in before.shards[1:] for file in shard.files()}
    assert {name: new[name] for name in unchanged} == {name: old[name] for name in unchanged}
    wanted = {file.name for file in after.files()} | {"manifest.json", "images/notes.txt"}
    assert set(new) == wanted
    assert verify_release(folder).samples == 9


def test_a_policy_that_keeps_fewer_makes_the_same_as_from_scratch(source, place, folder, tools):
    rows = source.rows()
    tools.release(rows, folder)
    fewer = rows.filter(pc.not_equal(rows["key"], "twin"))
    tools.release(fewer, folder)
    scratch = storage.join(place, "scratch")
    tools.release(fewer, scratch)
    assert tools.contents(folder) == tools.contents(scratch)


@pytest.mark.parametrize("moment", range(10))
def test_killed_before_any_of_its_writes_leaves_the_old_release_whole_and_the_next_run_completes(
    source, folder, place, tools, monkeypatch, moment
):
    """Ten writes: three tars, indexes and Parquet files, then the manifest. Killed after each but the last."""
    rows = source.rows()
    tools.release(rows, folder)
    old = tools.contents(folder)
    changed = replaced(rows, "aesthetic", pc.add(rows["aesthetic"], 1).cast(pa.float32()))
    writes = 0
    write_atomic = storage.write_atomic

    def dying(url):
        nonlocal writes
        writes += 1
        if writes > moment:
            raise KeyboardInterrupt
        return write_atomic(url)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_atomic", dying)
        with pytest.raises(KeyboardInterrupt):
            tools.release(changed, folder)
    assert writes == moment + 1
    now = tools.contents(folder)
    assert {name: now[name] for name in old} == old
    assert verify_release(folder).samples == 9

    tools.release(changed, folder)
    scratch = storage.join(place, "scratch")
    tools.release(changed, scratch)
    assert tools.contents(folder) == tools.contents(scratch)


def test_killed_while_writing_a_tar_leaves_no_part_of_it(source, folder, tools, monkeypatch):
    tools.release(source.rows(), folder)
    old = tools.contents(folder)
    copy, copied = writer._copy, []

    def dying(tar, sample, contents):
        if copied:
            raise KeyboardInterrupt
        copied.append(sample.key)
        return copy(tar, sample, contents)

    monkeypatch.setattr(writer, "_copy", dying)
    with pytest.raises(KeyboardInterrupt):
        tools.release(with_scores(source.rows(), "0001"), folder)
    assert copied == ["a/000/0001"]
    assert tools.contents(folder) == old


def test_shards_of_a_killed_run_are_not_written_again(source, folder, tools):
    rows = source.rows()
    plans = plan_shards(rows, 4, 1 << 30, "test")
    write_release_shard(plans[0], plans[0].slice(rows), folder)
    assert read_manifest(folder) is None
    before = fingerprints(folder)
    tools.release(rows, folder)
    after = fingerprints(folder)
    assert {name: after[name] for name in before} == before
    assert len(before) == 3


@pytest.mark.parametrize("ending", ["tar", "idx", "parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_cut_file_is_written_again(source, folder, tools, ending, damage):
    tools.release(source.rows(), folder)
    whole = tools.contents(folder)
    name = next(name for name in whole if name.endswith(ending))
    url = storage.join(folder, name)
    if damage == "missing":
        storage.remove(url)
    else:
        storage.write_bytes(url, whole[name][:-1])
    tools.release(source.rows(), folder)
    assert tools.contents(folder) == whole


def test_a_file_of_another_plan_under_the_same_short_hash_is_not_taken_for_it(source, folder):
    rows = source.rows()
    (plan,) = plan_shards(rows, 100, 1 << 30, "test")
    other = dataclasses.replace(plan, plan_hash=plan.plan_hash[:8] + "0" * 56, keys=tuple(f"k{i}" for i in range(9)))
    first, second = (write_release_shard(p, rows, folder) for p in (other, plan))
    assert (first.plan_hash, second.plan_hash) == (other.plan_hash, plan.plan_hash)
    assert first.tar.name == second.tar.name
    assert first.tar.sha256 != second.tar.sha256


def test_temporary_files_of_killed_writers_are_removed(source, folder, tools):
    tools.release(source.rows(), folder)
    storage.write_bytes(storage.join(folder, "images", ".writing-abc"), b"half a tar")
    tools.release(source.rows(), folder)
    assert not storage.exists(storage.join(folder, "images", ".writing-abc"))


def test_an_empty_selection_is_a_valid_release_that_removes_the_old_one(source, folder, tools):
    empty = source.rows().slice(0, 0)
    assert plan_shards(empty, 4, 1 << 30, "test") == []
    manifest = tools.release(empty, folder)
    assert (manifest.samples, manifest.shards) == (0, ())
    assert list(tools.contents(folder)) == ["manifest.json"]
    assert verify_release(folder).samples == 0
    tools.release(source.rows(), folder)
    tools.release(empty, folder)
    assert list(tools.contents(folder)) == ["manifest.json"]


def test_manifest_read_back_is_what_was_published(source, folder, tools):
    manifest = tools.release(source.rows(), folder)
    assert read_manifest(folder) == manifest
    assert manifest.ledger == Ledger(read=12, kept=9, dropped={"low_aesthetic": 2}, failed={"not_an_image": 1})
    sizes = {name: len(content) for name, content in tools.contents(folder).items() if name != "manifest.json"}
    assert manifest.bytes == sum(sizes.values())
    assert {file.name: file.bytes for file in manifest.files()} == sizes


def test_there_is_no_manifest_where_there_is_no_release(folder):
    assert read_manifest(folder) is None


def test_a_foreign_manifest_is_refused(folder):
    storage.write_bytes(storage.join(folder, "manifest.json"), b'{"some": "other"}')
    with pytest.raises(ReleaseError, match=r"manifest.json is not the manifest of a release"):
        read_manifest(folder)


def test_publishing_refuses_a_missing_file_and_keeps_the_old_release(source, folder, tools):
    rows = source.rows()
    tools.release(rows, folder)
    old = storage.read_bytes(storage.join(folder, "manifest.json"))
    changed = with_scores(rows, "0001")
    plans = plan_shards(changed, 4, 1 << 30, "test")
    entries = [write_release_shard(plan, plan.slice(changed), folder) for plan in plans]
    storage.remove(storage.join(folder, entries[0].tar.name))
    with pytest.raises(ReleaseError, match=r"shard-000000-[0-9a-f]{8}.tar is missing; it was written with \d+"):
        publish(folder, entries, tools.facts(changed))
    assert storage.read_bytes(storage.join(folder, "manifest.json")) == old


def test_publishing_refuses_a_ledger_that_does_not_add_up(source, folder, tools):
    rows = source.rows()
    facts = tools.facts(rows)
    entries = list(tools.release(rows, folder).shards)
    with pytest.raises(ReleaseError, match=r"does not add up: 13 read ≠ 9 kept"):
        publish(folder, entries, facts.model_copy(update={"ledger": facts.ledger.model_copy(update={"read": 13})}))
    with pytest.raises(ReleaseError, match=r"kept=9 samples, but the shards hold 6"):
        publish(folder, entries[1:], facts)
    with_first_twice = facts.ledger.model_copy(update={"read": 12 + 3, "kept": 9 + 3})
    with pytest.raises(ReleaseError, match=r"a shard comes twice"):
        publish(folder, [*entries, entries[0]], facts.model_copy(update={"ledger": with_first_twice}))


def test_real_photos_are_released_and_read_back(shared_data, tmp_path, tools):
    """387 photos of 7 shards that share no keys: all bytes are in the release, in 4 even shards."""
    source = tools.Source(str(shared_data / "photos"))
    source.shards = {f"{i:05d}": [] for i in range(7)}
    rows = source.rows()
    folder = str(tmp_path / "release")
    manifest = tools.release(rows, folder, max_samples=100)
    assert [shard.samples for shard in manifest.shards].count(0) == 0
    assert len(manifest.shards) == 4
    check = verify_release(folder)
    assert (check.samples, check.shards) == (387, 4)
    assert check.bytes == sum(os.path.getsize(f"{folder}/{file.name}") for file in manifest.files())
