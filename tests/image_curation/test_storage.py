"""Storage: lists, ranges and whole files on disk and in a store; a failed write leaves no trace."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest

from image_curation import storage
from image_curation.errors import StorageError


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on disk that exists, and a prefix in fsspec's memory file system, which stands in for object stores."""
    return str(tmp_path) if request.param == "disk" else f"memory://storage-test-{uuid.uuid4().hex}"


def names(folder: str) -> list[str]:
    return [file.name for file in storage.list_files(folder)]


def test_join_uses_single_slashes():
    assert storage.join("/data/", "/a/", "b.parquet") == "/data/a/b.parquet"
    assert storage.join("s3://bucket", "a/b", "c") == "s3://bucket/a/b/c"


def test_listing_is_recursive_and_sorted_by_name(place):
    for name, size in (("b/2.tar", 2), ("b.tar", 5), ("a/deep/er/1.tar", 3), ("b/10.tar", 4)):
        storage.write_bytes(storage.join(place, name), bytes(size))
    files = storage.list_files(place)
    assert [(file.name, file.size) for file in files] == [
        ("a/deep/er/1.tar", 3),
        ("b.tar", 5),
        ("b/10.tar", 4),
        ("b/2.tar", 2),
    ]
    assert [file.url for file in files] == [storage.join(place, file.name) for file in files]
    assert names(storage.join(place, "b")) == ["10.tar", "2.tar"]
    assert names(storage.join(place, "b/")) == ["10.tar", "2.tar"]


def test_fingerprint_changes_with_the_content(place):
    url = storage.join(place, "x.tar")
    storage.write_bytes(url, b"12345")
    first = storage.list_files(place)[0].fingerprint
    assert storage.list_files(place)[0].fingerprint == first
    storage.write_bytes(url, b"54321")
    assert storage.list_files(place)[0].fingerprint != first


def test_single_file_has_the_fingerprint_that_its_listing_gives(place):
    storage.write_bytes(storage.join(place, "x.tar"), b"12345")
    (listed,) = storage.list_files(place)
    assert storage.file_info(storage.join(place, "x.tar")) == listed
    assert storage.file_info(place) is None
    assert storage.file_info(storage.join(place, "absent.tar")) is None


