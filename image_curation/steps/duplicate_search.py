"""`duplicate_groups`, its making: an earlier search, strips of newcomers and all hashes -> members and edges."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation import embedding
from image_curation.artifacts import Certificate, fresh, read_artifact, read_table, write_table
from image_curation.cluster import Done
from image_curation.config import resolve_device
from image_curation.duplicates.edges import Edges, Kind, Rows, concatenate
from image_curation.duplicates.exact import exact_edges
from image_curation.duplicates.groups import connected_groups
from image_curation.duplicates.increment import Numbering, merged, renumbered, without
from image_curation.duplicates.perceptual import FLAT_CONTRAST, perceptual_edges
from image_curation.duplicates.semantic import recall_of_pairs, semantic_edges
from image_curation.errors import ArtifactError
from image_curation.project import Project
from image_curation.steps.duplicate_cells import read_cells, read_vectors
from image_curation.steps.duplicate_groups import KIND_NAMES, read_duplicates
from image_curation.steps.duplicate_strips import (
    AUDITED,
    Counts,
    Strip,
    block_rows,
    strips,
)
from image_curation.steps.outcome import Made


@dataclass(frozen=True)
class Earlier:
    """An earlier search, as far as it holds: members of the shards in `shards` are what they were."""

    shards: frozenset[str]
    members: pa.Table
    edges: Edges


def earlier(project: Project, certificate: Certificate) -> Earlier | None:
    """The search that is stored, if it was made with the same settings."""
    try:
        before = read_artifact(project.members_url).certificate
    except ArtifactError:
        return None
    same_search = before.model_copy(update={"inputs": certificate.inputs}) == certificate
    if not same_search or fresh(project.edges_url, before) is None:
        return None
    unchanged = [shard for shard, content in before.inputs.items() if certificate.inputs.get(shard) == content]
    return Earlier(frozenset(unchanged), *read_duplicates(project))


def search_anew(
    project: Project,
    certificate: Certificate,
    counts: Counts,
    generation: str | None,
    known: Earlier | None,
    compare: Callable[[Sequence[Strip]], Iterator[Done]],
) -> Made:
    """Write the edges, and give the members and facts about them.

    Args:
        counts: shard -> how many samples have a vector.
        generation: of the cells to search by; None compares all.
        known: an earlier search to start from.
        compare: takes strips to where they are worked on.
    """
    numbering, hashes = Numbering.of(counts), _hashes(project, counts)
    parts = _parts_of(project, known, numbering, generation) if known else []
    old = {shard: n for shard, n in counts.items() if known and shard in known.shards}
    new = {shard: n for shard, n in counts.items() if shard not in old}
    found, audit, sampled = _semantic(
        compare(strips(new, old, block_rows(project, numbering.rows), AUDITED)), numbering
    )
    distance, device = project.settings.duplicates.max_phash_distance, resolve_device(project.settings.device)
    is_new = np.concatenate([np.full(counts[shard], shard in new) for shard in sorted(counts)]) if old else None
    parts += [
        found,
        exact_edges(hashes["sha256"]),
        perceptual_edges(hashes["phash"].to_numpy(), distance, _bools(hashes["textured"]), is_new, device),
    ]
    edges = merged(parts, numbering.rows, device)
    rows, ends = np.unique(np.concatenate([edges.a, edges.b]), return_inverse=True)
    members = _members(project, numbering, rows, hashes, known)
    local = Edges(ends[: len(edges)], ends[len(edges) :], edges.similarity, edges.kind)
    stored = write_table(project.edges_url, _edge_table(local, members), certificate)
    return members, {
        "edges": stored.content,
        "samples": numbering.rows,
        "pairs": {kind.name.lower(): len(edges.of(kind)) for kind in Kind},
        "groups_at_floor": len(np.unique(connected_groups(local, len(members)))),
        **_how(project, edges, audit, sampled, generation, numbering.rows),
    }


def _parts_of(project: Project, known: Earlier, numbering: Numbering, generation: str | None) -> list[Edges]:
    """What an earlier search found that still holds, and what is found anew where it lost a row."""
    there = _unchanged(known)
    number = numbering.number(known.members["shard"], known.members["row"].to_numpy())
    kept, hurt = without(known.edges, there)
    parts = [renumbered(kept, number)]
    if len(hurt):
        left, cells = known.members.take(pa.array(hurt)), read_cells(project) if generation else None
        distance = project.settings.duplicates.max_phash_distance
        device = resolve_device(project.settings.device)
        parts += [
            renumbered(edges, number[hurt])
            for edges in (
                semantic_edges(embedding.vectors_of(left), project.similarity_floor, cells, device),
                perceptual_edges(left["phash"].to_numpy(), distance, _bools(left["textured"]), device=device),
            )
        ]
    return parts


def _semantic(compared: Iterator[Done], numbering: Numbering) -> tuple[Edges, tuple[Rows, Rows], int]:
    """Close pairs of all strips; the audit's pairs, from the sampled row's side; and how many rows it sampled.

    Raises:
        Exception: what stopped a strip. The others are done, and are not done again.
    """
    found, sampled = [Edges.none()], 0
    audit: list[tuple[Rows, Rows]] = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    stopped: Exception | None = None
    for done in compared:
        if done.error is not None:
            stopped = stopped or done.error
            continue
        table = read_table(done.result.artifact.url)
        a, b = (_numbers(numbering, table, end) for end in ("a", "b"))
        is_audit = _bools(table["audited"])
        pairs = Edges.between(a, b, table["similarity"].to_numpy(), Kind.SEMANTIC)
        found.append(pairs.take(~is_audit))
        audit.append((a[is_audit], b[is_audit]))
        sampled += done.result.artifact.facts["sampled"]
    if stopped:
        raise stopped
    askers, others = zip(*audit, strict=True)
    return concatenate(found), (np.concatenate(askers), np.concatenate(others)), sampled


def _numbers(numbering: Numbering, table: pa.Table, end: str) -> Rows:
    return numbering.number(table[f"shard_{end}"], table[f"row_{end}"].to_numpy())


def _how(
    project: Project, edges: Edges, audit: tuple[Rows, Rows], sampled: int, generation: str | None, n: int
) -> dict[str, Any]:
    """How was searched, and what is known of the recall at the threshold that the profile recommends."""
    if generation is None:
        all_found = {"recall": 1.0, "low": 1.0, "high": 1.0, "from": "all were compared with all"}
        return {"searched_by": "comparing all with all", "recall": all_found}
    cells = read_artifact(project.cells_url)
    threshold = project.profile.duplicate_similarity
    semantic = edges.of(Kind.SEMANTIC)
    labels = connected_groups(semantic.take(semantic.similarity >= threshold), n)
    estimate = recall_of_pairs(sampled, *audit, labels)
    recall = asdict(estimate) | {"from": "sampled newcomers compared with all"} if estimate.expected else None
    return {"searched_by": f"{cells.rows} cells", "cells": cells.facts | {"content": cells.content}, "recall": recall}


def _hashes(project: Project, counts: Counts) -> pa.Table:
    """key, sha256, phash and whether that says something, of all samples that have a vector, by their numbers."""
    with ThreadPoolExecutor() as pool:
        return pa.concat_tables(pool.map(partial(_hashes_of, project), sorted(counts)))


def _hashes_of(project: Project, shard: str) -> pa.Table:
    found = read_table(project.embeddings_url(shard), ["key", "status", "phash", "contrast"])
    found = found.append_column("sha256", read_table(project.index_url(shard), ["sha256"])["sha256"])
    found = found.append_column("textured", pc.greater_equal(found["contrast"], FLAT_CONTRAST))
    found = found.filter(pc.equal(found["status"], "ok")).sort_by("key")
    return found.select(["key", "sha256", "phash", "textured"])


def _members(project: Project, numbering: Numbering, rows: Rows, hashes: pa.Table, known: Earlier | None) -> pa.Table:
    """What is stored of the samples with these numbers, which rise."""
    names, shard, position = numbering.placed(rows)
    chosen = hashes.take(pa.array(rows))
    return pa.table(
        {
            "shard": pa.array(np.array(names, object)[shard], pa.string()),
            "key": chosen["key"],
            "row": pa.array(position),
            "sha256": chosen["sha256"],
            "phash": chosen["phash"],
            "textured": chosen["textured"],
            "vector": embedding.packed(_vectors(project, numbering, rows, known)),
        }
    )


def _vectors(project: Project, numbering: Numbering, rows: Rows, known: Earlier | None) -> npt.NDArray[np.float16]:
    """The vectors of rows: those that are known, and the others, read from the shards that have some of them."""
    parts: list[tuple[Rows, npt.NDArray[np.float16]]] = []
    missing = np.ones(len(rows), np.bool_)
    if known and len(known.members):
        before = known.members.filter(pa.array(_unchanged(known)))
        number = numbering.number(before["shard"], before["row"].to_numpy())
        wanted = np.isin(number, rows)
        places = np.searchsorted(rows, number[wanted])
        parts.append((places, embedding.vectors_of(before)[wanted]))
        missing[places] = False
    names, shard, position = numbering.placed(rows)
    asked = np.flatnonzero(missing)  # rows rise, and so do the shards that they lie in
    by_shard = np.split(asked, np.flatnonzero(np.diff(shard[asked])) + 1) if len(asked) else []
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda places: read_vectors(project, names[shard[places[0]]])[position[places]], by_shard)
        parts += zip(by_shard, read, strict=True)
    vectors = np.empty((len(rows), parts[0][1].shape[1] if parts else 1), np.float16)
    for places, found in parts:
        vectors[places] = found
    return vectors


def _unchanged(known: Earlier) -> npt.NDArray[np.bool_]:
    """Which members lie in shards that are what they were."""
    return _bools(pc.is_in(known.members["shard"], pa.array(sorted(known.shards), pa.string())))


def _edge_table(edges: Edges, members: pa.Table) -> pa.Table:
    """Edges with the names of what they join, so that the file says something by itself."""
    names = {
        f"{name}_{end}": members[name].take(pa.array(rows))
        for end, rows in (("a", edges.a), ("b", edges.b))
        for name in ("shard", "key")
    }
    kinds = pa.array(KIND_NAMES, pa.string()).take(pa.array(edges.kind))
    return pa.table({"a": edges.a, "b": edges.b, "similarity": edges.similarity, "kind": kinds, **names})


def _bools(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    bools: npt.NDArray[np.bool_] = column.combine_chunks().to_numpy(zero_copy_only=False)
    return bools
