"""Which tars are found below a source, and under which keys."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_curation import storage
from image_curation.errors import ConfigError, StorageError
from image_curation.shards.discover import discover, shard_key, shard_name


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def test_tars_at_any_depth_sorted_by_key(tmp_path: Path) -> None:
    _touch(tmp_path, "b.tar", "a/1.tar", "a.tar", "notes.txt")
    shards, ignored = discover(str(tmp_path))
    assert [shard.key for shard in shards] == ["a", "a/1", "b"]
    assert [shard.size for shard in shards] == [5, 5, 5]
    assert shards[1].url == f"{tmp_path}/a/1.tar"
    assert ignored == []


def test_hidden_files_and_folders_are_no_shards(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar", "._a.tar", ".cache/b.tar", ".tar", ".c.zip")
    shards, ignored = discover(str(tmp_path))
    assert ([shard.key for shard in shards], ignored) == (["a"], [])


def test_packed_tars_are_named_so_that_the_caller_can_warn(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar", "b.tar.gz", "c.tgz", "d.ZIP", "e.tar.zst", "f.jpg")
    assert discover(str(tmp_path))[1] == ["b.tar.gz", "c.tgz", "d.ZIP", "e.tar.zst"]


def test_single_tar_as_source(tmp_path: Path) -> None:
    _touch(tmp_path, "a.TAR", "b.tar")
    shards, _ = discover(str(tmp_path / "b.tar"))
    assert [(shard.key, shard.url, shard.size) for shard in shards] == [("b", str(tmp_path / "b.tar"), 5)]
    assert [shard.key for shard in discover(str(tmp_path / "a.TAR"))[0]] == ["a%2ETAR"]


def test_single_tar_is_the_shard_that_its_folder_lists(tmp_path: Path) -> None:
    _touch(tmp_path, "b.tar")
    assert discover(str(tmp_path / "b.tar"))[0] == discover(str(tmp_path))[0]


def test_single_tar_in_an_object_store() -> None:
    storage.write_bytes("memory://discover-single/b.tar", b"12")
    shards, _ = discover("memory://discover-single/b.tar")
    assert [(shard.key, shard.url, shard.size) for shard in shards] == [("b", "memory://discover-single/b.tar", 2)]


def test_folder_that_is_named_like_a_tar(tmp_path: Path) -> None:
    _touch(tmp_path, "x.tar/1.tar")
    assert [shard.key for shard in discover(str(tmp_path / "x.tar"))[0]] == ["1"]


def test_fingerprint_changes_with_the_content(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar")
    before = discover(str(tmp_path))[0][0].fingerprint
    (tmp_path / "a.tar").write_bytes(b"123456")
    assert discover(str(tmp_path))[0][0].fingerprint != before


def test_no_tar_names_the_place_and_the_next_step(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jpg")
    with pytest.raises(ConfigError, match=rf"no \.tar file below {tmp_path} \(1 other files\)\. Give the folder"):
        discover(str(tmp_path))


def test_only_packed_tars_say_to_unpack_them(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar.gz")
    with pytest.raises(ConfigError, match=r"a\.tar\.gz looks like a packed one\. Unpack it"):
        discover(str(tmp_path))


@pytest.mark.parametrize("missing", ["nowhere", "nowhere.tar"])
def test_missing_place(tmp_path: Path, missing: str) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        discover(str(tmp_path / missing))


def test_tars_that_differ_in_the_case_of_the_suffix_get_different_keys(tmp_path: Path) -> None:
    _touch(tmp_path, "a.tar", "a.TAR", "a.Tar")
    shards, _ = discover(str(tmp_path))
    assert [shard.key for shard in shards] == ["a", "a%2ETAR", "a%2ETar"]
    assert sorted(shard_name(shard.key) for shard in shards) == ["a.TAR", "a.Tar", "a.tar"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("00000.tar", "00000"),
        ("part-1/x_y.z.tar", "part-1/x_y.z"),
        ("100%.tar", "100%25"),
        ("a b~c.tar", "a%20b%7Ec"),
        ("Zürich.tar", "Z%C3%BCrich"),
        ("a.TAR.tar", "a.TAR"),
        ("a%2ETAR.tar", "a%252ETAR"),
    ],
)
def test_keys_by_hand(name: str, key: str) -> None:
    assert shard_key(name) == key
    assert shard_name(key) == name


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.sampled_from([".tar", ".TAR", ".tAr"]))
def test_any_name_gives_a_safe_key_and_comes_back(stem: str, suffix: str) -> None:
    key = shard_key(stem + suffix)
    assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-%")
    assert shard_name(key) == stem + suffix


def test_name_that_is_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.tar").write_bytes(b"1")
    shards, _ = discover(str(tmp_path))
    assert [shard.key for shard in shards] == ["caf%E9"]
    assert shard_name("caf%E9") == "caf\udce9.tar"
