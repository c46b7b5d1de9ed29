"""Known images end to end on the demo: what is blocked, contaminated or there already goes, is counted, and no more."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from image_curation.artifacts import read_table

EVALUATION = "known: {evaluation: [val]}\n"


@pytest.fixture
def root(tmp_path, demo) -> Path:
    """A copy of the demo's root, with hard links: nothing in it is written in place."""
    copy = tmp_path / "curated"
    for path in demo.root.rglob("*"):
        target = copy / path.relative_to(demo.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            os.link(path, target)
    return copy


def image(demo, sample) -> dict[str, object]:
    """What is known of one of the demo's samples: sha256, phash, vector."""
    index = read_table(demo.project.index_url(sample.shard), ["key", "sha256"])
    table = read_table(demo.project.embeddings_url(sample.shard), ["key", "phash", "vector"])
    table = table.append_column("sha256", index["sha256"])
    return table.filter(pc.equal(table["key"], sample.key)).to_pylist()[0]


def write_set(path: Path, rows: list[dict[str, object]]) -> Path:
    """A Parquet of keys and vectors."""
    vector = pa.list_(pa.float32(), len(rows[0]["vector"]))
    schema = pa.schema([("key", pa.string()), ("vector", vector)])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def twins(demo, sample) -> set[tuple[str, str]]:
    """A sample and those that were made of it."""
    return {(s.shard, s.key) for s in demo.samples if s.key == sample.key or s.of == sample.key}


def fates(workshop, project) -> dict[tuple[str, str], tuple[str, str | None]]:
    return {name: (row["decision"], row["reason"]) for name, row in workshop.decisions(project).items()}


def rewritten(root: Path, before: dict[str, int], workshop) -> set[str]:
    return {name.split("/")[0] for name, at in workshop.times(root).items() if before.get(name) != at}


def originals(demo, planted: str) -> list:
    keys = [s.of for s in demo.samples if s.planted == planted and s.of]
    return [s for key in keys for s in demo.samples if s.key == key]


def test_decontamination_drops_two_images_and_their_near_copies_and_no_more(demo, root, tmp_path, workshop):
    first, second = originals(demo, "exact")[0], originals(demo, "resized")[-1]
    val = write_set(tmp_path / "val.parquet", [{**image(demo, s), "key": f"val-{s.key}"} for s in (first, second)])
    before = workshop.times(root)
    project = workshop.project(demo.raw, root, EVALUATION, known_sets={"val": str(val)})

    result = workshop.run(project)

    assert result.failed_shards == {}
    old, new = fates(workshop, demo.project), fates(workshop, project)
    gone = {name for name, (_, reason) in new.items() if reason == "contaminated"}
    assert twins(demo, first) | twins(demo, second) <= gone | {n for n, (fate, _) in new.items() if fate == "failed"}
    assert {name: fate for name, fate in new.items() if name not in gone} == {
        name: fate for name, fate in old.items() if name not in gone
    }
    assert gone <= twins(demo, first) | twins(demo, second)
    assert result.ledger.dropped["contaminated"] == len(gone) >= 4
    assert result.ledger.adds_up
    detail = workshop.decisions(project)[first.shard, first.key]["detail"]
    assert detail == f"nearly the same content as val-{first.key} (cosine 1.0000) in the evaluation set val"
    assert rewritten(root, before, workshop) == {"known_matches", "selection", "release", "image-curation.json"}
