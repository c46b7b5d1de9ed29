"""Late decisions in the graph: a newcomer changes another shard, and a new policy runs no model."""

import dagster as dg
import pyarrow.parquet as pq
import pytest

from image_curation.artifacts import read_table


def materialized(graph, result: dg.ExecuteInProcessResult) -> dict[str, set[str | None]]:
    """asset -> partitions that this run reported."""
    found: dict[str, set[str | None]] = {}
    for entry in graph.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        one = entry.asset_materialization
        found.setdefault(one.asset_key.to_user_string(), set()).add(one.partition)
    return found


def decisions(graph, shard: str) -> dict[str, tuple[str, str | None]]:
    """key -> decision and reason."""
    rows = read_table(graph.project.selection_url(shard), ["key", "decision", "reason"]).to_pylist()
    return {row["key"]: (row["decision"], row["reason"]) for row in rows}


@pytest.fixture
def old_and_bystander(graph, demo):
    """Shard `old` holds small copies of two photographs, `bystander` others; both were curated."""
    (small, _), (second, _) = demo.twins("resized")[:2]
    demo.pack(graph.source / "bystander.tar", *demo.plain()[:2])
    demo.pack(graph.source / "old.tar", small, second)
    graph.prepare("bystander", "old")
    assert decisions(graph, "old") == {small: ("kept", None), second: ("kept", None)}
    return graph


def test_newcomer_that_beats_an_old_image_reports_the_old_shard_too_and_no_other(old_and_bystander, demo):
    graph = old_and_bystander
    small, original = demo.twins("resized")[0]
    demo.pack(graph.source / "new.tar", original)
    graph.register("new")

    result = graph.run("new")

    assert result.success
    assert materialized(graph, result)["embeddings"] == {"new"}
    assert materialized(graph, result)["selection"] == {"new", "old"}
    assert decisions(graph, "old")[small] in {("dropped", f"duplicate_{how}") for how in ("perceptual", "semantic")}
    assert decisions(graph, "new") == {original: ("kept", None)}
    latest = graph.instance.get_latest_materialization_event(dg.AssetKey("selection")).asset_materialization
    assert latest.partition in ("new", "old")
    assert materialized(graph, result)["duplicate_groups"] == {"new", "old"}
    (report,) = [
        entry.asset_materialization
        for entry in graph.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        if entry.asset_materialization.partition == "old"
        and entry.asset_materialization.asset_key.path == ["selection"]
    ]
    assert report.metadata["ledger"].value == "2 read = 1 kept + 1 dropped + 0 failed"
    assert report.tags["dagster/data_version"]


def test_newcomer_without_a_twin_reports_its_own_shard_alone(old_and_bystander, demo):
    graph = old_and_bystander
    demo.pack(graph.source / "new.tar", *demo.plain()[8:10])
    graph.register("new")
    result = graph.run("new")
    assert result.success
    assert materialized(graph, result)["selection"] == {"new"}


def test_new_policy_decides_anew_and_runs_no_model(graph, demo, monkeypatch):
    keys = demo.plain()[:6]
    demo.pack(graph.source / "only.tar", *keys)
    graph.prepare("only")
    before = {path: path.stat().st_mtime_ns for path in graph.root.rglob("*.parquet")}
    sides = read_table(graph.project.embeddings_url("only"), ["key", "width", "height"]).to_pylist()
    short = sorted(min(row["width"], row["height"]) for row in sides)
    limit = short[3]
    assert short[0] < limit
    (graph.root.parent / "policy.yaml").write_text(f"image: {{min_short_side: {limit}}}\n")
    monkeypatch.setenv("IMAGE_CURATION_POLICY", str(graph.root.parent / "policy.yaml"))
    small = {row["key"] for row in sides if min(row["width"], row["height"]) < limit}

    result = graph.run("only", only=["selection", "curated_shards", "curation_report"])

    assert result.success
    assert set(materialized(graph, result)) == {"selection", "curated_shards", "curation_report"}
    expected = {key: ("dropped", "low_resolution") if key in small else ("kept", None) for key in keys}
    assert decisions(graph, "only") == expected
    (release,) = result.asset_materializations_for_node("curated_shards")
    assert release.metadata["samples"].value == 6 - len(small) > 0
    assert f"{6 - len(small)} kept + {len(small)} dropped" in release.metadata["ledger"].value
    rewritten = {path.relative_to(graph.root).parts[0] for path, at in before.items() if _changed(path, at)}
    assert rewritten == {"selection", "release"}
    assert {check.passed for check in result.get_asset_check_evaluations()} == {True}


def _changed(path, at: int) -> bool:
    return not path.exists() or path.stat().st_mtime_ns != at


def test_policy_that_is_wrong_stops_selection_with_the_key_and_what_is_allowed(graph, demo, monkeypatch):
    demo.pack(graph.source / "only.tar", demo.plain()[0])
    graph.prepare("only")
    (graph.root.parent / "policy.yaml").write_text("image: {min_shortside: 9}\n")
    monkeypatch.setenv("IMAGE_CURATION_POLICY", str(graph.root.parent / "policy.yaml"))
    result = graph.run("only", only=["selection"])
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    cause = failed.step_failure_data.error.cause
    assert cause.cls_name == "ConfigError"
    assert "image.min_shortside: there is no such key. Allowed here: min_short_side, " in cause.message


def test_new_known_set_runs_its_comparison_and_what_follows_and_selection_does_not_go_before_it(
    graph, demo, monkeypatch
):
    keys = demo.plain()[:4]
    demo.pack(graph.source / "only.tar", *keys)
    graph.prepare("only")
    vectors = read_table(graph.project.embeddings_url("only"), ["key", "vector"])
    pq.write_table(vectors.slice(1, 1).replace_schema_metadata(None), graph.root.parent / "val.parquet")
    (graph.root.parent / "policy.yaml").write_text("known: {evaluation: [val]}\n")
    monkeypatch.setenv("IMAGE_CURATION_POLICY", str(graph.root.parent / "policy.yaml"))
    monkeypatch.setenv("IMAGE_CURATION_KNOWN_SETS", f'{{"val": "{graph.root.parent / "val.parquet"}"}}')
    before = {path: path.stat().st_mtime_ns for path in graph.root.rglob("*.parquet")}

    assert not graph.run("only", only=["selection"]).success
    result = graph.run("only", only=["known_matches", "selection", "curated_shards", "curation_report"])

    assert result.success
    (known,) = result.asset_materializations_for_node("known_matches")
    assert known.metadata["sets"].value == 1
    assert "| val | 1 |" in known.metadata["samples_that_match"].value
    dropped = {key for key, fate in decisions(graph, "only").items() if fate == ("dropped", "contaminated")}
    assert dropped == {vectors["key"][1].as_py()}
    rewritten = {path.relative_to(graph.root).parts[0] for path, at in before.items() if _changed(path, at)}
    assert rewritten == {"selection", "release"}
    assert {check.passed for check in result.get_asset_check_evaluations()} == {True}
