"""Groups of tars by bytes: closed ones never change, all are about as large, each tar is in one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_curation.shards.balance import grow
from image_curation.shards.discover import Shard


def tars(sizes: dict[str, int]) -> list[Shard]:
    return [Shard(key, f"/raw/{key}.tar", size, "1") for key, size in sizes.items()]


def test_groups_are_filled_in_order_until_they_hold_the_target():
    sizes = {"a": 4, "b": 4, "c": 4, "d": 20, "e": 1}
    assert grow([], {}, tars(sizes), target=10) == [["a", "b", "c"], ["d"], ["e"]]


def test_newcomer_goes_into_the_open_group_though_its_name_sorts_before_all():
    sizes = {"m": 10, "n": 3}
    groups = grow([], {}, tars(sizes), target=10)
    assert grow(groups, sizes, tars(sizes | {"a": 5}), target=10) == [["m"], ["n", "a"]]


def test_tar_that_is_gone_keeps_its_place_and_nobody_moves_up():
    sizes = {"a": 5, "b": 5, "c": 5}
    groups = grow([], {}, tars(sizes), target=10)
    assert grow(groups, sizes, tars({"b": 5, "c": 5, "d": 5}), target=10) == [["a", "b"], ["c", "d"]]


def test_target_of_nothing_is_refused():
    with pytest.raises(ValueError, match="target=0 should be >= 1 byte"):
        grow([], {}, [], target=0)


arrivals = st.lists(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 50), max_size=8), max_size=6
)


@given(arrivals, st.integers(1, 60))
def test_growth_changes_no_closed_group_and_keeps_all_balanced(days, target):
    sizes: dict[str, int] = {}
    groups: list[list[str]] = []
    for new in days:
        before, known = groups, dict(sizes)
        sizes = new | sizes
        groups = grow(before, known, tars(sizes), target)
        closed = [group for group in before if sum(known[key] for key in group) >= target]
        assert groups[: len(closed)] == closed
        assert all(after[: len(group)] == group for group, after in zip(before, groups, strict=False))
        placed = [key for group in groups for key in group]
        assert sorted(placed) == sorted(sizes)
        for group in groups[:-1]:
            assert target <= sum(sizes[key] for key in group) < target + sizes[group[-1]] or sizes[group[-1]] == 0
            assert sum(sizes[key] for key in group[:-1]) < target


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 50), min_size=1), st.integers(1, 60))
def test_groups_are_as_few_as_their_size_allows(sizes, target):
    groups = grow([], {}, tars(sizes), target)
    assert len(groups) <= 1 + sum(sizes.values()) // target
