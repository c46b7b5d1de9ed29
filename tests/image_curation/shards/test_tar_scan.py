"""Members of intact, damaged, foreign and hostile tars."""

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from image_curation.errors import ShardError
from image_curation.shards.tar import Member, TarScan

LONG = "f" * 80 + "/" + "x" * 90 + ".jpg"  # over 100 bytes: USTAR splits it, GNU and PAX add a header


def scan(content: bytes) -> tuple[list[Member], str | None]:
    it = TarScan(io.BytesIO(content), len(content), "place/s.tar")
    return list(it), it.problem


def data(content: bytes, member: Member) -> bytes:
    return content[member.offset : member.offset + member.size]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_bytes_in_every_format(tar_of: Callable[..., bytes], format: int) -> None:
    files = [("a.jpg", b"1" * 700), ("Zürich/日本.jpg", b"22"), ("empty.txt", b""), (LONG, b"3" * 512), ("z.jpg", b"4")]
    content = tar_of(files, format=format)
    members, problem = scan(content)
    assert problem is None
    assert [(member.name, data(content, member)) for member in members] == files
    assert {member.kind for member in members} == {"file"}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert [member.offset for member in members] == [info.offset_data for info in tar]


def test_folders_links_and_devices(tar_of: Callable[..., bytes]) -> None:
    infos = []
    for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        info = tarfile.TarInfo(f"m{kind.decode()}")
        info.type, info.linkname = kind, "a.jpg" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        infos.append(info)
    members, problem = scan(tar_of([*infos, ("a.jpg", b"1")]))
    assert [member.kind for member in members] == ["dir", "link", "link", "other", "other", "file"]
    assert problem is None


def test_reading_between_two_members_does_not_disturb(tar_of: Callable[..., bytes]) -> None:
    content = tar_of([(f"{i}.jpg", bytes([i]) * 3000) for i in range(5)])
    file = io.BytesIO(content)
    seen = []
    for member in TarScan(file, len(content), "s"):
        file.seek(member.offset)
        seen.append(file.read(member.size))
        file.seek(0)
    assert seen == [bytes([i]) * 3000 for i in range(5)]


def test_name_that_is_no_utf8_is_printable_text(tar_of: Callable[..., bytes]) -> None:
    content = tar_of([("caf\udce9.jpg", b"1")], format=tarfile.GNU_FORMAT)
    assert b"caf\xe9.jpg" in content
    assert scan(content)[0][0].name == "caf\\xe9.jpg"


def test_tar_of_zeros_only_is_empty_but_fine() -> None:
    for size in (1, 512, 1024, 10240, 3 << 20):
        assert scan(bytes(size)) == ([], None)


def test_file_without_bytes() -> None:
    with pytest.raises(ShardError, match=r"place/s\.tar is an empty file"):
        scan(b"")


def test_gzip_under_the_name_of_a_tar(tar_of: Callable[..., bytes]) -> None:
    with pytest.raises(ShardError, match=r"place/s\.tar is no tar but gzip data\. Unpack it"):
        scan(gzip.compress(tar_of([("a.jpg", b"1")])))


@pytest.mark.parametrize("content", [b"<html>not found</html>", bytes(range(256)) * 8, b"\1"])
def test_something_else_under_the_name_of_a_tar(content: bytes) -> None:
    with pytest.raises(ShardError, match=r"place/s\.tar is no tar: its first header cannot be read"):
        scan(content)


# In the tests of damage a.jpg has its header at 0 and its data at 512 to 1212, b.jpg at 1536 and 2048 to 2748.
TWO = [("a.jpg", b"1" * 700), ("b.jpg", b"2" * 700)]


def test_cut_inside_the_data(tar_of: Callable[..., bytes]) -> None:
    members, problem = scan(tar_of(TWO)[:2100])
    assert [(member.name, member.offset, member.size, member.cut) for member in members] == [
        ("a.jpg", 512, 700, False),
        ("b.jpg", 2048, 700, True),
    ]
    assert problem == "cut off at byte 2100, inside the data of 'b.jpg' (bytes 2048 to 2748)"


def test_cut_inside_a_header(tar_of: Callable[..., bytes]) -> None:
    members, problem = scan(tar_of(TWO)[:1600])
    assert [member.name for member in members] == ["a.jpg"]
    assert problem is not None
    assert problem.startswith("cut off inside the header at byte 1536 (")


def test_cut_inside_an_extended_header(tar_of: Callable[..., bytes]) -> None:
    content = tar_of([TWO[0], (LONG, b"3" * 700)], format=tarfile.PAX_FORMAT)
    members, problem = scan(content[: 1536 + 1024])
    assert [member.name for member in members] == ["a.jpg"]
    assert problem is not None
    assert "the header at byte 1536 (" in problem


