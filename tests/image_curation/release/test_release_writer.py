"""What stands in the tar, the JSON, the Parquet and the index of a written shard."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_curation import storage
from image_curation.errors import ReleaseError
from image_curation.release import source as source_module
from image_curation.release.plan import plan_shards
from image_curation.release.sample import merge_json
from image_curation.release.tarball import TarWriter
from image_curation.release.verify import verify_release
from image_curation.release.writer import write_release_shard

# (shard, key) -> its key in the release, the image's field there and its member in the source, and the same of sidecars
EXPECTED = {
    ("a/000", "0001"): ("a/000/0001", "jpg", "0001.jpg", {"cls": "0001.cls", "txt": "0001.txt"}),
    ("a/000", "0002"): ("a/000/0002", "jpg", "0002.JPG", {"json.original": "0002.json"}),
    ("a/000", "train/deep/0003"): (
        "train/deep/0003",
        "png",
        "train/deep/0003.v1.jpg",
        {"seg.png": "train/deep/0003.seg.png", "my_mask.npy": "train/deep/0003.my mask.NPY"},
    ),
    ("a/000", "日本"): ("a/000/__", "jpeg", "日本.jpeg", {"empty": "日本.empty"}),
    ("b 1", "0001"): ("b_1/0001", "jpg", "0001.jpg", {"json.original": "0001.json"}),
    ("b 1", "0002"): ("b_1/0002", "webp", "0002.webp", {}),
    ("b 1", "same/../twin"): ("same/__/twin", "gif", "same/../twin.gif", {"x__key__": "same/../twin.__key__"}),
    ("b 1", "twin"): ("twin", "jpg", "twin.jpg", {}),
    ("b 1", "中国"): ("b_1/__", "png", "中国.png", {}),
}
KEYS = [key for key, *_ in EXPECTED.values()]


@pytest.fixture
def released(source, place, tools):
    """A release of all samples in one shard: folder, members of its tar, rows of its Parquet."""
    folder = storage.join(place, "release")
    manifest = tools.release(source.rows(), folder, max_samples=100)
    (shard,) = manifest.shards
    tar = tools.members(storage.read_bytes(storage.join(folder, shard.tar.name)))
    rows = pq.read_table(io.BytesIO(storage.read_bytes(storage.join(folder, shard.parquet.name))))
    return folder, shard, tar, rows


def test_images_and_sidecars_are_the_original_bytes_under_safe_names(source, released):
    _, _, tar, _ = released
    wanted = {}
    for (shard, _), (key, extension, image, sidecars) in EXPECTED.items():
        wanted[f"{key}.{extension}"] = source.original(shard, image)
        wanted |= {f"{key}.{field}": source.original(shard, name) for field, name in sidecars.items()}
    copied = {name: content for name, content in tar.items() if not name.endswith(".json")}
    assert copied == wanted
    assert sorted(set(tar) - set(copied)) == sorted(f"{key}.json" for key in KEYS)


def test_members_of_a_sample_are_adjacent_with_the_image_first(released):
    _, _, tar, _ = released
    order = [name.split(".")[0] for name in tar]
    assert list(dict.fromkeys(order)) == KEYS
    assert [order[i] != order[i - 1] for i in range(1, len(order))].count(True) == len(EXPECTED) - 1
    firsts = [name for i, name in enumerate(tar) if i == 0 or order[i] != order[i - 1]]
    assert firsts == [f"{key}.{extension}" for key, extension, *_ in EXPECTED.values()]


def test_json_text_is_kept_to_the_digit_and_gets_a_curation_entry(source, released):
    _, _, tar, rows = released
    original = source.original("a/000", "0001.json").rstrip().removesuffix(b"}")
    content = tar["a/000/0001.json"]
    assert content.startswith(original + b', "curation": {')
    first = rows.slice(0, 1).to_pylist()[0]
    assert json.loads(content)["curation"] == {
        "shard": "a/000",
        "key": "0001",
        "image_name": "0001.jpg",
        "sha256": first["sha256"],
        "format": "JPEG",
        "width": 32,
        "height": 24,
        "aesthetic": 5.0,
        "nsfw": None,
        "phash": "f" * 16,
        "decoder": "simplejpeg",
        "damaged": False,
    }


def test_json_that_is_no_object_stays_as_it_is_beside_a_new_one(released):
    _, _, tar, _ = released
    assert tar["a/000/0002.json.original"] == b"{not json"
    assert tar["b_1/0001.json.original"] == b'["a", "list"]'
    merged = json.loads(tar["a/000/0002.json"])
    assert list(merged) == ["curation"]
    assert merged["curation"]["renamed"] == {"json.original": "0002.json"}


def test_json_of_an_earlier_release_keeps_its_curation_within_the_new_one(released):
    _, _, tar, _ = released
    merged = json.loads(tar["b_1/0002.json"])
    assert merged["n"] == "😀"
    assert merged["curation"]["previous"] == {"aesthetic": 1.5}
    assert json.loads(tar["b_1/__.json"])["curation"]["key"] == "中国"


def test_renamed_fields_name_their_original_member(released):
    _, _, tar, _ = released
    curation = json.loads(tar["train/deep/0003.json"])["curation"]
    assert curation["renamed"] == {"my_mask.npy": "train/deep/0003.my mask.NPY"}
    assert curation["image_name"] == "train/deep/0003.v1.jpg"


def test_float32_scores_are_printed_in_their_shortest_form(released):
    _, _, tar, _ = released
    texts = [content.decode() for name, content in tar.items() if name.startswith("a/000/") and name.endswith(".json")]
    assert any('"aesthetic": 5.1,' in text for text in texts)


def test_parquet_has_identity_scores_and_the_place_of_each_image_in_the_tar(source, released):
    folder, shard, tar, rows = released
    content = storage.read_bytes(storage.join(folder, shard.tar.name))
    assert list(zip(rows["shard"].to_pylist(), rows["key"].to_pylist(), strict=True)) == list(EXPECTED)
    assert rows["release_key"].to_pylist() == KEYS
    for row in rows.to_pylist():
        assert content[row["image_offset"] :][: row["image_size"]] == tar[row["release_name"]]
    planned = source.rows()
    for name in ("caption", "width", "height", "format", "aesthetic", "nsfw", "phash", "decoder", "damaged", "sha256"):
        assert rows[name].equals(planned[name]), name
    assert rows["caption"][0].as_py() == "ein Bär"


def test_every_compressed_column_is_zstd_and_vectors_are_plain(source, place, tools):
    rows = source.rows()
    vectors = np.random.default_rng(0).normal(size=(len(rows), 6)).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 6)
    rows = rows.append_column("vector", column)
    folder = storage.join(place, "release")
    manifest = tools.release(rows, folder, max_samples=5)
    parquet = [storage.read_bytes(storage.join(folder, shard.parquet.name)) for shard in manifest.shards]
    group = pq.ParquetFile(io.BytesIO(parquet[0])).metadata.row_group(0)
    codecs = {group.column(i).path_in_schema: group.column(i).compression for i in range(group.num_columns)}
    assert codecs.pop("vector.list.element") == "UNCOMPRESSED"
    assert set(codecs.values()) == {"ZSTD"}
    back = pa.concat_tables([pq.read_table(io.BytesIO(content)) for content in parquet])
    assert np.array_equal(np.stack(back["vector"].to_numpy()), vectors)
    assert b"vector" not in b"".join(
        tools.members(storage.read_bytes(storage.join(folder, manifest.shards[0].tar.name))).values()
    )


def test_index_is_what_dalis_own_tool_makes(source, tmp_path, tools):
    folder = str(tmp_path / "release")
    manifest = tools.release(source.rows(), folder, max_samples=100)
    (shard,) = manifest.shards
    subprocess.run(
        [Path(sys.executable).with_name("wds2idx"), f"{folder}/{shard.tar.name}", f"{tmp_path}/theirs.idx"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "theirs.idx").read_bytes() == storage.read_bytes(f"{folder}/{shard.index.name}")


def test_tar_headers_name_no_time_owner_or_machine(released):
    folder, shard, _, _ = released
    with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(storage.join(folder, shard.tar.name)))) as tar:
        found = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in tar}
    assert found == {(0, 0, 0, "", "", 0o644, tarfile.REGTYPE)}


def test_tar_is_byte_for_byte_what_tarfile_writes():
    files = {"a.jpg": b"x" * 1000, f"{'long/' * 30}b.json": b"{}", "n" * 100: b"", "m" * 101: b"y" * 512}
    theirs, ours = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with TarWriter(ours) as writer:
        offsets = [writer.add(name, len(content), [content[:7], content[7:]]) for name, content in files.items()]
        writer.finish()
    assert ours.getvalue() == theirs.getvalue()
    assert [ours.getvalue()[offset:][: len(c)] for offset, c in zip(offsets, files.values(), strict=True)] == [
        *files.values()
    ]


def test_members_longer_than_a_piece_are_copied_in_pieces(source, place, tools, monkeypatch):
    """With pieces of 100 bytes and batches of 300, members span pieces and batches, and the bytes stay the same."""
    whole = storage.join(place, "whole")
    tools.release(source.rows(), whole)
    asked = []
    read_ranges = storage.read_ranges
    monkeypatch.setattr(storage, "read_ranges", lambda url, ranges: asked.extend(ranges) or read_ranges(url, ranges))
    monkeypatch.setattr(source_module, "_PIECE_BYTES", 100)
    monkeypatch.setattr(source_module, "_BATCH_BYTES", 300)
    in_pieces = storage.join(place, "pieces")
    tools.release(source.rows(), in_pieces)
    assert tools.contents(in_pieces) == tools.contents(whole)
    assert len(asked) > 100
    assert max(size for _, size in asked) <= 100


def test_neighbouring_members_are_read_in_one_request(source, place, tools, monkeypatch):
    asked = []
    read_ranges = storage.read_ranges
    monkeypatch.setattr(
        storage, "read_ranges", lambda url, ranges: asked.append((url, len(ranges))) or read_ranges(url, ranges)
    )
    tools.release(source.rows(), storage.join(place, "release"), max_samples=100)
    assert asked == [(source.url("a/000"), 1), (source.url("b 1"), 1)]


def test_samples_far_apart_are_read_without_what_lies_between(place, tools, monkeypatch):
    source = tools.Source(storage.join(place, "source"))
    source.write("s", [("1.jpg", tools.picture(1)), ("2.jpg", tools.picture(2, side=400)), ("3.jpg", tools.picture(3))])
    asked = []
    read_ranges = storage.read_ranges
    monkeypatch.setattr(storage, "read_ranges", lambda url, ranges: asked.extend(ranges) or read_ranges(url, ranges))
    rows = source.rows()
    assert rows["image_size"][1].as_py() > 64 << 10
    tools.release(rows.take([0, 2]), storage.join(place, "release"))
    images = list(zip(rows["image_offset"].to_pylist(), rows["image_size"].to_pylist(), strict=True))
    assert asked == [images[0], images[2]]


def test_no_bytes_are_asked_for_as_no_request():
    """An object store would refuse a range that ends before it starts."""
    assert list(source_module.read_pieces(source_module.pieces("memory://nowhere/at.tar", 512, 0))) == [b""]


def plans_of(rows):
    return plan_shards(rows, 100, 1 << 30, "test")


def test_image_that_changed_after_indexing_is_refused_by_name(source, place, tools):
    rows = source.rows()
    changed = [
        (name, content if name != "0002.webp" else bytes(len(content))) for name, content in source.shards["b 1"]
    ]
    source.write("b 1", changed)
    folder = storage.join(place, "release")
    (plan,) = plans_of(rows)
    with pytest.raises(ReleaseError, match=r"shard b 1, member 0002.webp: its SHA-256 is .* materialize shard_index"):
        write_release_shard(plan, rows, folder)
    assert not storage.exists(storage.join(folder, "images", f"{plan.name}.tar"))


def test_tar_cut_short_after_indexing_is_refused(source, place):
    rows = source.rows()
    end = max(s["offset"] + s["size"] for row in rows["sidecars"].to_pylist()[-5:] for s in row)
    storage.write_bytes(source.url("b 1"), storage.read_bytes(source.url("b 1"))[: end - 1])
    (plan,) = plans_of(rows)
    with pytest.raises(ReleaseError, match=r"shard b 1, member .*: the tar ends within it, 1 bytes early"):
        write_release_shard(plan, rows, storage.join(place, "release"))


def test_tar_that_is_gone_is_refused(source, place):
    rows = source.rows()
    storage.remove(source.url("a/000"))
    (plan,) = plans_of(rows)
    with pytest.raises(ReleaseError, match=r"source tar .*a/000.tar can no longer be read"):
        write_release_shard(plan, rows, storage.join(place, "release"))


def test_sidecar_hashes_are_checked_where_the_index_has_them(source, place, tools):
    """A sidecar changed in place at equal size is seen, and a new hash of one makes a new shard."""
    rows = source.rows()
    hashed = pa.struct([*rows.schema.field("sidecars").type.value_type, pa.field("sha256", pa.string())])
    lists = [
        [s | {"sha256": "0" * 64 if s["name"] == "0001.cls" else None} for s in row]
        for row in rows["sidecars"].to_pylist()
    ]
    place_of = rows.schema.get_field_index("sidecars")
    with_hashes = rows.set_column(place_of, "sidecars", pa.array(lists, pa.list_(hashed)))
    (plan,) = plans_of(with_hashes)
    assert plan.plan_hash != plans_of(rows)[0].plan_hash
    with pytest.raises(ReleaseError, match=r"shard a/000, member 0001.cls: its SHA-256 is 7902699be42c8a8e46fbbb45"):
        write_release_shard(plan, with_hashes, storage.join(place, "release"))


def test_rows_of_another_length_than_planned_are_refused(source, place):
    rows = source.rows()
    with pytest.raises(ReleaseError, match=r"got 8 rows, but is planned with 9"):
        write_release_shard(plans_of(rows)[0], rows.slice(1), storage.join(place, "release"))


def test_very_long_keys_are_written_and_verified(place, tools):
    source = tools.Source(storage.join(place, "source"))
    key = "/".join(["folder" * 10] * 4)
    source.write("s", [(f"{key}/1.jpg", tools.picture(1)), (f"{key}/2.jpg", tools.picture(2))])
    folder = storage.join(place, "release")
    manifest = tools.release(source.rows(), folder)
    tar = tools.members(storage.read_bytes(storage.join(folder, manifest.shards[0].tar.name)))
    assert list(tar) == [f"{key}/1.jpg", f"{key}/1.json", f"{key}/2.jpg", f"{key}/2.json"]
    assert verify_release(folder).samples == 2


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=4), values, max_size=4),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
def test_merged_json_has_all_that_the_original_had(fields, encoding, ascii_only):
    original = json.dumps(fields, ensure_ascii=ascii_only, indent=1).encode(encoding, "surrogatepass")
    merged = json.loads(merge_json(original, {"a": 1}))
    assert merged.pop("curation") == {"a": 1} | ({"previous": fields["curation"]} if "curation" in fields else {})
    assert merged == {key: value for key, value in fields.items() if key != "curation"}


def test_json_with_half_a_surrogate_pair_as_bytes_is_kept():
    """Python reads it, though it is no valid UTF-8."""
    assert merge_json(b'{"a": "\xed\xa0\x80"}', {}) == b'{"a": "\xed\xa0\x80", "curation": {}}'


@pytest.mark.parametrize("original", [b"", b"[]", b'"x"', b"{", b"\xff\xfe\x00", b"{} {}", b"[" * 100_000])
def test_text_that_is_no_json_object_is_not_merged(original):
    assert merge_json(original, {"a": 1}) is None
