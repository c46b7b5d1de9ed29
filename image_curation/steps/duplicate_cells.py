"""The cells by which duplicates are searched where there are too many vectors to compare all: made once, and kept."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation import embedding
from image_curation.artifacts import Certificate, fresh, read_artifact, read_table, write_table
from image_curation.config import resolve_device
from image_curation.duplicates import CODE_VERSION
from image_curation.duplicates.cells import SAMPLE_PER_CELL, Cells, cell_count, train_cells
from image_curation.duplicates.margin import fitted_margin
from image_curation.project import Project

_GROWTH = 4  # a generation serves until there are so many times the vectors that it was made for
_MAX_GHOSTS = 64
_READ_PER_CELL = 2 * SAMPLE_PER_CELL  # vectors, a cell: the more, the more duplicates to fit the margin to


def cells_for(project: Project, counts: dict[str, int]) -> str:
    """The content hash of the cells to search so many vectors by, which are made if need be.

    Args:
        counts: shard -> how many samples have a vector.
    """
    chosen, rows = project.settings.duplicates, sum(counts.values())
    certificate = Certificate(
        artifact="duplicate_cells",
        code_version=CODE_VERSION,
        settings={"similarity_floor": project.similarity_floor, "recall": chosen.recall},
    )
    stored = fresh(project.cells_url, certificate)
    if stored and rows <= _GROWTH * stored.facts["made_for"]:
        return stored.content
    cells, trained_on = _trained(project, counts, rows, resolve_device(project.settings.device))
    table = pa.table({"vector": embedding.packed(cells.centroids.astype(np.float16))})
    facts = {"margin": cells.margin, "max_ghosts": cells.max_ghosts, "made_for": rows, "trained_on": trained_on}
    return write_table(project.cells_url, table, certificate, facts).content


def _trained(project: Project, counts: dict[str, int], rows: int, device: str) -> tuple[Cells, int]:
    """Cells trained on shards that lie evenly among all, with the margin that their own duplicates ask for."""
    n_cells = cell_count(rows)
    step = max(1, rows // (n_cells * _READ_PER_CELL))
    with ThreadPoolExecutor() as pool:
        vectors = np.concatenate(list(pool.map(partial(read_vectors, project), sorted(counts)[::step])))
    sample = vectors[:: max(1, len(vectors) // (n_cells * SAMPLE_PER_CELL))]
    cells = train_cells(sample, n_cells, max_ghosts=_MAX_GHOSTS, device=device)
    recall = project.settings.duplicates.recall
    margin = fitted_margin(vectors, cells, project.similarity_floor, recall, device=device)
    return replace(cells, margin=margin), len(sample)


def read_cells(project: Project) -> Cells:
    """The generation of cells that is searched by."""
    artifact = read_artifact(project.cells_url)
    return _cells(project.cells_url, artifact.content)


@cache
def _cells(url: str, content: str) -> Cells:
    facts, table = read_artifact(url).facts, read_table(url)
    return Cells(embedding.vectors_of(table).astype(np.float32), facts["margin"], facts["max_ghosts"])


def read_vectors(project: Project, shard: str) -> npt.NDArray[np.float16]:
    """The vectors of a shard's samples that have one, by key, fp16 [n, d]."""
    table = read_table(project.embeddings_url(shard), ["key", "status", "vector"])
    order = pc.sort_indices(table["key"]).to_numpy()
    there = np.asarray(pc.equal(table["status"], "ok"))
    vectors, rows = embedding.vectors_of(table), order[there[order]]
    return vectors if np.array_equal(rows, np.arange(len(vectors))) else vectors[rows]
