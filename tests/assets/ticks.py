"""The sensor and the schedule, evaluated as Dagster's daemon does it, and the runs that they ask for."""

import dagster as dg

from assets import automation
from assets.definitions import curation, defs

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def tick(graph) -> dg.SensorResult | dg.SkipReason:
    """One evaluation; what it asks for is put into effect as the daemon does."""
    with dg.build_sensor_context(  # it enters the instance, and must leave it in this test
        instance=graph.instance, definitions=defs, sensor_name="new_shards", resources={"curation": curation}
    ) as context:
        answer = automation.new_shards(context)
    if isinstance(answer, dg.SensorResult):
        for request in answer.dynamic_partitions_requests:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                graph.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
            else:
                for key in request.partition_keys:
                    graph.instance.delete_dynamic_partition(request.partitions_def_name, key)
    return answer


def ranges(answer: dg.SensorResult) -> list[tuple[str, str]]:
    return [(request.tags[START], request.tags[END]) for request in answer.run_requests]


def assets(request: dg.RunRequest) -> tuple[str, ...]:
    return tuple(key.to_user_string() for key in request.asset_selection)


def carry_out(graph, answer: dg.SensorResult) -> list[bool]:
    """Do the runs that a tick asked for; whether each succeeded."""
    keys = [(request.run_key, request) for request in answer.run_requests]
    assert len(dict(keys)) == len(keys)
    return [graph.run(tags=request.tags, only=assets(request)).success for _, request in keys]


def settle(graph) -> list[tuple[tuple[str, ...], tuple[str, str]]]:
    """Tick and run until there is nothing more to do; assets and range of each run."""
    done = []
    while isinstance(answer := tick(graph), dg.SensorResult):
        done += list(zip(map(assets, answer.run_requests), ranges(answer), strict=True))
        assert len(done) < 20
        carry_out(graph, answer)
    return done


def night(graph) -> list[dg.RunRequest] | dg.SkipReason:
    with dg.build_schedule_context(instance=graph.instance) as context:
        return automation.nightly(context, curation=curation)
