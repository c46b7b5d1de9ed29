"""`duplicate_groups`: the vectors and hashes of all shards -> every pair of duplicates down to the search floor.

No policy enters here. What is stored are the pairs (as a spanning forest of each kind, which has the same components at
any higher threshold) and the samples that they join, with their vectors; thresholds and survivors come in `selection`.

A search starts from the one before: shards that it knew are not compared with each other again, and what has gone
leaves no trace. The result is that of a search over all shards at once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation import storage
from image_curation.artifacts import Certificate, fresh, read_artifact, read_table
from image_curation.cluster import Cluster, Done, InlineCluster, Stage
from image_curation.config import resolve_device
from image_curation.duplicates import CODE_VERSION
from image_curation.duplicates.edges import Edges, Kind
from image_curation.errors import ArtifactError
from image_curation.project import Project
from image_curation.steps.outcome import Outcome, reuse_or_make

_BRUTE_FORCE_ROWS = {"cpu": 250_000, "cuda": 4_000_000}  # two minutes on two cores, half a minute on a GPU

KIND_NAMES = [kind.name.lower() for kind in Kind]
"""By the number of each kind: what the edges' file calls it."""


def build_duplicate_groups(
    project: Project,
    shards: Sequence[str],
    cluster: Cluster | None = None,
    on_strip: Callable[[int, int], None] = lambda done, of: None,
) -> Outcome:
    """Search duplicates among all samples of `shards` that have a vector; without a cluster, in this process.

    Args:
        on_strip: called with how many parts of the comparison are done, and how many there are, one at least.

    Raises:
        ArtifactError: there is no shard, or one of them has no embeddings yet.
    """
    if not shards:
        raise ArtifactError("no shard has embeddings yet: materialize `shard_index` and `embeddings` first.")
    start = time.perf_counter()
    embeddings = {shard: read_artifact(project.embeddings_url(shard)) for shard in sorted(shards)}
    counts = {shard: int(one.facts["statuses"].get("ok", 0)) for shard, one in embeddings.items()}
    generation = _generation(project, counts)
    certificate = Certificate(
        artifact="duplicate_groups",
        code_version=CODE_VERSION,
        settings={
            "similarity_floor": project.similarity_floor,
            **project.settings.duplicates.model_dump(),
            "cells": generation,
        },
        inputs={shard: one.content for shard, one in embeddings.items()},
    )
    if fresh(project.edges_url, certificate) and fresh(project.members_url, certificate):
        on_strip(1, 1)
        return Outcome(read_artifact(project.members_url), True, time.perf_counter() - start)
    # What follows loads torch, which takes seconds.
    from image_curation.steps.duplicate_search import earlier, search_anew
    from image_curation.steps.duplicate_strips import build_strip

    known = earlier(project, certificate)
    storage.remove(project.members_url)  # edges are written first: a kill between the two leaves both stale

    def compare(strips: Sequence[Any]) -> Iterator[Done]:
        stage = Stage("duplicate_strips", partial(build_strip, project, generation), "gpu", alone=True)
        on_strip(0, len(strips) or 1)
        for i, done in enumerate((cluster or InlineCluster()).run([stage], strips)):
            on_strip(i + 1, len(strips))
            yield done
        if not strips:
            on_strip(1, 1)

    make = partial(search_anew, project, certificate, counts, known, compare)
    outcome = reuse_or_make(project.members_url, certificate, make)
    for file in storage.list_files(project.strips_url) if storage.exists(project.strips_url) else []:
        storage.remove(file.url)
    return outcome


def _generation(project: Project, counts: dict[str, int]) -> str | None:
    """The content of the cells to search by; None where all vectors are compared."""
    chosen = project.settings.duplicates.brute_force_rows
    limit = _BRUTE_FORCE_ROWS[resolve_device(project.settings.device)] if chosen is None else chosen
    if sum(counts.values()) <= limit:
        return None
    from image_curation.steps.duplicate_cells import cells_for

    return cells_for(project, counts)


def read_duplicates(project: Project, columns: Sequence[str] | None = None) -> tuple[pa.Table, Edges]:
    """The members of groups (shard, key, row, sha256, phash, textured) and the edges between their rows.

    `row` is a member's position among those samples of its shard that have a vector, in their order. `sha256` is the
    first half of the hash. With `columns`, members have these only.
    """
    table = read_table(project.edges_url, ["a", "b", "similarity", "kind"])
    kinds = pc.index_in(table["kind"], pa.array(KIND_NAMES)).to_numpy().astype(np.uint8)
    a, b, similarity = (table[name].to_numpy() for name in ("a", "b", "similarity"))
    members = read_table(project.members_url, columns)
    return members, Edges(a.astype(np.int64), b.astype(np.int64), similarity, kinds)


def member_vectors(project: Project, members: pa.Table) -> npt.NDArray[np.float16]:
    """The vectors of some members, fp16 [m, d], from the embeddings of their shards.

    Raises:
        ArtifactError: a shard was embedded anew since duplicates were searched.
    """
    from image_curation.steps.duplicate_cells import vectors_at

    searched = read_artifact(project.members_url).certificate.inputs
    shards = members["shard"].combine_chunks().dictionary_encode()
    names, which = shards.dictionary.to_pylist(), shards.indices.to_numpy()
    for shard in names:
        if read_artifact(project.embeddings_url(shard)).content != searched[shard]:
            raise ArtifactError(
                f"{shard} was embedded anew since duplicates were searched: materialize `duplicate_groups`, "
                "or run `image-curation curate`."
            )
    return vectors_at(project, names, which, members["row"].to_numpy())
