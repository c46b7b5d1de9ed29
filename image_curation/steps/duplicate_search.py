"""`duplicate_groups`, its making: an earlier search, strips of newcomers and all hashes -> members and edges."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import Artifact, Certificate, fresh, read_artifact, read_table, write_table
from image_curation.cluster import Done
from image_curation.config import resolve_device
from image_curation.duplicates.edges import Edges, Kind, Rows, concatenate
from image_curation.duplicates.exact import exact_edges, hash_digits
from image_curation.duplicates.groups import connected_groups
from image_curation.duplicates.increment import Numbering, compacted, merged, renumbered, without
from image_curation.duplicates.perceptual import perceptual_edges
from image_curation.duplicates.semantic import RecallEstimate, recall_of_pairs, recall_together, semantic_edges
from image_curation.errors import ArtifactError
from image_curation.project import Project
from image_curation.steps.duplicate_blocks import (
    Counts,
    Hashes,
    Known,
    keep_blocks,
    known_blocks,
    read_hashes,
    read_keys,
    stored_block,
)
from image_curation.steps.duplicate_cells import read_cells, vectors_at
from image_curation.steps.duplicate_groups import KIND_NAMES, read_duplicates
from image_curation.steps.duplicate_strips import AUDITED, Strip, block_rows, strips
from image_curation.steps.outcome import Made

Bools = npt.NDArray[np.bool_]
_AUDIT = "sampled newcomers compared with newcomers and with what they were compared with"


@dataclass(frozen=True)
class Earlier:
    """An earlier search, as far as it holds.

    Attributes:
        blocks: what is stored of shards that are what they were.
        members, edges: as `read_duplicates` gives them.
        recall: what samples of newcomers showed; None where all were compared with all, or nothing was to be seen.
    """

    blocks: list[Known]
    members: pa.Table
    edges: Edges
    recall: RecallEstimate | None


def earlier(project: Project, certificate: Certificate) -> Earlier | None:
    """The search that is stored, if it was made with the same settings."""
    try:
        stored = read_artifact(project.members_url)
    except ArtifactError:
        return None
    before = stored.certificate
    same_search = before.model_copy(update={"inputs": certificate.inputs}) == certificate
    if not same_search or fresh(project.edges_url, before) is None:
        return None
    unchanged = {shard: content for shard, content in before.inputs.items() if certificate.inputs.get(shard) == content}
    blocks = known_blocks(project, certificate.settings["cells"], unchanged)
    return Earlier(blocks, *read_duplicates(project), _recall_in(stored.facts))


def search_anew(
    project: Project,
    certificate: Certificate,
    counts: Counts,
    known: Earlier | None,
    compare: Callable[[Sequence[Strip]], Iterator[Done]],
) -> Made:
    """Write the edges, and give the members and facts about them.

    Args:
        counts: shard -> how many samples have a vector.
        known: an earlier search to start from.
        compare: takes strips to where they are worked on.
    """
    numbering, device = Numbering.of(counts), resolve_device(project.settings.device)
    blocks = known.blocks if known else []
    old = {shard for block in blocks for shard in block.shards}
    new = {shard: n for shard, n in counts.items() if shard not in old}
    generation = certificate.settings["cells"]
    asked = strips(new, blocks, generation is not None, block_rows(project, numbering.rows), AUDITED)
    compared = _results(compare(asked))
    blocks = blocks + [stored_block(project, strip.facts["block"]) for strip in compared]
    hashes = read_hashes(project, blocks, numbering)
    kept, hurt = _kept(known, old, numbering) if known else (Edges.none(), np.empty(0, np.int64))
    touched = _touched(numbering, new, hurt) if known else None
    distance = project.settings.duplicates.max_phash_distance
    pairs, audit = _semantic(compared, numbering)
    parts = [
        kept,
        pairs,
        _compared_again(project, numbering, hurt, generation, device),
        exact_edges(hashes.sha256, touched),
        perceptual_edges(hashes.phash, distance, hashes.textured, touched, device),
    ]
    rows, edges = compacted(concatenate(parts), numbering.rows)
    edges = merged(edges, len(rows), device)
    stored = write_table(project.edges_url, _edge_table(edges), certificate)
    keep_blocks(project, blocks)
    sampled = sum(strip.facts["sampled"] for strip in compared)
    return _members(project, numbering, rows, hashes, blocks), {
        "edges": stored.content,
        "samples": numbering.rows,
        "pairs": {kind.name.lower(): int((edges.kind == kind).sum()) for kind in Kind},
        "groups_at_floor": len(np.unique(connected_groups(edges, len(rows)))),
        **_how(project, edges, rows, (sampled, *audit), known, generation),
    }


def _kept(known: Earlier, old: set[str], numbering: Numbering) -> tuple[Edges, Rows]:
    """What was found before and still holds; and the rows that are left where a group lost one."""
    shards = known.members["shard"]
    number = numbering.number(shards, known.members["row"].to_numpy())
    there = pc.is_in(shards, pa.array(sorted(old), pa.string())).to_numpy()
    kept, hurt = without(known.edges, there)
    return renumbered(kept, number), number[hurt]


def _touched(numbering: Numbering, new: Counts, hurt: Rows) -> Bools:
    """bool [n]: the rows whose pairs are not known: newcomers, and those whose group lost a row.

    A forest leaves out the edges that it does not need, which may be needed now.
    """
    touched = np.zeros(numbering.rows, np.bool_)
    for shard, n in new.items():
        touched[numbering.first[shard] : numbering.first[shard] + n] = True
    touched[hurt] = True
    return touched


def _compared_again(project: Project, numbering: Numbering, hurt: Rows, generation: str | None, device: str) -> Edges:
    """The pairs among rows whose groups lost a row."""
    if not len(hurt):
        return Edges.none()
    cells = read_cells(project) if generation else None
    vectors = vectors_at(project, *numbering.placed(hurt))
    return renumbered(semantic_edges(vectors, project.similarity_floor, cells, device), hurt)


def _results(compared: Iterator[Done]) -> list[Artifact]:
    """What the strips gave.

    Raises:
        Exception: what stopped a strip. The others are done, and are not done again.
    """
    done = list(compared)
    for one in done:
        if one.error is not None:
            raise one.error
    return [one.result.artifact for one in done]


def _semantic(compared: list[Artifact], numbering: Numbering) -> tuple[Edges, tuple[Rows, Rows]]:
    """Close pairs of all strips; and the audit's pairs, from the sampled row's side."""
    found, audit = [Edges.none()], [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for strip in compared:
        table = read_table(strip.url)
        a, b = (numbering.number(table[f"shard_{end}"], table[f"row_{end}"].to_numpy()) for end in ("a", "b"))
        is_audit = table["audited"].combine_chunks().to_numpy(zero_copy_only=False)
        found.append(Edges.between(a, b, table["similarity"].to_numpy(), Kind.SEMANTIC).take(~is_audit))
        audit.append((a[is_audit], b[is_audit]))
    askers, others = zip(*audit, strict=True)
    return concatenate(found), (np.concatenate(askers), np.concatenate(others))


def _how(
    project: Project,
    edges: Edges,
    rows: Rows,
    audit: tuple[int, Rows, Rows],
    known: Earlier | None,
    generation: str | None,
) -> dict[str, Any]:
    """How was searched, and what is known of the recall at the threshold that the profile recommends."""
    if generation is None:
        all_found = {"recall": 1.0, "low": 1.0, "high": 1.0, "from": "all were compared with all"}
        return {"searched_by": "comparing all with all", "recall": all_found}
    cells = read_artifact(project.cells_url)
    estimate = _recall(edges.of(Kind.SEMANTIC), rows, *audit, project.profile.duplicate_similarity)
    if known and known.recall:
        estimate = recall_together(known.recall, estimate)
    recall = asdict(estimate) | {"from": _AUDIT} if estimate.expected else None
    return {
        "searched_by": f"{cells.facts['cells']} cells",
        "cells": cells.facts | {"content": cells.content},
        "recall": recall,
    }


def _recall(edges: Edges, rows: Rows, sampled: int, a: Rows, b: Rows, threshold: float) -> RecallEstimate:
    """How many of the audit's pairs the edges between `rows` join."""
    group = connected_groups(edges.take(edges.similarity >= threshold), len(rows))
    asked, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
    labels = np.arange(len(rows), len(rows) + len(asked))  # of its own, where no edge joins it
    _, place, there = np.intersect1d(asked, rows, assume_unique=True, return_indices=True)
    labels[place] = group[there]
    return recall_of_pairs(sampled, ends[: len(a)], ends[len(a) :], labels)


def _recall_in(facts: dict[str, Any]) -> RecallEstimate | None:
    told = facts["recall"]
    if not told or told["from"] != _AUDIT:
        return None
    return RecallEstimate(**{name: value for name, value in told.items() if name != "from"})


def _members(project: Project, numbering: Numbering, rows: Rows, hashes: Hashes, blocks: list[Known]) -> pa.Table:
    """What is stored of the samples with these numbers, which rise."""
    names, shard, position = numbering.placed(rows)
    return pa.table(
        {
            "shard": pa.array(names, pa.string()).take(pa.array(shard)),
            "key": read_keys(project, blocks, numbering, rows),
            "row": pa.array(position),
            "sha256": hash_digits(hashes.sha256[rows]),
            "phash": pa.array(hashes.phash[rows]),
            "textured": pa.array(hashes.textured[rows]),
        }
    )


def _edge_table(edges: Edges) -> pa.Table:
    kinds = pa.DictionaryArray.from_arrays(pa.array(edges.kind, pa.int8()), pa.array(KIND_NAMES, pa.string()))
    a, b = (pa.array(rows, pa.int32()) for rows in (edges.a, edges.b))
    return pa.table({"a": a, "b": b, "similarity": edges.similarity, "kind": kinds})
