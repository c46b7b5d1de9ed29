"""Which sample goes into which output shard."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_curation.errors import ConfigError, ReleaseError
from image_curation.release.content import rows_hash
from image_curation.release.plan import plan_release, plan_shards


def table(keys: list[str], size: int = 1000, **columns: list) -> pa.Table:
    """Rows of one source shard with images of equal size and content hashes made up from their keys."""
    n = len(keys)
    sidecars = pa.array(
        [[]] * n,
        pa.list_(
            pa.struct([("name", pa.string()), ("field", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
        ),
    )
    sha256 = [f"{np.random.default_rng(list(key.encode())).integers(2**62):064x}"[::-1] for key in keys]
    return pa.table(
        {
            "shard": ["s"] * n,
            "key": keys,
            "url": ["/s.tar"] * n,
            "image_name": [f"{key}.jpg" for key in keys],
            "image_offset": pa.array([512 * i for i in range(n)], pa.int64()),
            "image_size": pa.array([size] * n, pa.int64()),
            "sidecars": sidecars,
            "caption": pa.array([None] * n, pa.string()),
            "format": ["JPEG"] * n,
            "width": pa.array([8] * n, pa.int32()),
            "height": pa.array([8] * n, pa.int32()),
            "sha256": pa.array(sha256, pa.string()),
            **columns,
        }
    )


def lengths(ranges: list[range]) -> list[int]:
    return [len(part) for part in ranges]


def test_three_samples_too_many_make_even_shards_and_no_tiny_one():
    assert lengths(plan_release([1] * 2003, 1000, 10**9)) == [668, 668, 667]


def test_more_than_eight_shards_are_full_but_for_the_last_eight_which_are_even():
    assert lengths(plan_release([1] * 10_003, 1000, 10**9)) == [1000, 1000, 1000, *[876] * 3, *[875] * 5]


def test_bytes_are_even_where_they_are_the_tighter_limit():
    assert plan_release([60, 10, 10, 10, 10, 10, 10], 100, 100) == [range(0, 1), range(1, 7)]
    assert plan_release([10] * 11, 100, 100) == [range(0, 6), range(6, 11)]


def test_a_sample_above_the_limit_has_a_shard_to_itself():
    assert plan_release([1, 500, 1], 10, 100) == [range(0, 1), range(1, 2), range(2, 3)]


@pytest.mark.parametrize("smallest", ["early", "late"])
def test_anchors_never_make_a_shard_larger_than_its_limit(smallest):
    """Two shards of exactly 160 leave no choice, wherever the smallest anchors lie; at 150 there are nine to a side."""
    anchors = np.arange(320) if smallest == "early" else np.arange(320)[::-1]
    assert lengths(plan_release([1] * 320, 160, 10**9, anchors)) == [160, 160]
    first = {"early": 150 - 9, "late": 150 + 9}[smallest]
    assert lengths(plan_release([1] * 300, 160, 10**9, anchors[:300])) == [first, 300 - first]


def test_nothing_makes_no_shards():
    assert plan_release([], 10, 10) == []


@pytest.mark.parametrize("limits", [(0, 10), (10, 0), (-1, 10)])
def test_limits_below_one_are_refused(limits):
    with pytest.raises(ConfigError, match=r"should be >= 1"):
        plan_release([1], *limits)


@given(
    st.lists(st.integers(0, 120), max_size=300),
    st.integers(1, 40),
    st.integers(1, 400),
    st.booleans(),
    st.randoms(use_true_random=False),
)
@settings(max_examples=300)
def test_each_sample_is_in_one_range_within_the_limits(sizes, max_samples, max_bytes, anchored, random):
    anchors = np.array([random.randrange(1 << 60) for _ in sizes], dtype=np.int64) if anchored else None
    ranges = plan_release(sizes, max_samples, max_bytes, anchors)
    assert [i for part in ranges for i in part] == list(range(len(sizes)))
    for part in ranges:
        assert 1 <= len(part) <= max_samples
        assert sum(sizes[part.start : part.stop]) <= max_bytes or len(part) == 1


@given(st.integers(1, 3000), st.integers(16, 200), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=100)
def test_shards_are_even_to_an_eighth(n, max_samples, anchored, seed):
    anchors = np.random.default_rng(seed).integers(0, 1 << 60, n) if anchored else None
    counts = lengths(plan_release([1] * n, max_samples, 10**9, anchors))
    assert len(counts) >= -(-n // max_samples)
    if anchored:
        assert min(counts) >= max(counts) * 0.75 - 2
    else:
        assert min(counts) >= max(counts) * 7 // 8 - 1


def shards_kept(before: list[int], after: list[int], max_samples: int) -> tuple[int, int]:
    """How many shards the plans of two lists of samples (by number) have in common, and how many the second has."""
    anchor = np.random.default_rng(0).integers(0, 1 << 60, 20_000)
    plans = [
        {
            tuple(samples[part.start : part.stop])
            for part in plan_release([1] * len(samples), max_samples, 10**9, anchor[samples])
        }
        for samples in (before, after)
    ]
    return len(plans[0] & plans[1]), len(plans[1])


def test_a_dropped_sample_changes_its_own_shard_and_few_others():
    """Each 97th sample dropped alone: mostly 1 of 43 shards differs; cuts at even places would change nearly all."""
    samples = list(range(8_000))
    differ = []
    for dropped in range(0, 8_000, 97):
        kept, shards = shards_kept(samples, [i for i in samples if i != dropped], 200)
        differ.append(shards - kept)
    assert np.median(differ) == 1
    assert np.mean(differ) < 6


def test_samples_appended_at_the_end_change_only_the_last_eight_shards_and_new_ones():
    kept, shards = shards_kept(list(range(10_000)), list(range(10_500)), 200)
    assert shards - kept <= 8 + -(-500 // 175)
    assert kept > 40


def test_plans_can_be_sent_to_workers():
    plans = plan_shards(table(["a", "b", "c"]), 2, 10**9, "c")
    assert pickle.loads(pickle.dumps(plans)) == plans  # noqa: S301 - our own bytes


def test_plan_covers_all_rows_with_their_keys_and_different_hashes():
    rows = table([f"{i:03d}" for i in range(30)])
    plans = plan_shards(rows, 7, 10**9, "c")
    assert [len(plan.rows) for plan in plans] == [6, 6, 6, 6, 6]
    assert [key for plan in plans for key in plan.keys] == rows["key"].to_pylist()
    assert [plan.slice(rows)["key"].to_pylist() for plan in plans] == [list(plan.keys) for plan in plans]
    assert len({plan.plan_hash for plan in plans}) == 5
    assert [plan.name for plan in plans] == [f"shard-{i:06d}-{plan.plan_hash[:8]}" for i, plan in enumerate(plans)]


def test_max_bytes_counts_headers_and_padding_of_image_and_json():
    rows = table(["a", "b", "c", "d"], size=1)  # 1024 for the image and 1536 for our JSON, each with its header
    assert [len(plan.rows) for plan in plan_shards(rows, 100, 2 * 2560, "c")] == [2, 2]
    assert [len(plan.rows) for plan in plan_shards(rows, 100, 2 * 2560 - 1, "c")] == [1, 1, 1, 1]


def test_max_bytes_counts_sidecars_of_the_right_rows():
    rows = table(["a", "b", "c", "d"], size=1)
    sidecar = {"name": "c.npy", "field": "npy", "offset": 0, "size": 10_000}
    lists = pa.array([None, [], [sidecar, sidecar], None], rows.schema.field("sidecars").type)
    rows = rows.set_column(rows.schema.get_field_index("sidecars"), "sidecars", lists)
    assert [plan.rows for plan in plan_shards(rows, 100, 20_000, "c")] == [range(0, 2), range(2, 3), range(3, 4)]


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 30_000))
@settings(max_examples=60, deadline=None)
def test_plan_shards_covers_each_row_once_within_the_limits(numbers, max_samples, max_bytes):
    rows = table(sorted(f"{i:07d}" for i in numbers))
    plans = plan_shards(rows, max_samples, max_bytes, "c")
    assert [i for plan in plans for i in plan.rows] == list(range(len(rows)))
    assert all(len(plan.rows) <= max_samples for plan in plans)
    assert all(len(plan.rows) * (512 + 1024 + 1536) <= max_bytes or len(plan.rows) == 1 for plan in plans)


def test_moving_the_source_or_rechunking_changes_no_plan_but_a_score_changes_that_of_its_shard():
    rows = table([f"{i:02d}" for i in range(20)], aesthetic=[float(i) for i in range(20)])
    plans = plan_shards(rows, 5, 10**9, "c")
    assert len(plans) == 4
    moved = rows.set_column(rows.schema.get_field_index("url"), "url", pa.array(["s3://elsewhere/s.tar"] * 20))
    assert plan_shards(moved, 5, 10**9, "c") == plans
    rechunked = pa.concat_tables([rows.slice(0, 3), rows.slice(3)])
    assert plan_shards(rechunked, 5, 10**9, "c") == plans
    changed = rows.set_column(
        rows.schema.get_field_index("aesthetic"),
        "aesthetic",
        pa.array([float(i) if i != 7 else 0.5 for i in range(20)]),
    )
    assert [a == b for a, b in zip(plan_shards(changed, 5, 10**9, "c"), plans, strict=True)] == [
        True,
        False,
        True,
        True,
    ]
    assert all(a.plan_hash != b.plan_hash for a, b in zip(plan_shards(rows, 5, 10**9, "d"), plans, strict=True))


def test_a_new_shard_with_the_same_key_changes_the_plan_of_the_old_sample_with_it():
    """Its row is the same, but its key in the release gets its shard before it."""
    old = table(["a", "b"])
    new = table(["b"])
    new = new.set_column(0, "shard", pa.array(["t"]))
    before, after = plan_shards(old, 1, 10**9, "c"), plan_shards(pa.concat_tables([old, new]), 1, 10**9, "c")
    assert [plan.keys for plan in after] == [("a",), ("s/b",), ("t/b",)]
    assert after[0] == before[0]
    assert after[1].plan_hash != before[1].plan_hash


def test_hash_of_equal_slices_is_equal_whatever_lies_below_nulls():
    values = pa.array([9.0, 1.0, 2.0, 3.0])
    under_null = pa.Array.from_buffers(pa.float64(), 4, [pa.py_buffer(bytes([0b1011])), values.buffers()[1]])
    plain = pa.array([9.0, 1.0, None, 3.0])
    assert under_null.to_pylist() == plain.to_pylist()
    assert rows_hash(pa.table({"x": under_null}).slice(1)) == rows_hash(pa.table({"x": plain}).slice(1))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array(["ab", "c"]), pa.array(["a", "bc"])),
        (pa.array([None, "a"]), pa.array(["a", None])),
        (pa.array([[1], []]), pa.array([[], [1]])),
        (pa.array([[1, None]]), pa.array([[None, 1]])),
        (pa.array([{"a": 1}]), pa.array([{"b": 1}])),
        (pa.array([0], pa.int32()), pa.array([0], pa.int64())),
        (pa.array([True, False]), pa.array([False, True])),
        (pa.array([[1, 2]], pa.list_(pa.float16(), 2)), pa.array([[2, 1]], pa.list_(pa.float16(), 2))),
        (pa.array([None]), pa.array([None], pa.string())),
    ],
)
def test_hash_tells_different_rows_apart(one, other):
    assert rows_hash(pa.table({"x": one})) != rows_hash(pa.table({"x": other}))
    assert rows_hash(pa.table({"x": one}), "a") != rows_hash(pa.table({"x": one}))


def test_rows_out_of_order_or_twice_are_refused():
    with pytest.raises(ReleaseError, match=r"\('s', 'a'\) comes after \('s', 'b'\)"):
        plan_shards(table(["b", "a"]), 5, 10**9, "c")
    with pytest.raises(ReleaseError, match=r"each once"):
        plan_shards(table(["a", "a"]), 5, 10**9, "c")


def test_a_kept_sample_without_an_image_is_refused_by_name():
    rows = table(["a", "b"])
    broken = rows.set_column(rows.schema.get_field_index("sha256"), "sha256", pa.array(["0" * 64, None]))
    with pytest.raises(ReleaseError, match=r"shard s, sample b: it is kept, but has no sha256"):
        plan_shards(broken, 5, 10**9, "c")


def test_columns_are_checked_at_the_door():
    with pytest.raises(ConfigError, match=r"lack the columns sha256"):
        plan_shards(table(["a"]).drop_columns(["sha256"]), 5, 10**9, "c")
    with pytest.raises(ConfigError, match=r"column release_key has a name"):
        plan_shards(table(["a"], release_key=["x"]), 5, 10**9, "c")
    with pytest.raises(ConfigError, match=r"column when is timestamp"):
        plan_shards(table(["a"], when=pa.array([0], pa.timestamp("s"))), 5, 10**9, "c")
