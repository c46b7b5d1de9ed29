"""Newcomers, and blocks that are stored -> the close pairs between them, by cells and sketches.

Only those vectors are read whose sketches come near a newcomer's.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from image_curation.duplicates.cells import Assignment, Cells
from image_curation.duplicates.edges import Edges, Kind, Rows
from image_curation.duplicates.increment import Numbering
from image_curation.duplicates.products import Products
from image_curation.duplicates.semantic import InCells, Part, sketched_pairs
from image_curation.project import Project
from image_curation.steps.duplicate_blocks import Known, KnownCells, read_cells_of
from image_curation.steps.duplicate_cells import vectors_at

_BATCH_PAIRS = 1 << 22  # pairs of sketches that are held before vectors are read: 64 MB
_LOOKED_AT = 1 << 18  # vectors that are read at a time because their sketches came near: 400 MB
_NO_PAIRS = np.empty(0, np.int64), np.empty(0, np.int64)


@dataclass(frozen=True)
class KnownSearch:
    """Compares newcomers with what is stored; rows have the numbers of `numbering`."""

    project: Project
    products: Products
    cells: Cells
    numbering: Numbering

    def close_pairs(self, own: Part, blocks: Sequence[Known], most_rows: int) -> Iterator[Edges]:
        """The pairs of a newcomer and a row of some blocks, of which so many rows are looked at at a time."""
        within, sketcher = own.cells, self.cells.sketcher
        if within is None or sketcher is None:
            raise ValueError("own and the cells should have sketches")
        for some in _runs(blocks, most_rows):
            with ThreadPoolExecutor() as pool:
                read = list(pool.map(lambda block: read_cells_of(self.project, block, self.numbering), some))
            rows, known = self._on_device(read)
            del read
            for i, j in _in_batches(sketched_pairs(self.products, within, known, sketcher)):
                yield from self._looked_at(own, i, rows[j])

    def _on_device(self, parts: Sequence[KnownCells]) -> tuple[Rows, InCells]:
        """The rows of some blocks that newcomers are compared with, and where they lie."""
        rows = np.concatenate([part.rows for part in parts])
        cell, ghosts, ghost, sketches = (torch.cat(column) for column in zip(*map(self._chosen, parts), strict=True))
        owner = torch.repeat_interleave(torch.arange(len(rows), device=ghosts.device), ghosts)
        return rows, InCells.of(Assignment(cell, owner, ghost), len(self.cells.centroids), sketches)

    def _chosen(self, part: KnownCells) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cell, number of ghosts and sketch of each row that is told of, and the cells of the ghosts."""
        arrays = (part.told, part.cell, part.ends, part.ghost.view(np.int16), part.sketches)
        told, cell, ends, every, sketches = (torch.tensor(array).to(self.products.device) for array in arrays)
        ghosts, first = (ends[1:] - ends[:-1])[told], ends[:-1][told]
        moved = torch.repeat_interleave(first - (ghosts.cumsum(0) - ghosts), ghosts)
        ghost = every[torch.arange(len(moved), device=moved.device) + moved].long() & 0xFFFF
        return cell[told].long(), ghosts, ghost, sketches[told]

    def _looked_at(self, own: Part, i: Rows, numbers: Rows) -> Iterator[Edges]:
        """Those of the pairs of row i of a part and a numbered one that are close, by their vectors."""
        wanted, place = np.unique(numbers, return_inverse=True)
        order = np.argsort(place, kind="stable")
        i, place = i[order], place[order]
        for start in range(0, len(wanted), _LOOKED_AT):
            some = wanted[start : start + _LOOKED_AT]
            low, high = np.searchsorted(place, [start, start + _LOOKED_AT])
            block, _ = self.products.load(vectors_at(self.project, *self.numbering.placed(some)))
            pairs = torch.from_numpy(i[low:high]), torch.from_numpy(place[low:high] - start)
            x, y, cosine = self.products.close_of(own.block, block, *pairs, self.project.similarity_floor)
            yield Edges.between(own.rows[x], some[y], cosine, Kind.SEMANTIC)


def _runs(blocks: Sequence[Known], most_rows: int) -> Iterator[list[Known]]:
    """Blocks that follow each other, of about so many rows together."""
    held: list[Known] = []
    for block in blocks:
        held.append(block)
        if sum(sum(one.shards.values()) for one in held) >= most_rows:
            yield held
            held = []
    if held:
        yield held


def _in_batches(pairs: Iterator[tuple[Rows, Rows]]) -> Iterator[tuple[Rows, Rows]]:
    """Pairs, many at a time: so vectors that several newcomers come near are read once."""
    held, count = [_NO_PAIRS], 0
    for pair in pairs:
        held.append(pair)
        count += len(pair[0])
        if count > _BATCH_PAIRS:
            yield _joined(held)
            held, count = [_NO_PAIRS], 0
    yield _joined(held)


def _joined(pairs: list[tuple[Rows, Rows]]) -> tuple[Rows, Rows]:
    i, j = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return i, j