@pytest.mark.parametrize("end", [2748, 3072])
def test_cut_behind_the_last_byte_of_data_loses_nothing_but_is_said(tar_of: Callable[..., bytes], end: int) -> None:
    members, problem = scan(tar_of(TWO)[:end])
    assert [(member.name, member.cut) for member in members] == [("a.jpg", False), ("b.jpg", False)]
    assert problem is not None
    assert problem.startswith(f"ends at byte {end} without the zero blocks that close a tar")


def test_bad_checksum_keeps_what_came_before(tar_of: Callable[..., bytes]) -> None:
    content = bytearray(tar_of(TWO))
    content[1536 + 3] ^= 1
    members, problem = scan(bytes(content))
    assert [member.name for member in members] == ["a.jpg"]
    assert problem == "damaged in the header at byte 1536 (bad checksum); what follows it cannot be read"


def test_trailing_garbage(tar_of: Callable[..., bytes]) -> None:
    content = tar_of(TWO)
    members, problem = scan(content + b"garbage")
    assert len(members) == 2
    assert problem == f"7 bytes that are no tar follow its end, from byte {len(content)}"


def test_concatenated_tars_are_read_through(tar_of: Callable[..., bytes]) -> None:
    content = tar_of(TWO) + tar_of([("c.jpg", b"3")], format=tarfile.GNU_FORMAT) + tar_of([(LONG, b"4")])
    members, problem = scan(content)
    assert [(member.name, data(content, member)) for member in members] == [*TWO, ("c.jpg", b"3"), (LONG, b"4")]
    assert problem is None


def test_damage_in_the_second_of_two_concatenated_tars(tar_of: Callable[..., bytes]) -> None:
    first = tar_of(TWO)
    second = bytearray(tar_of([("c.jpg", b"3")]))
    second[0] ^= 1
    members, problem = scan(first + bytes(second))
    assert [member.name for member in members] == ["a.jpg", "b.jpg"]
    assert problem == f"damaged in the header at byte {len(first)} (bad checksum); what follows it cannot be read"


def _header(name: str, size_field: bytes, kind: bytes = b"0") -> bytes:
    """A USTAR header with any 12 bytes as its size field."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size_field
    block[156:157] = kind
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "header",
    [
        _header("a.jpg", b"\xff" * 11 + b"\x00"),  # base 256: negative
        _header("a.jpg", b"\x80" + b"\xff" * 11),  # base 256: 2^88 - 1
        _header("pax", b"77777777777\0", b"x"),  # an extended header of 8 GiB
        _header("long", b"\xff" * 11 + b"\x00", b"L"),
    ],
)
def test_hostile_sizes_end_the_scan(tar_of: Callable[..., bytes], header: bytes) -> None:
    members, problem = scan(tar_of(TWO[:1])[:1536] + header + bytes(4096))
    assert [member.name for member in members] == ["a.jpg"]
    assert problem is not None
    assert problem.startswith("damaged in the header at byte 1536 (")


def test_thousands_of_nested_long_names_end_the_scan() -> None:
    bomb = _header("long", b"00000000001\0", b"L") + b"x" + bytes(511)
    with pytest.raises(ShardError, match="first header"):
        scan(bomb * 5000 + bytes(1024))


_SMALL = io.BytesIO()
with tarfile.open(fileobj=_SMALL, mode="w", format=tarfile.PAX_FORMAT) as _tar:
    for _name in ("a.jpg", "é" * 60 + ".jpg", "c.json"):
        _info = tarfile.TarInfo(_name)
        _info.size = 600
        _tar.addfile(_info, io.BytesIO(bytes(600)))
_SMALL_TAR = _SMALL.getvalue()


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(_SMALL_TAR) - 1), st.integers(0, 255)), max_size=8),
    st.integers(0, len(_SMALL_TAR)),
    st.booleans(),
)
@example([(124, 0x80), (125, 0x7F)], len(_SMALL_TAR), True)
def test_damaged_tars_give_members_inside_the_file_or_a_shard_error(
    changes: list[tuple[int, int]], end: int, mend_checksums: bool
) -> None:
    content = bytearray(_SMALL_TAR)
    for place, value in changes:
        content[place] = value
    if mend_checksums:
        for start in range(0, len(content), 512):
            block = content[start : start + 512]
            if block[257:262] == b"ustar":
                block[148:156] = b"        "
                content[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        members, problem = scan(bytes(content[:end]))
    except ShardError:
        return
    for member in members:
        assert member.offset >= 512
        assert member.cut == (member.offset + member.size > end) or member.kind != "file"
    assert [member.cut for member in members[:-1]] == [False] * len(members[:-1])
    if members and members[-1].cut:
        assert problem is not None
