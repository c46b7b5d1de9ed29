"""The cells, and what makes sketches, for a search where there are too many vectors to compare all: made and kept."""

from collections.abc import Sequence
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
from image_curation.duplicates.edges import Rows
from image_curation.duplicates.margin import margin_of, sampled_duplicates
from image_curation.duplicates.sketch_cut import fitted_cut
from image_curation.duplicates.sketches import Sketcher, train_sketcher
from image_curation.project import Project
from image_curation.vector_files import open_vectors

_GROWTH = 4  # a generation serves until there are so many times the vectors that it was made for
_MAX_GHOSTS = 64
_FITTED_ON = 1 << 19  # vectors: the more, the more of their duplicates are among them, to fit margin and cut to


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
    cells, sketcher, trained_on = _trained(project, counts, rows, resolve_device(project.settings.device))
    facts = {
        "cells": len(cells.centroids),
        "margin": cells.margin,
        "max_ghosts": cells.max_ghosts,
        "sketches": {"cut": sketcher.cut, "scale": sketcher.scale},
        "made_for": rows,
        "trained_on": trained_on,
    }
    return write_table(project.cells_url, _table(cells, sketcher), certificate, facts).content


def _trained(project: Project, counts: dict[str, int], rows: int, device: str) -> tuple[Cells, Sketcher, int]:
    """Cells and directions trained on shards that lie evenly among all, with what their own duplicates ask for."""
    n_cells = cell_count(rows)
    step = -(-rows // max(_FITTED_ON, n_cells * SAMPLE_PER_CELL))
    with ThreadPoolExecutor() as pool:
        vectors = np.concatenate(list(pool.map(partial(read_vectors, project), sorted(counts)[::step])))
    sample = vectors[:: max(1, len(vectors) // (n_cells * SAMPLE_PER_CELL))]
    cells = train_cells(sample, n_cells, max_ghosts=_MAX_GHOSTS, device=device)
    sketcher = train_sketcher(sample, device)
    floor, recall = project.similarity_floor, project.settings.duplicates.recall
    found = sampled_duplicates(vectors, floor, recall, device=device)
    cells = replace(cells, margin=margin_of(found, cells, floor, recall))
    return cells, replace(sketcher, cut=fitted_cut(sketcher, found, floor, recall)), len(sample)


def _table(cells: Cells, sketcher: Sketcher) -> pa.Table:
    """A row for each centroid, then one for each direction, with its offset."""
    k = len(cells.centroids)
    return pa.table(
        {
            "is": ["centroid"] * k + ["direction"] * len(sketcher.directions),
            "vector": embedding.packed(np.concatenate([cells.centroids, sketcher.directions]).astype(np.float16)),
            "offset": pa.array([None] * k + sketcher.offsets.tolist(), pa.int64()),
        }
    )


def read_cells(project: Project) -> Cells:
    """The generation of cells that is searched by."""
    artifact = read_artifact(project.cells_url)
    return _cells(project.cells_url, artifact.content)


@cache
def _cells(url: str, content: str) -> Cells:
    facts, table = read_artifact(url).facts, read_table(url)
    centroids, directions = (table.filter(pc.equal(table["is"], what)) for what in ("centroid", "direction"))
    sketcher = Sketcher(
        embedding.vectors_of(directions).astype(np.float32), directions["offset"].to_numpy().copy(), **facts["sketches"]
    )
    return Cells(embedding.vectors_of(centroids).astype(np.float32), facts["margin"], facts["max_ghosts"], sketcher)


def read_vectors(project: Project, shard: str) -> npt.NDArray[np.float16]:
    """The vectors of a shard's samples that have one, in their order, fp16 [n, d]."""
    with open_vectors(project.embeddings_url(shard)) as stored:
        return stored.all()


def vectors_at(project: Project, shards: Sequence[str], which: Rows, positions: Rows) -> npt.NDArray[np.float16]:
    """The vectors of some samples, fp16 [m, d], without reading the others.

    Args:
        shards: names.
        which: int64 [m], in which of them each sample lies.
        positions: int64 [m], its position there among those that have a vector.
    """
    order = np.argsort(which, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(which[order])) + 1) if len(order) else []

    def read(part: Rows) -> npt.NDArray[np.float16]:
        with open_vectors(project.embeddings_url(shards[which[part[0]]])) as stored:
            return stored.rows(positions[part])

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(read, parts))
    vectors = np.empty((len(which), found[0].shape[1] if found else 1), np.float16)
    for part, some in zip(parts, found, strict=True):
        vectors[part] = some
    return vectors
