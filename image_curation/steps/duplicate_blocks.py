"""Some shards, together -> what a search for duplicates has to know of each of their samples, in a file of its own.

That is key and hashes, and for a search by cells also cells and sketch: some 100 bytes, where a vector has 1,500. So
newcomers are compared with what was there before without reading its vectors again, but for the few that come close.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation import storage
from image_curation.artifacts import Certificate, digest, fresh, read_artifact, read_table, write_table
from image_curation.duplicates import CODE_VERSION
from image_curation.duplicates.cells import Assignment
from image_curation.duplicates.edges import Edges, Rows
from image_curation.duplicates.exact import packed_hashes
from image_curation.duplicates.increment import Numbering
from image_curation.duplicates.perceptual import FLAT_CONTRAST
from image_curation.duplicates.semantic import Part
from image_curation.embedding import packed, unpacked
from image_curation.errors import ArtifactError
from image_curation.project import Project
from image_curation.vector_files import open_vectors

_GROUP_ROWS = 1 << 20
Counts = dict[str, int]
_COPY, _NONE = -1, -2  # in place of a cell: equal to another row of the block; no vector


@dataclass(frozen=True)
class Known:
    """A block that is stored, and those of its shards that are what they were: shard -> how many vectors."""

    name: str
    shards: Counts


def known_blocks(project: Project, generation: str | None, contents: dict[str, str]) -> list[Known]:
    """The stored blocks that say something of these shards, each shard in one of them.

    Args:
        generation: as for `build_block`.
        contents: shard -> content of its embeddings, of those shards that are what they were.
    """
    found, left = [], dict(contents)
    for file in storage.list_files(project.blocks_url) if storage.exists(project.blocks_url) else []:
        try:
            block = read_artifact(file.url)
        except ArtifactError:
            continue
        inputs = block.certificate.inputs
        if block.certificate == _certificate(project, generation, inputs):
            there = {shard: n for shard, n in block.facts["counts"].items() if left.get(shard) == inputs[shard]}
            left = {shard: content for shard, content in left.items() if shard not in there}
            if there:
                found.append(Known(file.name.removesuffix(".parquet"), there))
    return found


def _certificate(project: Project, generation: str | None, inputs: dict[str, str]) -> Certificate:
    return Certificate(
        artifact="duplicate_block",
        code_version=CODE_VERSION,
        settings={"floor": project.similarity_floor, "cells": generation},
        inputs=inputs,
    )


def stored_block(project: Project, name: str) -> Known:
    """A block that was just stored, all of it."""
    return Known(name, read_artifact(project.block_url(name)).facts["counts"])


def keep_blocks(project: Project, blocks: Sequence[Known]) -> None:
    """Remove the stored blocks that are none of these."""
    names = {f"{block.name}.parquet" for block in blocks}
    for file in storage.list_files(project.blocks_url):
        if file.name not in names:
            storage.remove(file.url)


def build_block(project: Project, generation: str | None, counts: Counts, part: Part, copies: Edges) -> str:
    """Store what is known of these shards' samples, and give the block's name.

    Args:
        generation: the content hash of the cells to search by; None compares all.
        counts: shard -> how many vectors.
        part: the distinct ones of their vectors, numbered from 0 in the order of shards and rows.
        copies: what ties the others to them.
    """
    inputs = {shard: read_artifact(project.embeddings_url(shard)).content for shard in counts}
    certificate = _certificate(project, generation, inputs)
    name = digest(certificate.model_dump())
    if fresh(project.block_url(name), certificate) is None:
        with ThreadPoolExecutor() as pool:
            table = pa.concat_tables(pool.map(partial(_hashes_of, project), sorted(counts)))
        if part.cells is not None and part.cells.sketches is not None:
            sketch = np.zeros((len(table), part.cells.sketches.shape[1]), np.int8)
            sketch[part.rows] = part.cells.sketches.cpu().numpy()
            columns = _cells_of(part.rows, part.cells.found, copies, len(table)) | {"sketch": packed(sketch)}
            for column, values in columns.items():
                table = table.append_column(column, values)
        write_table(project.block_url(name), table, certificate, {"counts": counts}, row_group_rows=_GROUP_ROWS)
    return name


def _hashes_of(project: Project, shard: str) -> pa.Table:
    found = read_table(project.embeddings_url(shard), ["key", "status", "phash", "contrast"])
    found = found.append_column("sha256", read_table(project.index_url(shard), ["sha256"])["sha256"])
    found = found.append_column("textured", pc.greater_equal(found["contrast"], FLAT_CONTRAST))
    found = found.filter(pc.equal(found["status"], "ok")).select(["key", "sha256", "phash", "textured"])
    return found.set_column(1, "sha256", packed(packed_hashes(found["sha256"])))


def _cells_of(rows: Rows, found: Assignment, copies: Edges, n: int) -> dict[str, pa.Array]:
    """Cell and ghosts of n rows, of which `rows` have some; and of a copy which row it equals."""
    cell, same_as = np.full(n, _NONE, np.int32), np.full(n, -1, np.int32)
    cell[rows] = found.cell.cpu().numpy()
    cell[copies.b], same_as[copies.b] = _COPY, copies.a
    ghosts = np.zeros(n, np.int64)
    ghosts[rows] = np.bincount(found.owner.cpu().numpy(), minlength=len(rows))
    ends = pa.py_buffer(2 * np.concatenate([[0], np.cumsum(ghosts)]))
    ghost = pa.py_buffer(found.ghost.cpu().numpy().astype(np.uint16))
    column = pa.LargeBinaryArray.from_buffers(pa.large_binary(), n, [None, ends, ghost])
    return {"cell": pa.array(cell), "same_as": pa.array(same_as), "ghosts": column}


@dataclass(frozen=True, eq=False)
class KnownCells:
    """Where the n rows of a block lie, on the host, and which m of them newcomers are compared with.

    Attributes:
        rows: int64 [m], the numbers of these.
        told: int64 [m], the place of each in what follows.
        cell: int32 [n].
        ends, ghost: int64 [n + 1] and uint16 [g]: row i is a ghost in ghost[ends[i] : ends[i + 1]].
        sketches: int8 [n, k].
    """

    rows: Rows
    told: Rows
    cell: npt.NDArray[np.int32]
    ends: Rows
    ghost: npt.NDArray[np.uint16]
    sketches: npt.NDArray[np.int8]


def read_cells_of(project: Project, block: Known, numbering: Numbering) -> KnownCells:
    """The rows of a block that newcomers are compared with.

    Of rows with equal vectors it is the first that is still there, as if the others had never been.
    """
    url = project.block_url(block.name)
    table = read_table(url, ["cell", "same_as", "ghosts"])
    with open_vectors(url, "sketch") as stored:  # packed rows, whatever they hold
        sketches = stored.all().view(np.int8)
    number = block_numbers(read_artifact(url).facts["counts"], block.shards, numbering)
    cell, ghosts = table["cell"].to_numpy(), table["ghosts"].combine_chunks()
    rows, told = _compared(number >= 0, cell, table["same_as"].to_numpy())
    ends = np.frombuffer(ghosts.buffers()[1], np.int64)[: len(ghosts) + 1] // 2
    ghost = np.frombuffer(ghosts.buffers()[2] or b"", np.uint16)[: ends[-1]]
    return KnownCells(number[rows], told, cell, ends, ghost, sketches)


def _compared(
    there: npt.NDArray[np.bool_], cell: npt.NDArray[np.int32], same_as: npt.NDArray[np.int32]
) -> tuple[Rows, Rows]:
    """The rows to compare with, rising; and for each the row whose cell and sketch are its own too."""
    if there.all():
        rows = np.flatnonzero(cell >= 0)
        return rows, rows
    told = np.where(cell == _COPY, same_as, np.arange(len(cell)))
    left = np.flatnonzero(there & (cell != _NONE))
    left = left[np.sort(np.unique(told[left], return_index=True)[1])]
    return left, told[left]


def block_numbers(counts: Counts, there: Counts, numbering: Numbering) -> Rows:
    """The number of each row of a block of shards, int64 [n]; -1 for rows of shards that are not there any more."""
    none = np.empty(0, np.int64)
    parts = (
        numbering.first[shard] + np.arange(n) if shard in there else np.full(n, -1)
        for shard, n in sorted(counts.items())
    )
    return np.concatenate([none, *parts])


@dataclass(frozen=True, eq=False)
class Hashes:
    """Hashes of n rows.

    Attributes:
        sha256: uint64 [n, 2], the first half of the content hash.
        phash, textured: uint64 [n] and bool [n], as for `perceptual_edges`.
    """

    sha256: npt.NDArray[np.uint64]
    phash: npt.NDArray[np.uint64]
    textured: npt.NDArray[np.bool_]


def read_hashes(project: Project, blocks: Sequence[Known], numbering: Numbering) -> Hashes:
    """The hashes of all samples, by their numbers."""
    n = numbering.rows
    hashes = Hashes(np.zeros((n, 2), np.uint64), np.zeros(n, np.uint64), np.zeros(n, np.bool_))

    def fill(block: Known) -> None:
        counts = read_artifact(project.block_url(block.name)).facts["counts"]
        table = read_table(project.block_url(block.name), ["sha256", "phash", "textured"])
        columns = (
            (hashes.sha256, unpacked(table["sha256"], np.uint64)),
            (hashes.phash, pc.fill_null(table["phash"], 0).to_numpy()),
            (hashes.textured, pc.fill_null(table["textured"], False).to_numpy()),
        )
        for shard, start in _starts(counts):
            if shard in block.shards:
                first, rows = numbering.first[shard], counts[shard]
                for target, values in columns:
                    target[first : first + rows] = values[start : start + rows]

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, blocks))
    return hashes


def read_keys(project: Project, blocks: Sequence[Known], numbering: Numbering, rows: Rows) -> pa.Array:
    """The keys of the samples with these numbers, which rise."""
    keys = np.empty(len(rows), object)

    def fill(block: Known) -> None:
        counts = read_artifact(project.block_url(block.name)).facts["counts"]
        table = read_table(project.block_url(block.name), ["key"])
        wanted, places = [], []
        for shard, start in _starts(counts):
            if shard in block.shards:
                first = numbering.first[shard]
                low, high = np.searchsorted(rows, [first, first + counts[shard]])
                wanted.append(np.arange(low, high))
                places.append(rows[low:high] - first + start)
        keys[np.concatenate(wanted)] = table["key"].take(pa.array(np.concatenate(places))).to_numpy()

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, blocks))
    return pa.array(keys, pa.string())


def _starts(counts: Counts) -> list[tuple[str, int]]:
    names = sorted(counts)
    return list(zip(names, np.cumsum([0, *(counts[name] for name in names)]).tolist(), strict=False))
