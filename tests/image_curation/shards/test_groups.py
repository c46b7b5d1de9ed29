"""Groups that are remembered: a tar stays in its group, and a group changes with the tars that it has."""

import pytest

from image_curation import storage
from image_curation.shards.discover import Shard
from image_curation.shards.groups import group_tars, remembered_groups


def tars(**sizes: int) -> list[Shard]:
    return [Shard(key, f"/raw/{key}.tar", size, f"{size}-1") for key, size in sizes.items()]


@pytest.fixture
def url(tmp_path) -> str:
    return str(tmp_path / "groups.parquet")


def keys(groups) -> dict[str, list[str]]:
    return {group.key: [tar.key for tar in group.tars] for group in groups}


def test_newcomers_go_to_the_end_and_closed_groups_stay_as_they_are(url):
    first = group_tars(url, tars(b=5, c=5, d=5), 10)
    assert keys(first) == {"group-000000": ["b", "c"], "group-000001": ["d"]}
    second = group_tars(url, tars(a=5, b=5, c=5, d=5, e=5), 10)
    assert keys(second) == {"group-000000": ["b", "c"], "group-000001": ["a", "d"], "group-000002": ["e"]}
    assert second[0] == first[0]
    assert second[1].fingerprint != first[1].fingerprint


def test_changed_tar_changes_its_group_alone_and_stays_in_it(url):
    before = group_tars(url, tars(a=5, b=5, c=5), 10)
    after = group_tars(url, tars(a=5, b=99, c=5), 10)
    assert keys(after) == keys(before)
    assert [one.fingerprint == other.fingerprint for one, other in zip(before, after, strict=True)] == [False, True]


def test_tar_that_is_gone_holds_its_place_and_comes_back_to_it(url):
    whole = group_tars(url, tars(a=5, b=5, c=5), 10)
    assert keys(group_tars(url, tars(b=5, c=5), 10)) == {"group-000000": ["b"], "group-000001": ["c"]}
    assert keys(group_tars(url, tars(c=5), 10)) == {"group-000001": ["c"]}
    assert group_tars(url, tars(a=5, b=5, c=5), 10) == whole


def test_groups_are_remembered_as_listed_last_and_not_written_again_for_the_same(url):
    listed = group_tars(url, tars(a=5, b=5, c=5), 10)
    assert remembered_groups(url) == listed
    written = storage.file_info(url)
    group_tars(url, tars(a=5, b=5, c=5), 10)
    assert storage.file_info(url) == written


def test_another_size_of_groups_is_for_newcomers_only(url):
    group_tars(url, tars(a=5, b=5, c=5), 10)
    assert keys(group_tars(url, tars(a=5, b=5, c=5, d=5, e=5, f=5), 15)) == {
        "group-000000": ["a", "b"],
        "group-000001": ["c", "d", "e"],
        "group-000002": ["f"],
    }


def test_nothing_is_remembered_before_the_first_listing(url):
    assert remembered_groups(url) == []
