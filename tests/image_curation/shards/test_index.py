"""Tars -> index tables: what each row says, and what damage costs."""

import csv
import hashlib
import io
import json
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from image_curation import storage
from image_curation.decode.limits import DecodeLimits
from image_curation.errors import ImageError, ShardError, StorageError
from image_curation.shards.discover import Shard, discover
from image_curation.shards.header import read_header
from image_curation.shards.index import LARGEST_TEXT_BYTES, SHARD_INDEX_SCHEMA, ShardIndex, index_shard

Index = Callable[..., ShardIndex]


@pytest.fixture
def index_of(tar_of: Callable[..., bytes], shard_of: Callable[[bytes], Shard]) -> Index:
    """Members, or the bytes of a tar -> its index."""

    def index(members: Sequence[Any] | bytes, limits: DecodeLimits = DecodeLimits(), **options: Any) -> ShardIndex:  # noqa: B008
        content = members if isinstance(members, bytes) else tar_of(members, **options)
        return index_shard(shard_of(content), limits)

    return index


def only_row(index: ShardIndex) -> dict[str, Any]:
    rows = index.table.to_pylist()
    assert len(rows) == 1
    row: dict[str, Any] = rows[0]
    return row


def test_row_of_a_whole_sample_by_hand(index_of: Index, image_of: Callable[..., bytes]) -> None:
    jpeg = image_of("JPEG", (40, 30))
    assert 512 < len(jpeg) <= 1024  # so the JSON's header is at 512 + 1024
    index = index_of([("d/a.jpg", jpeg), ("d/a.json", b'{"n": 1}'), ("d/a.txt", b" two dogs\n")])
    assert only_row(index) == {
        "shard": "s",
        "key": "d/a",
        "image_name": "d/a.jpg",
        "image_offset": 512,
        "image_size": len(jpeg),
        "sidecars": [
            {"name": "d/a.json", "field": "json", "offset": 2048, "size": 8},
            {"name": "d/a.txt", "field": "txt", "offset": 3072, "size": 10},
        ],
        "caption": "two dogs",
        "metadata": '{"n": 1}',
        "format": "JPEG",
        "width": 40,
        "height": 30,
        "orientation": 1,
        "damaged": False,
        "sha256": hashlib.sha256(jpeg).hexdigest(),
        "status": "ok",
        "error": None,
    }
    assert (index.strays, index.problem) == ([], None)