def test_link_changes_its_fingerprint_with_what_it_leads_to(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link.tar"
    target.write_bytes(b"12345")
    link.symlink_to(target)
    first = storage.file_info(str(link))
    target.write_bytes(b"54321")
    os.utime(target, ns=(1, 1))
    second = storage.file_info(str(link))
    assert first is not None
    assert second is not None
    assert first.fingerprint != second.fingerprint


def test_links_to_files_are_listed_as_what_they_lead_to(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b").write_bytes(b"1234567")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "linked.tar").symlink_to(tmp_path / "blobs" / "0a1b")
    (tmp_path / "shards" / "nowhere.tar").symlink_to(tmp_path / "blobs" / "gone")
    (tmp_path / "shards" / "folder.tar").symlink_to(tmp_path / "blobs")
    found = storage.list_files(str(tmp_path / "shards"))
    assert [(file.name, file.size) for file in found] == [("linked.tar", 7), ("nowhere.tar", 0)]
    assert storage.read_bytes(found[0].url) == b"1234567"
    with pytest.raises(StorageError, match=r"nowhere\.tar"):
        storage.read_bytes(found[1].url)


def test_ranges_come_in_the_order_asked_and_shorter_at_the_end(place):
    url = storage.join(place, "x")
    storage.write_bytes(url, b"0123456789")
    ranges = [(7, 2), (0, 3), (8, 5), (20, 5), (4, 0), (0, 3)]
    assert storage.read_ranges(url, ranges) == [b"78", b"012", b"89", b"", b"", b"012"]
    assert storage.read_ranges(url, []) == []
    assert storage.read_bytes(url) == b"0123456789"


@pytest.fixture
def counted(monkeypatch) -> tuple[str, list[tuple[int, int]]]:
    """The URL of a file of 1,000 bytes in a store, and the ranges that the store is asked for."""
    asked: list[tuple[int, int]] = []
    store = fsspec.filesystem("memory")
    cat_file = store.cat_file

    def counting(path: str, start: int | None = None, end: int | None = None, **options: object) -> bytes:
        if start is not None:
            asked.append((start, end))
        return cat_file(path, start, end, **options)

    monkeypatch.setattr(store, "cat_file", counting)
    url = f"memory://storage-test-{uuid.uuid4().hex}/x"
    storage.write_bytes(url, bytes(i % 251 for i in range(1000)))
    return url, asked


def read_and_compare(url: str, ranges: list[tuple[int, int]]) -> None:
    content = storage.read_bytes(url)
    assert storage.read_ranges(url, ranges) == [content[offset : offset + size] for offset, size in ranges]


def test_ranges_near_each_other_are_one_request(counted, monkeypatch):
    monkeypatch.setattr(storage, "GAP_BYTES", 10)
    url, asked = counted
    read_and_compare(url, [(200, 30), (100, 50), (155, 20), (185, 15), (100, 5), (300, 0), (241, 9)])
    assert sorted(asked) == [(100, 230), (241, 250)]  # 11 bytes before 241 are too many to be read in vain


def test_run_of_ranges_is_no_longer_than_allowed_but_a_range_may_be(counted, monkeypatch):
    monkeypatch.setattr(storage, "_RUN_BYTES", 100)
    url, asked = counted
    read_and_compare(url, [(start, 40) for start in range(0, 400, 50)] + [(500, 300), (800, 100)])
    assert sorted(asked) == [(0, 90), (100, 190), (200, 290), (300, 390), (500, 800), (800, 900)]


def test_ranges_within_each_other_and_across_the_end_of_the_file(counted):
    url, asked = counted
    read_and_compare(url, [(900, 50), (910, 10), (900, 500), (950, 100), (2000, 5), (0, 0)])
    assert len(asked) == 1
    asked.clear()
    read_and_compare(url, [(5, 0), (1000, 0)])
    assert asked == []


def test_opened_file_can_be_read_from_anywhere(place):
    url = storage.join(place, "x")
    storage.write_bytes(url, bytes(range(256)) * 1000)
    with storage.open_read(url) as file:
        assert file.seek(-3, os.SEEK_END) == 255_997
        assert file.read() == bytes([253, 254, 255])
        file.seek(10)
        assert file.read(2) == bytes([10, 11])


def test_pieces_are_read_into_their_buffers_wherever_the_file_stands(place, monkeypatch):
    monkeypatch.setattr(storage, "_RUN_BYTES", 7)
    url = storage.join(place, "x")
    storage.write_bytes(url, bytes(range(100)))
    wanted = [(90, 10), (0, 3), (40, 20), (5, 0), (1, 3)]
    with storage.open_read(url) as file:
        file.seek(50)
        buffers = [bytearray(size) for _, size in wanted]
        storage.read_into(file, [(offset, memoryview(b)) for (offset, _), b in zip(wanted, buffers, strict=True)])
        assert [list(b) for b in buffers] == [list(range(offset, offset + size)) for offset, size in wanted]
        storage.read_into(file, [])
        assert file.read(1) == bytes([50])
        with pytest.raises(StorageError, match=r"cannot read .*x: EOFError: the file ends before byte 10[25]"):
            storage.read_into(file, [(95, memoryview(bytearray(10)))])


def test_written_file_appears_whole_and_only_at_the_end(place):
    url = storage.join(place, "new/folder/x.parquet")
    with storage.write_atomic(url) as file:
        file.write(b"half")
        assert not storage.exists(url)
        file.write(b" and half")
    assert storage.read_bytes(url) == b"half and half"
    assert names(place) == ["new/folder/x.parquet"]


def test_written_file_can_be_sought_while_it_is_written(place):
    url = storage.join(place, "x")
    with storage.write_atomic(url) as file:
        file.write(b"....data")
        file.seek(0)
        file.write(b"head")
    assert storage.read_bytes(url) == b"headdata"


@pytest.mark.parametrize("was_there", [False, True], ids=["new", "over an older one"])
def test_failed_write_leaves_what_was_there_and_no_temporary_file(place, was_there, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    url = storage.join(place, "a", "x")
    if was_there:
        storage.write_bytes(url, b"older")

    def fail() -> None:
        with storage.write_atomic(url) as file:
            file.write(b"newer")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert storage.exists(url) == was_there
    assert [name for name in names(place) if not name.startswith("temporary")] == (["a/x"] if was_there else [])
    assert not was_there or storage.read_bytes(url) == b"older"
    assert list(temporary.iterdir()) == []


def test_reader_that_has_begun_reads_the_older_file_to_its_end(place):
    url = storage.join(place, "x")
    storage.write_bytes(url, b"older" * 10)
    with storage.open_read(url) as file:
        first = file.read(5)
        storage.write_bytes(url, b"newer and longer" * 10)
        assert first + file.read() == b"older" * 10
    assert storage.read_bytes(url) == b"newer and longer" * 10


def test_failed_upload_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = f"memory://storage-test-{uuid.uuid4().hex}"

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionResetError("the line went dead")

    monkeypatch.setattr(fsspec.filesystem("memory"), "put_file", refuse)
    with pytest.raises(StorageError, match=r"cannot write memory://.*/x: ConnectionResetError: the line went dead"):
        storage.write_bytes(storage.join(place, "x"), b"123")
    assert names(place) == []
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_storage_error_with_the_place(tmp_path):
    """A limit on the size of files stands in for a full disk; it holds for a whole process."""
    script = (
        "import resource, sys\n"
        "from image_curation import storage\n"
        "from image_curation.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    storage.write_bytes(sys.argv[1], bytes(5000))\n"
        "except StorageError as error:\n    print(error)\n"
    )
    target = tmp_path / "x.parquet"
    result = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"cannot write {target}: [Errno 27] File too large")
    assert "Check the space" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_written_file_has_the_usual_permissions(tmp_path):
    storage.write_bytes(str(tmp_path / "x"), b"1")
    (tmp_path / "y").write_bytes(b"1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_remove_takes_files_and_folders_and_does_not_mind_what_is_not_there(place):
    for name in ("a/1", "a/b/2", "c"):
        storage.write_bytes(storage.join(place, name), b"x")
    storage.remove(storage.join(place, "a"))
    assert names(place) == ["c"]
    storage.remove(storage.join(place, "c"))
    storage.remove(storage.join(place, "c"))
    storage.remove(storage.join(place, "never/was"))
    assert names(place) == []
    assert not storage.exists(storage.join(place, "c"))


def test_foreign_errors_are_renamed_and_say_where_and_what_next(place):
    absent = storage.join(place, "absent")
    for verb, act in {
        "read": lambda: storage.read_bytes(absent),
        "read ": lambda: storage.read_ranges(absent, [(0, 1)]),
        "open": lambda: storage.open_read(absent),
    }.items():
        with pytest.raises(StorageError) as caught:
            act()
        assert str(caught.value).startswith(f"cannot {verb.strip()} {absent}: FileNotFoundError")
        assert "Check that the place exists and that the credentials in the environment allow it." in str(caught.value)
        assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_missing_folder_on_disk_is_an_error_and_a_prefix_without_objects_is_empty(tmp_path):
    with pytest.raises(StorageError, match=r"cannot list .*/absent: FileNotFoundError: there is no folder"):
        storage.list_files(str(tmp_path / "absent"))
    assert storage.list_files(f"memory://storage-test-{uuid.uuid4().hex}") == []


def test_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    with pytest.raises(StorageError, match=r"cannot write .*/x/y"):
        storage.write_bytes(str(tmp_path / "x" / "y"), b"2")


@pytest.mark.parametrize("act", [storage.list_files, storage.read_bytes, storage.exists, storage.remove])
def test_unknown_protocol(act):
    with pytest.raises(StorageError, match="cannot use 'gopher://host/x' as a place in storage: Protocol not known"):
        act("gopher://host/x")
