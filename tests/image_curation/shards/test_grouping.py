"""Which members make up a sample, and why the others do not."""

import io
from collections.abc import Callable

import pytest
from webdataset.tariterators import group_by_keys, tar_file_iterator

from image_curation.shards.grouping import group_members
from image_curation.shards.tar import Kind, Member


def members(*names: str, kind: Kind = "file") -> list[Member]:
    return [Member(name, 512 + 1024 * place, 9, kind, cut=False) for place, name in enumerate(names)]


def grouped(*names: str) -> dict[str, tuple[str | None, list[str]]]:
    """Key -> name of the image, fields of the sidecars."""
    samples, strays = group_members(members(*names))
    assert strays == []
    return {
        sample.key: (sample.image.member.name if sample.image else None, [part.field for part in sample.sidecars])
        for sample in samples
    }


def strays_of(*names: str) -> list[tuple[str, str]]:
    return [(stray["name"], stray["reason"]) for stray in group_members(members(*names))[1]]


def test_key_is_the_path_up_to_the_first_dot_and_field_the_rest() -> None:
    assert grouped("d.1/a.jpg", "d.1/a.seg.png", "d.1/a.json") == {"d.1/a": ("d.1/a.jpg", ["seg.png", "json"])}


def test_upper_case_extensions() -> None:
    assert grouped("A.JPG", "A.Json", "b.JPEG") == {"A": ("A.JPG", ["json"]), "b": ("b.JPEG", [])}


def test_members_that_do_not_lie_side_by_side() -> None:
    assert grouped("a.jpg", "b.jpg", "a.json", "b.json") == {"a": ("a.jpg", ["json"]), "b": ("b.jpg", ["json"])}


def test_samples_are_ordered_by_their_first_member() -> None:
    assert list(grouped("c.json", "a.jpg", "b.jpg", "c.jpg")) == ["c", "a", "b"]


def test_same_base_name_in_two_folders() -> None:
    assert list(grouped("x/a.jpg", "y/a.jpg")) == ["x/a", "y/a"]


def test_leading_dot_slash_does_not_count() -> None:
    assert grouped("./a.jpg", "a.txt", "././b//c.jpg") == {"a": ("./a.jpg", ["txt"]), "b/c": ("././b//c.jpg", [])}


def test_dotted_names_without_a_plain_image_are_keyed_by_the_last_dot() -> None:
    assert grouped("img.v1.000.jpg", "img.v1.000.json", "img.v1.001.jpg", "img.v1.001.txt") == {
        "img.v1.000": ("img.v1.000.jpg", ["json"]),
        "img.v1.001": ("img.v1.001.jpg", ["txt"]),
    }


def test_dotted_groups_are_ordered_among_the_others() -> None:
    assert list(grouped("i.v1.0.jpg", "a.jpg", "i.v1.1.jpg", "b.jpg")) == ["i.v1.0", "a", "i.v1.1", "b"]


def test_dotted_images_beside_a_plain_one_stay_sidecars() -> None:
    assert grouped("a.v1.png", "a.jpg") == {"a": ("a.jpg", ["v1.png"])}


def test_dotted_sidecars_without_any_image_are_one_sample_without_image() -> None:
    assert grouped("a.en.txt", "a.de.txt") == {"a": (None, ["en.txt", "de.txt"])}


def test_first_of_several_images_is_the_image() -> None:
    assert grouped("a.png", "a.jpg") == {"a": ("a.png", ["jpg"])}


def test_image_in_a_format_that_is_read_goes_before_one_that_is_not() -> None:
    assert grouped("a.heic", "a.jpg", "b.heic") == {"a": ("a.jpg", ["heic"]), "b": ("b.heic", [])}


def test_last_member_of_a_name_counts() -> None:
    samples, strays = group_members(members("a.jpg", "b.jpg", "./a.jpg"))
    assert [(sample.key, sample.image.member.offset) for sample in samples if sample.image] == [
        ("b", 1536),
        ("a", 2560),
    ]
    assert strays == [{"name": "a.jpg", "reason": "overridden"}]


def test_names_in_another_case_are_other_names() -> None:
    assert grouped("a.jpg", "a.JPG", "A.jpg") == {"a": ("a.jpg", ["jpg"]), "A": ("A.jpg", [])}


@pytest.mark.parametrize("name", ["._a.jpg", "d/.DS_Store", ".jpg", "__MACOSX/._a.jpg", "..."])
def test_hidden_files(name: str) -> None:
    assert strays_of(name) == [(name, "hidden_file")]


@pytest.mark.parametrize("name", ["README", "d.e/LICENSE", "a."])
def test_files_without_extension(name: str) -> None:
    assert strays_of(name) == [(name, "no_extension")]


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "a/..", "a\0.jpg"])
def test_names_that_would_escape(name: str) -> None:
    assert strays_of(name) == [(name, "unsafe_name")]


def test_two_dots_inside_a_name_are_no_escape() -> None:
    assert grouped("a..b/c..jpg") == {"a..b/c.": ("a..b/c..jpg", [])}


def test_links_and_devices_are_strays_and_folders_are_not() -> None:
    entries = members("a.jpg", kind="link") + members("b", kind="other") + members("c", kind="dir")
    assert group_members(entries) == (
        [],
        [{"name": "a.jpg", "reason": "link"}, {"name": "b", "reason": "special_file"}],
    )


def test_every_file_is_in_a_sample_or_a_stray() -> None:
    names = ["a.jpg", "a.jpg", ".x", "b", "c.v1.png", "c.json", "/d.jpg", "e.txt", "a.png"]
    samples, strays = group_members(members(*names))
    used = [part.member.name for sample in samples for part in (sample.image, *sample.sidecars) if part]
    assert sorted(used + [stray["name"] for stray in strays]) == sorted(names)


def test_keys_and_fields_agree_with_the_webdataset_library(tar_of: Callable[..., bytes]) -> None:
    names = ["a.jpg", "a.seg.PNG", "a.json", "d/e.f/b.JPG", "d/e.f/b.txt", "./c.jpg", "._c.jpg", "z/0.jpg", "z/0.cls"]
    content = tar_of([(name, b"1") for name in names])
    stream = ({**file, "__url__": "s"} for file in tar_file_iterator(io.BytesIO(content)))
    theirs = {
        sample["__key__"].removeprefix("./"): sorted(field for field in sample if not field.startswith("__"))
        for sample in group_by_keys(stream)
    }
    ours = {}
    for sample in group_members(members(*names))[0]:
        ours[sample.key] = sorted(part.field for part in (sample.image, *sample.sidecars) if part)
    assert ours == theirs
    assert list(theirs) == ["a", "d/e.f/b", "c", "z/0"]
