"""`image-curation inspect`: what is in one tar, what belongs to no sample, and what is damaged."""

import io
import os
import tarfile

import pytest


@pytest.fixture
def tar(demo, tmp_path):
    """A photograph, a text that is called a JPEG, and a file that belongs to nothing."""
    path = tmp_path / "odd.tar"
    demo.pack(path, demo.plain()[0], demo.one("text_as_image").key)
    with tarfile.open(path, "a") as out:
        out.addfile(tarfile.TarInfo("README"), io.BytesIO(b""))
    return path


def test_lists_samples_with_what_is_wrong_and_strays(cli, tar, demo):
    ran = cli("inspect", tar)
    assert ran.code == 0
    assert demo.plain()[0] in ran.out
    assert "JPEG" in ran.out
    assert "json" in ran.out
    assert "2 samples: 1 ok, 1 not_an_image\n" in ran.out
    assert "member of no sample: README (" in ran.out
    assert "damage" not in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80


def test_limit_cuts_the_list_but_not_the_counts(cli, tar, demo):
    ran = cli("inspect", tar, "--limit", "1")
    assert demo.plain()[0] in ran.out
    assert demo.one("text_as_image").key not in ran.out
    assert "2 samples: 1 ok, 1 not_an_image\n" in ran.out
    none = cli("inspect", tar, "--limit", "0")
    assert none.out.startswith("2 samples: ")


def test_brackets_in_keys_are_shown_as_they_are(cli, tmp_path):
    with tarfile.open(tmp_path / "brackets.tar", "w") as out:
        out.addfile(tarfile.TarInfo("[red]x[/].txt"), io.BytesIO(b""))
    assert "[red]x[/]" in cli("inspect", tmp_path / "brackets.tar").out


def test_tar_that_was_cut_off_says_where(cli, tar):
    os.truncate(tar, 3000)
    ran = cli("inspect", tar)
    assert ran.code == 0
    assert "damage: cut off at byte 3000, inside the data of " in ran.words
    assert "truncated_member" in ran.out


def test_garbage_is_an_error(cli, tmp_path):
    (tmp_path / "page.tar").write_bytes(b"<html>")
    ran = cli("inspect", tmp_path / "page.tar")
    assert ran.code == 1
    assert ran.err.startswith(f"error ShardError: {tmp_path}/page.tar is no tar: ")


def test_absent_tar_is_an_error(cli, tmp_path):
    ran = cli("inspect", tmp_path / "absent.tar")
    assert ran.code == 1
    assert f"{tmp_path}/absent.tar" in ran.err
    assert "Traceback" not in ran.err


def test_folder_of_many_asks_to_name_one(cli, tar, demo, tmp_path):
    demo.pack(tmp_path / "second.tar", demo.plain()[1])
    ran = cli("inspect", tmp_path)
    assert ran.code == 2
    assert "holds 2 tars; name one of them, e.g." in ran.words.replace("│ ", "")
