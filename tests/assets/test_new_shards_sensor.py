"""The sensor `new_shards`, tick by tick: what it registers, what it asks to run, and what comes of runs that fail."""

import os

import dagster as dg
import pytest

from assets import automation, tars
from assets.automation import DECISIONS, TRIES
from assets.versions import SAMPLES
from image_curation.errors import ConfigError
from tests.assets.ticks import START, assets, carry_out, night, ranges, settle, tick


@pytest.fixture
def two_tars(graph, demo):
    demo.pack(graph.source / "2026/a.tar", demo.plain()[0])
    demo.pack(graph.source / "2026/b.tar", demo.plain()[1])
    return graph


@pytest.fixture
def curated(two_tars):
    settle(two_tars)
    return two_tars


def test_first_tick_registers_all_and_asks_for_one_run_over_them(two_tars):
    answer = tick(two_tars)
    assert two_tars.instance.get_dynamic_partitions("shards") == ["2026/a", "2026/b"]
    assert ranges(answer) == [("2026/a", "2026/b")]
    assert assets(answer.run_requests[0]) == SAMPLES


def test_shards_first_then_one_release_then_nothing(two_tars):
    assert settle(two_tars) == [(SAMPLES, ("2026/a", "2026/b")), (DECISIONS, ("2026/a", "2026/a"))]
    assert two_tars.done("selection") == {"2026/a", "2026/b"}
    assert tick(two_tars).skip_message == "nothing new among the 2 tars in the source"


def test_unchanged_source_costs_one_listing_and_one_look_at_the_last_release(curated, monkeypatch):
    listed, discover = [], tars.discover
    monkeypatch.setattr(tars, "discover", lambda source: listed.append(source) or discover(source))
    monkeypatch.setattr(automation, "known", lambda *_: pytest.fail("asks Dagster for every shard"))
    assert isinstance(tick(curated), dg.SkipReason)
    assert listed == [str(curated.source)]


def test_new_tar_gives_one_request_for_it_alone_though_its_name_sorts_before_the_others(curated, demo):
    demo.pack(curated.source / "2025/z.tar", demo.plain()[2])
    assert settle(curated) == [(SAMPLES, ("2025/z", "2025/z")), (DECISIONS, ("2025/z", "2025/z"))]
    assert curated.instance.get_dynamic_partitions("shards") == ["2026/a", "2026/b", "2025/z"]
    assert curated.released()["read"] == 3


def test_changed_tar_runs_its_own_partition_alone_and_a_new_release(curated, demo):
    demo.pack(curated.source / "2026/b.tar", *demo.plain()[1:4])
    done = settle(curated)
    assert done == [(SAMPLES, ("2026/b", "2026/b")), (DECISIONS, ("2026/a", "2026/a"))]
    assert curated.released()["read"] == 4


def test_removed_tar_leaves_partitions_selection_and_release(curated):
    os.remove(curated.source / "2026/a.tar")
    assert settle(curated) == [(DECISIONS, ("2026/b", "2026/b"))]
    assert curated.instance.get_dynamic_partitions("shards") == ["2026/b"]
    assert curated.released()["read"] == 1
    assert [path.stem for path in (curated.root / "selection").rglob("*.parquet")] == ["b"]


