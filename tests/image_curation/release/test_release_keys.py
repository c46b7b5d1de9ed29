"""Keys and fields of a release."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from image_curation.release.keys import image_field, release_keys, safe_field, unique_field

names = st.text(st.sampled_from("ab01_-/. ü\u65e5"), max_size=6)
identities = st.lists(st.tuples(names, names), unique=True, max_size=30)


def test_safe_keys_stay_as_they_are():
    assert release_keys([("s", "0001"), ("s", "a/b-c_D")]) == ["0001", "a/b-c_D"]


def test_unsafe_characters_become_underscores_and_folders_stay():
    samples = [("s", "/abs/a b"), ("s", "../x"), ("s", "./.hid/0"), ("s", "v1.5/ä"), ("s", "")]
    assert release_keys(samples) == ["abs/a_b", "__/x", "_/_hid/0", "v1_5/_", "_"]


def test_all_samples_of_a_clash_get_their_shard_and_no_other_does():
    samples = [("a/0", "1"), ("a/0", "2"), ("b%201", "1"), ("b%201", "3")]
    assert release_keys(samples) == ["a/0/1", "2", "b_201/1", "3"]


def test_keys_of_one_shard_that_become_equal_get_different_suffixes():
    first, second, other = release_keys([("s", "ü"), ("s", "ä"), ("s", "b")])
    assert other == "b"
    assert re.fullmatch(r"s/_-[0-9a-f]{8}", first)
    assert re.fullmatch(r"s/_-[0-9a-f]{8}", second)
    assert first != second


def test_top_folder_that_webdataset_takes_for_metadata_is_renamed():
    assert release_keys([("s", "__meta__/1"), ("s", "..../1"), ("s", "a/__meta__/1")]) == [
        "x__meta__/1",
        "x____/1",
        "a/__meta__/1",
    ]


@given(identities)
@example([("a", "b"), ("c", "b"), ("x", "a/b")])
def test_keys_are_unique_safe_and_read_back_by_webdataset(samples):
    keys = release_keys(samples)
    assert len(set(keys)) == len(keys) == len(samples)
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", key)
        assert base_plus_ext(f"{key}.seg.png") == (key, "seg.png")


@given(identities, st.randoms())
def test_keys_do_not_depend_on_the_order_of_samples(samples, random):
    expected = dict(zip(samples, release_keys(samples), strict=True))
    shuffled = random.sample(samples, len(samples))
    assert dict(zip(shuffled, release_keys(shuffled), strict=True)) == expected


@pytest.mark.parametrize(
    ("name", "image_format", "field"),
    [
        ("a.JPG", "JPEG", "jpg"),
        ("a.jpeg", "JPEG", "jpeg"),
        ("a.v1.jpg", "PNG", "png"),
        ("a.png", "JPEG", "jpg"),
        ("d/a.tiff", "TIFF", "tiff"),
        ("a.img", "JPEG2000", "jp2"),
        ("a.xyz", None, "xyz"),
    ],
)
def test_image_field_says_what_the_image_is(name, image_format, field):
    assert image_field(name, image_format) == field


def test_fields_are_made_safe_for_index_lines_and_for_webdataset():
    assert [safe_field(field) for field in ("my mask.NPY", "__key__", "", "seg.png")] == [
        "my_mask.npy",
        "x__key__",
        "_",
        "seg.png",
    ]


def test_a_taken_field_keeps_its_last_extension():
    assert unique_field("png", {"png", "2.png"}) == "3.png"
