"""The sensor `new_shards`, tick by tick: what it registers, what it asks to run, and that these runs work."""

import dagster as dg
import pytest

from assets import discovery
from assets.definitions import curation, defs
from image_curation.errors import ConfigError

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def tick(graph) -> dg.SensorResult | dg.SkipReason:
    """One evaluation; what it asks for is put into effect as the daemon does."""
    context = dg.build_sensor_context(
        instance=graph.instance, definitions=defs, sensor_name="new_shards", resources={"curation": curation}
    )
    answer = discovery.new_shards(context)
    if isinstance(answer, dg.SensorResult):
        for request in answer.dynamic_partitions_requests:
            graph.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    return answer


def ranges(answer: dg.SensorResult) -> list[tuple[str, str]]:
    return [(request.tags[START], request.tags[END]) for request in answer.run_requests]


@pytest.fixture
def two_tars(graph, demo):
    demo.pack(graph.source / "2026/a.tar", demo.plain()[0])
    demo.pack(graph.source / "2026/b.tar", demo.plain()[1])
    return graph


def test_first_tick_registers_all_and_asks_for_one_run_over_them(two_tars):
    answer = tick(two_tars)
    assert two_tars.instance.get_dynamic_partitions("shards") == ["2026/a", "2026/b"]
    assert ranges(answer) == [("2026/a", "2026/b")]


def test_second_tick_skips_and_says_why(two_tars):
    tick(two_tars)
    answer = tick(two_tars)
    assert isinstance(answer, dg.SkipReason)
    assert answer.skip_message == "no new tar among the 2 in the source"


def test_new_tar_gives_one_request_for_it_alone_though_its_name_sorts_before_the_others(two_tars, demo):
    first = tick(two_tars)
    demo.pack(two_tars.source / "2025/z.tar", demo.plain()[2])
    answer = tick(two_tars)
    assert ranges(answer) == [("2025/z", "2025/z")]
    assert two_tars.instance.get_dynamic_partitions("shards") == ["2026/a", "2026/b", "2025/z"]
    assert answer.run_requests[0].run_key != first.run_requests[0].run_key


def test_tar_that_was_taken_out_and_comes_back_is_asked_for_again(two_tars, demo):
    first = tick(two_tars)
    two_tars.instance.delete_dynamic_partition("shards", "2026/a")
    two_tars.instance.delete_dynamic_partition("shards", "2026/b")
    demo.pack(two_tars.source / "2026/b.tar", *demo.plain()[1:3])
    again = tick(two_tars)
    assert ranges(again) == ranges(first)
    assert again.run_requests[0].run_key != first.run_requests[0].run_key


def test_many_new_tars_are_split_into_runs_that_cover_each_once(two_tars, demo, monkeypatch):
    monkeypatch.setattr(discovery, "SHARDS_PER_RUN", 2)
    for name in ("c", "d", "e"):
        demo.pack(two_tars.source / f"2026/{name}.tar", demo.plain()[3])
    answer = tick(two_tars)
    assert ranges(answer) == [("2026/a", "2026/b"), ("2026/c", "2026/d"), ("2026/e", "2026/e")]
    assert len({request.run_key for request in answer.run_requests}) == 3


def test_the_run_that_is_asked_for_curates_just_the_new_tar(two_tars, demo):
    tick(two_tars)
    assert two_tars.run("2026/a", "2026/b").success
    demo.pack(two_tars.source / "2026/c.tar", demo.plain()[2])
    (request,) = tick(two_tars).run_requests
    result = two_tars.run(request.tags[START], request.tags[END])
    assert result.success
    indexed = {event.partition for event in result.asset_materializations_for_node("shard_index") if event}
    assert indexed == {"2026/c"}
    (release,) = result.asset_materializations_for_node("curated_shards")
    assert release.metadata["samples"].value == 3


def test_empty_source_is_an_error_that_names_the_place(graph):
    with pytest.raises(ConfigError, match=f"there is no .tar file below {graph.source}"):
        tick(graph)
