"""`duplicate_groups`, its heavy part: the vectors of some shards against those of others -> the close pairs, as a file.

Shards that follow each other make a block, as large as a device likes. A strip is a block against itself and against
others, which pass by one after the other; so a worker holds three blocks (the next one is read meanwhile), whatever the
number of vectors. docs/duplicates.md says how much that is.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from image_curation import storage
from image_curation.artifacts import Certificate, digest, fresh, read_artifact
from image_curation.config import gpu_count, resolve_device
from image_curation.duplicates import CODE_VERSION
from image_curation.duplicates.cells import Cells
from image_curation.duplicates.edges import Edges, Kind, Rows
from image_curation.duplicates.forest import forest_of_batches
from image_curation.duplicates.increment import Numbering, renumbered
from image_curation.duplicates.products import Products
from image_curation.duplicates.semantic import Part, distinct_part, part_pairs
from image_curation.project import Project
from image_curation.steps.duplicate_blocks import Counts, Known, block_numbers, build_block
from image_curation.steps.duplicate_cells import read_cells, read_vectors
from image_curation.steps.duplicate_known import KnownSearch
from image_curation.steps.outcome import Made, Outcome, reuse_or_make

_CPU_BLOCK_ROWS = 1 << 17
_GPU_ROW_BYTES = 3 * 2 * 2 * 1024  # three blocks, one being made, of rows as given and as unit vectors of 1,024 numbers
_GPU_SHARE = 0.6  # of a GPU's memory, for blocks
AUDITED = 2_000  # rows over all strips whose duplicates are looked for by brute force
_KNOWN_BLOCKS = 8  # of which cells and sketches take no more memory than one block of vectors


@dataclass(frozen=True)
class Strip:
    """A block of new shards and what to compare it with."""

    own: Counts
    others: tuple[Counts, ...]
    """Blocks of shards whose vectors it is compared with."""
    known: tuple[Known, ...]
    """Blocks that are stored: by cells and sketches it is found with which of their vectors."""
    audited: int
    """Rows of the block whose duplicates are looked for by brute force too, to measure the recall of the cells."""

    @property
    def work(self) -> int:
        """Comparisons, about."""
        rows = sum(self.own.values())
        return rows * (rows // 2 + sum(sum(other.values()) for other in self.others))


def strips(fresh: Counts, known: Sequence[Known], by_cells: bool, block_rows: int, audited: int) -> list[Strip]:
    """The comparisons of fresh shards with each other and with those in known blocks, each once, the most work first.

    Where all are compared with all, known vectors are read again; by cells only those whose sketches come near.
    """
    blocks = _blocks(fresh, block_rows)
    old = {shard: n for block in known for shard, n in block.shards.items()}
    seen = [] if by_cells else _blocks(old, block_rows)
    share = -(-audited // max(1, len(blocks)))
    stored = tuple(known) if by_cells else ()
    found = [Strip(block, (*seen, *blocks[:i]), stored, share) for i, block in enumerate(blocks)]
    return sorted(found, key=lambda strip: -strip.work)


def block_rows(project: Project, rows: int) -> int:
    """How many of so many vectors a block should have on the project's device: what fits a GPU, but two for each."""
    if resolve_device(project.settings.device) == "cpu":
        return _CPU_BLOCK_ROWS
    fitting = int(torch.cuda.get_device_properties(0).total_memory * _GPU_SHARE) // _GPU_ROW_BYTES
    workers = project.settings.workers or gpu_count()
    return fitting if workers == 1 else min(fitting, -(-rows // (2 * workers)))


def _blocks(counts: Counts, rows: int) -> list[Counts]:
    """Shards in runs of at most so many rows, but at least one shard each."""
    blocks: list[Counts] = []
    for shard, n in sorted(counts.items()):
        if not blocks or sum(blocks[-1].values()) + n > rows:
            blocks.append({})
        blocks[-1][shard] = n
    return blocks


def build_strip(project: Project, generation: str | None, strip: Strip) -> Outcome:
    """Find the close pairs of a strip, down to the project's floor, and store its own block.

    The rows name each end by its shard and its position among that shard's vectors. Where `audited` is true it is a
    pair of the audit, whether the search found it or not. The block's name is among the facts.

    Args:
        generation: the content hash of the cells to search by, at `project.cells_url`; None compares all.
    """
    names = sorted(chain(strip.own, *strip.others))
    certificate = Certificate(
        artifact="duplicate_strip",
        code_version=CODE_VERSION,
        settings={
            "floor": project.similarity_floor,
            "cells": generation,
            "own": sorted(strip.own),
            "known": {block.name: sorted(block.shards) for block in strip.known},
        },
        inputs={shard: read_artifact(project.embeddings_url(shard)).content for shard in names},
    )
    url = project.strip_url(digest(certificate.model_dump()))
    stored = fresh(url, certificate)
    if stored and not storage.exists(project.block_url(stored.facts["block"])):
        storage.remove(url)  # a search that was killed as it ended has put away the block, but not the strip
    return reuse_or_make(url, certificate, lambda: _make(project, generation, strip))


def _make(project: Project, generation: str | None, strip: Strip) -> Made:
    every = (strip.own, *strip.others, *(block.shards for block in strip.known))
    numbering = Numbering.of({shard: n for counts in every for shard, n in counts.items()})
    floor, products = project.similarity_floor, Products(resolve_device(project.settings.device))
    cells = read_cells(project) if generation else None
    audit = _Audit(products, project.profile.duplicate_similarity)
    reading = _read_ahead(project, (strip.own, *strip.others))
    _, vectors = next(reading)
    part, copies = distinct_part(vectors, products, floor, cells, np.arange(len(vectors)))
    with ThreadPoolExecutor(1) as background:
        stored = background.submit(build_block, project, generation, strip.own, part, copies)
        numbers = block_numbers(strip.own, strip.own, numbering)
        own, ties = replace(part, rows=numbers[part.rows]), renumbered(copies, numbers)
        del vectors
        audit.sample(own, strip.audited if cells else 0)

        def batches() -> Iterator[Edges]:
            yield ties
            for other in chain([own], _parts(reading, numbering, products, floor, cells)):
                audit.look_in(other)
                for a, b, cosine in part_pairs(products, own, other, floor, cells):
                    yield Edges.between(a, b, cosine, Kind.SEMANTIC)
            if cells is not None:
                known = KnownSearch(project, products, cells, numbering)
                yield from known.close_pairs(own, strip.known, _KNOWN_BLOCKS * block_rows(project, numbering.rows))

        edges = forest_of_batches(batches(), numbering.rows, products.device.type)
        facts = {"sampled": audit.sampled, "block": stored.result()}
    rows = _named(numbering, np.concatenate([edges.a, audit.a]), np.concatenate([edges.b, audit.b]))
    similarity = np.concatenate([edges.similarity, np.ones(len(audit.a))])
    audited = np.arange(len(similarity)) >= len(edges)
    return pa.table({**rows, "similarity": similarity, "audited": audited}), facts


def _parts(
    blocks: Iterator[tuple[Counts, npt.NDArray[np.float16]]],
    numbering: Numbering,
    products: Products,
    floor: float,
    cells: Cells | None,
) -> Iterator[Part]:
    """The distinct vectors of each block. It has gaps in its numbers where shards of other blocks lie between."""
    for block, vectors in blocks:
        yield distinct_part(vectors, products, floor, cells, block_numbers(block, block, numbering))[0]


class _Audit:
    """Sampled rows of a block, and the duplicates of theirs that brute force finds in blocks that pass by."""

    def __init__(self, products: Products, threshold: float) -> None:
        self._products, self._threshold = products, threshold
        self._rows: Rows | None = None
        self.a = self.b = np.empty(0, np.int64)
        self.sampled = 0

    def sample(self, part: Part, n: int) -> None:
        self.sampled = min(n, len(part.rows))
        if self.sampled:
            chosen = np.sort(np.random.default_rng(0).choice(len(part.rows), self.sampled, replace=False))
            self._rows, self._block = part.rows[chosen], part.block.take(chosen)

    def look_in(self, part: Part) -> None:
        if self._rows is None:
            return
        for i, j, _ in self._products.close_pairs(self._block, part.block, self._threshold):
            a, b = self._rows[i], part.rows[j]
            self.a, self.b = np.concatenate([self.a, a[a != b]]), np.concatenate([self.b, b[a != b]])


def _named(numbering: Numbering, a: Rows, b: Rows) -> dict[str, pa.Array]:
    """The shard and position of both ends."""
    columns: dict[str, pa.Array] = {}
    for end, rows in (("a", a), ("b", b)):
        names, which, columns[f"row_{end}"] = numbering.placed(rows)
        columns[f"shard_{end}"] = pa.DictionaryArray.from_arrays(
            pa.array(which, pa.int32()), pa.array(names, pa.string())
        )
    return columns


def _read_ahead(project: Project, blocks: Sequence[Counts]) -> Iterator[tuple[Counts, npt.NDArray[np.float16]]]:
    """Each block's vectors, the next one being read meanwhile."""
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(read_block, project, blocks[0])
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            vectors = coming.result()
            if following is not None:
                coming = ahead.submit(read_block, project, following)
            yield block, vectors


def read_block(project: Project, block: Counts) -> npt.NDArray[np.float16]:
    """The vectors of a block's shards, by shard, fp16 [n, d]; several shards are read at once."""
    names = sorted(block)
    starts = dict(zip(names, np.cumsum([0, *(block[name] for name in names)]), strict=False))
    first = read_vectors(project, names[0])
    vectors = np.empty((sum(block.values()), first.shape[1]), np.float16)

    def fill(name: str) -> None:
        vectors[starts[name] : starts[name] + block[name]] = read_vectors(project, name)

    vectors[: len(first)] = first
    with ThreadPoolExecutor(min(len(names), len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(fill, names[1:]))
    return vectors