def test_tar_that_was_taken_out_and_comes_back_as_it_was_is_not_made_again(curated):
    content, times = (curated.source / "2026/a.tar").read_bytes(), (curated.source / "2026/a.tar").stat()
    os.remove(curated.source / "2026/a.tar")
    settle(curated)
    (curated.source / "2026/a.tar").write_bytes(content)
    os.utime(curated.source / "2026/a.tar", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [asked for asked, _ in settle(curated)] == [DECISIONS]
    assert curated.released()["read"] == 2


def test_many_new_tars_are_split_into_runs_that_cover_each_once(two_tars, demo, monkeypatch):
    monkeypatch.setattr(automation, "SHARDS_PER_RUN", 2)
    for name in ("c", "d", "e"):
        demo.pack(two_tars.source / f"2026/{name}.tar", demo.plain()[3])
    answer = tick(two_tars)
    assert ranges(answer) == [("2026/a", "2026/b"), ("2026/c", "2026/d"), ("2026/e", "2026/e")]
    assert len({request.run_key for request in answer.run_requests}) == 3


def test_more_runs_than_a_tick_may_ask_for_come_with_the_next(two_tars, monkeypatch):
    monkeypatch.setattr(automation, "SHARDS_PER_RUN", 1)
    monkeypatch.setattr(automation, "RUNS_PER_TICK", 1)
    first = tick(two_tars)
    assert ranges(first) == [("2026/a", "2026/a")]
    carry_out(two_tars, first)
    assert ranges(tick(two_tars)) == [("2026/b", "2026/b")]


@pytest.fixture
def in_the_way(two_tars):
    """A folder where the embeddings of one shard would be written: this shard fails, and no other."""
    folder = two_tars.root / "embeddings" / "embedded" / "2026" / "b.parquet"
    folder.mkdir(parents=True)
    return folder


def test_failed_run_is_tried_again_a_few_times_and_the_others_go_on_without_it(two_tars, in_the_way):
    first, *rest = settle(two_tars)
    assert first == (SAMPLES, ("2026/a", "2026/b"))
    assert rest.count((SAMPLES[1:], ("2026/b", "2026/b"))) == TRIES
    assert rest.count((SAMPLES[2:], ("2026/a", "2026/a"))) == 1
    assert rest.count((DECISIONS, ("2026/a", "2026/a"))) == 1
    assert len(rest) == TRIES + 2
    assert two_tars.released()["read"] == 1
    said = tick(two_tars).skip_message
    assert said.startswith(f"1 of the 2 tars in the source failed {TRIES} times: 2026/b. They are tried again when")


def test_tar_that_failed_too_often_is_taken_up_when_it_changes(two_tars, in_the_way, demo):
    settle(two_tars)
    in_the_way.rmdir()
    assert isinstance(tick(two_tars), dg.SkipReason)
    demo.pack(two_tars.source / "2026/b.tar", *demo.plain()[1:4])
    assert settle(two_tars)[-1][0] == DECISIONS
    assert two_tars.released()["read"] == 4


def test_night_takes_up_what_failed_too_often_and_releases_after_it(two_tars, in_the_way):
    settle(two_tars)
    in_the_way.rmdir()
    requests = night(two_tars)
    assert [assets(request) for request in requests] == [SAMPLES[1:], DECISIONS]
    assert int(requests[-1].tags["dagster/priority"]) < 0
    for request in requests:
        assert two_tars.run(tags=request.tags, only=assets(request)).success
    assert two_tars.released()["read"] == 2
    assert night(two_tars).skip_message == "nothing new among the 2 tars in the source"


def test_night_registers_and_forgets_by_itself(curated, demo):
    os.remove(curated.source / "2026/a.tar")
    demo.pack(curated.source / "2026/c.tar", demo.plain()[5])
    requests = night(curated)
    assert curated.instance.get_dynamic_partitions("shards") == ["2026/b", "2026/c"]
    assert [(assets(request), request.tags[START]) for request in requests] == [
        (SAMPLES, "2026/c"),
        (DECISIONS, "2026/b"),
    ]


def test_night_decides_anew_under_a_new_policy_and_the_sensor_does_not(curated, monkeypatch):
    policy = curated.root.parent / "policy.yaml"
    policy.write_text("image: {min_short_side: 5000}\n")
    monkeypatch.setenv("IMAGE_CURATION_POLICY", str(policy))
    assert isinstance(tick(curated), dg.SkipReason)
    (request,) = night(curated)
    assert assets(request) == DECISIONS
    assert curated.run(tags=request.tags, only=assets(request)).success
    assert curated.released()["kept"] == 0
    assert isinstance(night(curated), dg.SkipReason)


def test_empty_source_is_an_error_that_names_the_place(graph):
    with pytest.raises(ConfigError, match=f"there is no .tar file below {graph.source}"):
        tick(graph)