def test_table_keeps_its_schema_through_parquet(
    index_of: Index, image_of: Callable[..., bytes], tmp_path: Path
) -> None:
    table = index_of([("a.jpg", image_of()), ("b.txt", b"x")]).table
    assert table.schema.equals(SHARD_INDEX_SCHEMA)
    pq.write_table(table, tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").equals(table)


def test_size_is_as_a_viewer_shows_it(index_of: Index, image_of: Callable[..., bytes]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    row = only_row(index_of([("a.jpg", image_of("JPEG", (40, 30), exif=exif))]))
    assert (row["width"], row["height"], row["orientation"]) == (30, 40, 6)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(index_of: Index, image_of: Callable[..., bytes], format: int) -> None:
    keys = ["f" * 80 + "/" + "x" * 90, "Zürich/日本", "with space"]
    members = [(f"{key}.{field}", data) for key in keys for field, data in (("JPG", image_of()), ("txt", b"c"))]
    rows = index_of(members, format=format).table.to_pylist()
    assert [(row["key"], row["status"], row["caption"]) for row in rows] == [(key, "ok", "c") for key in keys]


def test_sample_without_image_is_a_row(index_of: Index) -> None:
    row = only_row(index_of([("a.json", b'{"caption": "c"}'), ("a.cls", b"3")]))
    assert (row["status"], row["image_name"], row["sha256"], row["caption"]) == ("missing_image", None, None, "c")
    assert row["error"] == "shard s, sample a: there is no image beside its members (json, cls)"
    assert [sidecar["field"] for sidecar in row["sidecars"]] == ["json", "cls"]


def test_image_without_bytes_is_a_row(index_of: Index) -> None:
    row = only_row(index_of([("a.jpg", b"")]))
    assert (row["status"], row["image_size"]) == ("empty_image", 0)
    assert row["error"] == "shard s, member a.jpg: it has no bytes"


def test_text_under_the_name_of_an_image(index_of: Index, image_of: Callable[..., bytes]) -> None:
    rows = index_of([("a.jpg", b"<html>404</html>"), ("b.jpg", image_of())]).table.to_pylist()
    assert [row["status"] for row in rows] == ["not_an_image", "ok"]
    assert rows[0]["error"].startswith("shard s, member a.jpg: 16 bytes that begin with")
    assert rows[0]["sha256"] == hashlib.sha256(b"<html>404</html>").hexdigest()


def test_image_is_known_by_its_bytes_not_by_its_name(index_of: Index, image_of: Callable[..., bytes]) -> None:
    assert only_row(index_of([("a.jpg", image_of("PNG"))]))["format"] == "PNG"


def test_too_many_pixels_keeps_what_is_known(index_of: Index, image_of: Callable[..., bytes]) -> None:
    row = only_row(index_of([("a.png", image_of("PNG", (40, 30)))], DecodeLimits(max_pixels=1199)))
    assert (row["status"], row["format"], row["width"], row["height"]) == ("too_many_pixels", "PNG", 40, 30)
    assert row["error"] == "shard s, member a.png: 40 x 30 = 1200 pixels are more than max_pixels=1199"


def test_damage_inside_a_jpeg_is_told_and_the_sample_stays_good(
    index_of: Index, image_of: Callable[..., bytes]
) -> None:
    jpeg = image_of(size=(256, 256), quality=95)
    middle = len(jpeg) // 2
    holed = jpeg[:middle] + bytes(200) + jpeg[middle + 200 :]
    index = index_of([("a.jpg", jpeg), ("b.jpg", holed), ("c.png", image_of("PNG")), ("d.jpg", jpeg[:-100])])
    assert index.table["damaged"].to_pylist() == [False, True, None, True]
    assert index.table["status"].to_pylist() == ["ok"] * 4


def test_extreme_aspect(index_of: Index, image_of: Callable[..., bytes]) -> None:
    assert only_row(index_of([("a.png", image_of("PNG", (303, 3)))]))["status"] == "extreme_aspect"
    assert only_row(index_of([("a.png", image_of("PNG", (300, 3)))]))["status"] == "ok"


def test_member_above_the_byte_limit_is_hashed_but_never_held(index_of: Index, tar_of: Callable[..., bytes]) -> None:
    big = bytes(48 << 20)
    content = tar_of([("a.jpg", big)])
    digest = hashlib.sha256(big).hexdigest()
    del big
    index: list[ShardIndex] = []
    peak = _peak_bytes(lambda: index.append(index_of(content, DecodeLimits(max_bytes=1 << 20))))
    row = only_row(index[0])
    assert (row["status"], row["sha256"], row["image_size"]) == ("too_many_bytes", digest, 48 << 20)
    assert peak < 8 << 20


def test_one_image_is_held_at_a_time(index_of: Index, tar_of: Callable[..., bytes]) -> None:
    content = tar_of([(f"{i}.jpg", bytes(8 << 20)) for i in range(5)])
    index: list[ShardIndex] = []
    peak = _peak_bytes(lambda: index.append(index_of(content)))
    assert index[0].table.num_rows == 5
    assert peak < 20 << 20  # a member, and the next one's beginning


def _peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Damage. a.jpg has its header at 0, its data (513 to 1024 bytes) at 512; the next member has them at 1536 and 2048.


def test_tar_cut_inside_an_image_costs_that_image(index_of: Index, tar_of: Any, image_of: Callable[..., bytes]) -> None:
    content = tar_of([("a.jpg", image_of("JPEG", (40, 30))), ("a.txt", b"c"), ("b.jpg", image_of())])
    index = index_of(content[:3100])
    assert [(row["key"], row["status"]) for row in index.table.to_pylist()] == [("a", "ok"), ("b", "truncated_member")]
    assert index.table.to_pylist()[1]["error"] == (
        "shard s, member b.jpg: the tar ends before the data of this image does"
    )
    assert index.table.to_pylist()[1]["sha256"] is None
    assert index.problem is not None
    assert index.problem.startswith("cut off at byte 3100, inside the data of 'b.jpg'")


def test_tar_cut_inside_a_sidecar_says_so_and_keeps_the_image(
    index_of: Index, tar_of: Any, image_of: Callable[..., bytes]
) -> None:
    content = tar_of([("a.jpg", image_of("JPEG", (40, 30))), ("a.txt", b"caption")])
    index = index_of(content[:2051])
    row = only_row(index)
    assert (row["status"], row["caption"], row["sidecars"]) == ("ok", None, [])
    assert index.strays == [{"name": "a.txt", "reason": "truncated_member"}]


def test_tar_cut_inside_a_header_keeps_the_samples_before_it(
    index_of: Index, tar_of: Any, image_of: Callable[..., bytes]
) -> None:
    content = tar_of([("a.jpg", image_of("JPEG", (40, 30))), ("b.jpg", image_of())])
    index = index_of(content[:1600])
    assert only_row(index)["status"] == "ok"
    assert index.problem is not None
    assert "header at byte 1536" in index.problem


def test_tar_without_members(index_of: Index) -> None:
    index = index_of([])
    assert (index.table.num_rows, index.strays, index.problem) == (0, [], None)
    assert index.table.schema.equals(SHARD_INDEX_SCHEMA)


@pytest.mark.parametrize("content", [b"", b"garbage" * 999])
def test_no_tar_names_the_url(index_of: Index, content: bytes) -> None:
    with pytest.raises(ShardError, match=r"/s\.tar is "):
        index_of(content)


def test_tar_that_changed_since_it_was_listed(tar_of: Callable[..., bytes], shard_of: Callable[[bytes], Shard]) -> None:
    shard = shard_of(tar_of([]))
    with pytest.raises(ShardError, match=r"has 10240 bytes, but had 99 when it was listed\. List the source again"):
        index_shard(replace(shard, size=99), DecodeLimits())


def test_tar_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.tar"):
        index_shard(Shard("gone", str(tmp_path / "gone.tar"), 1, "f"), DecodeLimits())


def test_strays_carry_their_reasons(index_of: Index, image_of: Callable[..., bytes]) -> None:
    link = tarfile.TarInfo("l.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
    members = [
        ("a.jpg", b"old"),
        link,
        ("._a.jpg", b"mac"),
        ("../up.jpg", b"1"),
        ("README", b"r"),
        ("a.jpg", image_of()),
    ]
    index = index_of(members)
    assert only_row(index)["status"] == "ok"
    assert [(stray["name"], stray["reason"]) for stray in index.strays] == [
        ("l.jpg", "link"),
        ("._a.jpg", "hidden_file"),
        ("../up.jpg", "unsafe_name"),
        ("README", "no_extension"),
        ("a.jpg", "overridden"),
    ]


# Captions and metadata.


@pytest.mark.parametrize(
    ("files", "caption"),
    [
        ({"txt": b"from txt", "caption": b"c", "json": b'{"caption": "j"}'}, "from txt"),
        ({"caption": b"from caption", "json": b'{"caption": "j"}'}, "from caption"),
        ({"json": b'{"text": "t", "caption": "from json"}'}, "from json"),
        ({"json": b'{"text": "from text"}'}, "from text"),
        ({"txt": b" \n\0", "json": b'{"caption": "filled in"}'}, "filled in"),
        ({"txt": b"\xff\xfe\xff"}, None),
        ({"txt": b"caf\xe9"}, "caf\N{REPLACEMENT CHARACTER}"),
        ({"txt": b"\xef\xbb\xbfwith mark"}, "with mark"),
        ({"txt": "日本 🐕".encode()}, "日本 🐕"),
        ({"json": b'{"caption": 7}'}, None),
        ({"json": b'{"caption": ["a"]}'}, None),
        ({"json": b'{"caption": "half \\ud83d"}'}, "half ?"),
        ({}, None),
    ],
)
def test_captions(index_of: Index, image_of: Any, files: dict[str, bytes], caption: str | None) -> None:
    row = only_row(index_of([("a.jpg", image_of()), *((f"a.{field}", data) for field, data in files.items())]))
    assert row["caption"] == caption


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[1]", b'"text"', b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"],
)
def test_json_that_is_no_object_costs_only_the_metadata(index_of: Index, image_of: Any, text: bytes) -> None:
    row = only_row(index_of([("a.jpg", image_of()), ("a.json", text)]))
    assert (row["status"], row["metadata"], len(row["sidecars"])) == ("ok", None, 1)


def test_metadata_is_the_text_as_it_was(index_of: Index, image_of: Callable[..., bytes]) -> None:
    text = '{ "b": 1.50,\n "a": "\\u00fc" }'
    assert only_row(index_of([("a.jpg", image_of()), ("a.json", text.encode())]))["metadata"] == text


def test_huge_text_stays_a_sidecar(index_of: Index, image_of: Callable[..., bytes]) -> None:
    row = only_row(index_of([("a.jpg", image_of()), ("a.txt", b"x" * (LARGEST_TEXT_BYTES + 1))]))
    assert (row["caption"], row["sidecars"][0]["size"]) == (None, LARGEST_TEXT_BYTES + 1)


def test_dotted_keys_take_their_own_captions(index_of: Index, image_of: Callable[..., bytes]) -> None:
    members = [
        (f"img.v1.00{i}.{field}", data) for i in (0, 1) for field, data in (("jpg", image_of()), ("txt", b"%d" % i))
    ]
    rows = index_of(members).table.to_pylist()
    assert [(row["key"], row["caption"], row["status"]) for row in rows] == [
        ("img.v1.000", "0", "ok"),
        ("img.v1.001", "1", "ok"),
    ]


# Real data.


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> pa.Table:
    shards, ignored = discover(str(shared_data / "photos"))
    assert ([shard.key for shard in shards], ignored) == ([f"{i:05}" for i in range(7)], [])
    indexes = [index_shard(shard, DecodeLimits()) for shard in shards]
    assert [(index.strays, index.problem) for index in indexes] == [([], None)] * 7
    return pa.concat_tables([index.table for index in indexes])


def test_real_photos_agree_with_their_own_json(photos: pa.Table) -> None:
    rows = photos.to_pylist()
    assert Counter(row["status"] for row in rows) == {"ok": 387}
    assert sum(row["caption"] is not None for row in rows) == 170
    for row in rows:
        said = json.loads(row["metadata"])
        stored = (row["width"], row["height"]) if row["orientation"] < 5 else (row["height"], row["width"])
        assert (said["key"], said["sha256"], said["width"], said["height"]) == (row["key"], row["sha256"], *stored)


def test_offsets_of_real_photos_lead_to_their_bytes(photos: pa.Table, shared_data: Path) -> None:
    for row in photos.to_pylist():
        url = str(shared_data / "photos" / f"{row['shard']}.tar")
        ranges = [(row["image_offset"], row["image_size"])]
        ranges += [(sidecar["offset"], sidecar["size"]) for sidecar in row["sidecars"] if sidecar["field"] == "json"]
        image, text = storage.read_ranges(url, ranges)
        assert hashlib.sha256(image).hexdigest() == row["sha256"]
        assert text.decode() == row["metadata"]


def test_object_store_gives_the_same_table(photos: pa.Table, shared_data: Path) -> None:
    storage.write_bytes("memory://index-photos/00005.tar", (shared_data / "photos" / "00005.tar").read_bytes())
    shards, _ = discover("memory://index-photos")
    table = index_shard(shards[0], DecodeLimits()).table
    assert table.num_rows > 10
    assert table.equals(photos.filter(pa.compute.equal(photos["shard"], "00005")))


def status_of(data: bytes, pillow_outcome: str) -> str:
    """The status by the header reader, by hand for the one picture of an odd shape; what Pillow decodes must be ok."""
    try:
        header = read_header(data)
    except ImageError as error:
        return error.code
    sides = sorted(header.shown_size)
    assert sides[1] <= 100 * sides[0] or pillow_outcome != "ok"
    return "ok" if sides[1] <= 100 * sides[0] else "extreme_aspect"


def test_every_hostile_image_is_a_row_among_good_ones(
    index_of: Index, image_of: Callable[..., bytes], shared_data: Path
) -> None:
    folder = shared_data / "hostile-images"
    listed = list(csv.DictReader(io.StringIO((folder / "manifest.csv").read_text())))
    members = []
    for place, row in enumerate(listed):
        suffix = Path(row["file"]).suffix if "." in row["file"] and len(Path(row["file"]).suffix) < 6 else ""
        suffix = suffix if suffix not in ("", ".icc") else ".jpg"
        members += [
            (f"{place:03}{suffix}", (folder / "files" / row["file"]).read_bytes()),
            (f"good{place:03}.jpg", image_of()),
        ]
    index = index_of(members)
    rows = {row["key"]: row for row in index.table.to_pylist()}
    assert (len(rows), index.strays, index.problem) == (298, [], None)
    for place, row in enumerate(listed):
        assert rows[f"good{place:03}"]["status"] == "ok"
        hostile = rows[f"{place:03}"]
        assert hostile["sha256"] == row["sha256"]
        assert (hostile["error"] is None) == (hostile["status"] == "ok")
        assert hostile["status"] == status_of((folder / "files" / row["file"]).read_bytes(), row["pillow13_outcome"])
    statuses = Counter(row["status"] for row in rows.values())
    assert statuses == {
        "ok": 149 + 115,
        "not_an_image": 18,
        "unsupported_format": 14,
        "too_many_pixels": 1,
        "extreme_aspect": 1,
    }
