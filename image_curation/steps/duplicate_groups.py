"""`duplicate_groups`: the vectors and hashes of all shards -> every pair of duplicates down to the search floor.

No policy enters here. What is stored are the pairs (as a spanning forest of each kind, which has the same components at
any higher threshold) and the samples that they join, with their vectors; thresholds and survivors come in `selection`.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation import embedding, storage
from image_curation.artifacts import Certificate, fresh, read_artifact, read_table, write_table
from image_curation.duplicates import CODE_VERSION
from image_curation.duplicates.cells import SAMPLE_PER_CELL, Cells, cell_count, train_cells
from image_curation.duplicates.edges import Edges, Kind, concatenate
from image_curation.duplicates.exact import exact_edges
from image_curation.duplicates.groups import connected_groups
from image_curation.duplicates.perceptual import perceptual_edges
from image_curation.duplicates.semantic import estimate_recall, semantic_edges
from image_curation.errors import ArtifactError
from image_curation.project import Project
from image_curation.steps.outcome import Made, Outcome, reuse_or_make

_FLAT = 0.01  # contrast of an image without structure: the bits of its perceptual hash are chance


def build_duplicate_groups(project: Project, shards: Sequence[str]) -> Outcome:
    """Search duplicates among all samples of `shards` that have a vector.

    Raises:
        ArtifactError: there is no shard, or one of them has no embeddings yet.
    """
    if not shards:
        raise ArtifactError("no shard has embeddings yet: materialize `shard_index` and `embeddings` first.")
    certificate = Certificate(
        artifact="duplicate_groups",
        code_version=CODE_VERSION,
        settings={"similarity_floor": project.similarity_floor, **project.settings.duplicates.model_dump()},
        inputs={shard: read_artifact(project.embeddings_url(shard)).content for shard in sorted(shards)},
    )

    def make() -> Made:
        samples = pa.concat_tables([_samples(project, shard) for shard in sorted(shards)])
        vectors = embedding.vectors_of(samples)
        cells = _cells(vectors, project.settings.duplicates.brute_force_rows)
        edges = _search(project, samples, vectors, cells)
        recall = estimate_recall(vectors, edges, project.profile.duplicate_similarity) if len(edges) else None
        rows, ends = np.unique(np.concatenate([edges.a, edges.b]), return_inverse=True)
        local = Edges(ends[: len(edges)], ends[len(edges) :], edges.similarity, edges.kind)
        members = samples.take(pa.array(rows))
        write_table(project.edges_url, _edge_table(local, members), certificate)
        return members, {
            "samples": len(samples),
            "pairs": {kind.name.lower(): len(edges.of(kind)) for kind in Kind},
            "groups_at_floor": len(np.unique(connected_groups(local, len(members)))),
            "searched_by": f"{len(cells.centroids)} cells" if cells else "comparing all with all",
            "recall": asdict(recall) if recall and recall.expected else None,  # at the recommended threshold
        }

    if fresh(project.edges_url, certificate) is None:  # written before the members, so a kill between leaves both stale
        storage.remove(project.members_url)
    return reuse_or_make(project.members_url, certificate, make)


def read_duplicates(project: Project) -> tuple[pa.Table, Edges]:
    """The members of groups (shard, key, sha256, phash, textured, vector) and the edges between their rows."""
    table = read_table(project.edges_url, ["a", "b", "similarity", "kind"])
    kinds = np.array([Kind[name.upper()] for name in table["kind"].to_pylist()], np.uint8)
    a, b, similarity = (table[name].to_numpy() for name in ("a", "b", "similarity"))
    return read_table(project.members_url), Edges(a.astype(np.int64), b.astype(np.int64), similarity, kinds)


def _samples(project: Project, shard: str) -> pa.Table:
    """The samples of a shard that have a vector, by key."""
    found = read_table(project.embeddings_url(shard), ["shard", "key", "status", "phash", "contrast", "vector"])
    hashes = read_table(project.index_url(shard), ["sha256"])
    found = found.append_column("sha256", hashes["sha256"])
    found = found.append_column("textured", pc.greater_equal(found["contrast"], _FLAT))
    return found.filter(pc.equal(found["status"], "ok")).drop_columns(["status", "contrast"]).sort_by("key")


def _search(project: Project, samples: pa.Table, vectors: npt.NDArray[np.float16], cells: Cells | None) -> Edges:
    """All pairs of the three kinds down to the floor, each kind as its spanning forest."""
    textured = np.array(samples["textured"].to_pylist(), np.bool_)
    distance = project.settings.duplicates.max_phash_distance
    return concatenate(
        [
            exact_edges(samples["sha256"]),
            perceptual_edges(samples["phash"].to_numpy(), distance, usable=textured),
            semantic_edges(vectors, project.similarity_floor, cells),
        ]
    )


def _cells(vectors: npt.NDArray[np.float16], brute_force_rows: int) -> Cells | None:
    """Cells for more rows than are compared all with all."""
    if len(vectors) <= brute_force_rows:
        return None
    n_cells = cell_count(len(vectors))
    step = max(1, len(vectors) // (n_cells * SAMPLE_PER_CELL))
    return train_cells(vectors[::step], n_cells)


def _edge_table(edges: Edges, members: pa.Table) -> pa.Table:
    """Edges with the names of what they join, so that the file says something by itself."""
    names = {
        f"{name}_{end}": members[name].take(pa.array(rows))
        for end, rows in (("a", edges.a), ("b", edges.b))
        for name in ("shard", "key")
    }
    kinds = pa.array([Kind(kind).name.lower() for kind in edges.kind], pa.string())
    return pa.table({"a": edges.a, "b": edges.b, "similarity": edges.similarity, "kind": kinds, **names})
