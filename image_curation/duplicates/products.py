"""Blocks of vectors on a device -> the pairs between them whose cosine reaches a threshold, and that cosine.

A product in few bits proposes pairs, an exact one decides (see `vectors`): so a CPU and a GPU find the same pairs with
the same cosines. What proposes is fp16 on a GPU, bf16 on a CPU that multiplies it in hardware, else fp32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from image_curation.duplicates.edges import Rows
from image_curation.duplicates.sketches import Sketcher
from image_curation.duplicates.vectors import Float16s, Float64s, check_norms, check_threshold, chunks, cosine_of_dots
from image_curation.kernels import triton_runs
from image_curation.processor import has_amx

if TYPE_CHECKING:
    from image_curation.duplicates.cells import Grouped

# How far a product of unit rows, rounded to each type and summed in fp32, may be from the true cosine: by Cauchy and
# Schwarz one unit roundoff for each factor, for bf16 one more for the result; and the sum's own, for 16,384 dimensions.
_BAND = {torch.float32: 2.0**-9, torch.float16: 2.0**-10 + 2.0**-9, torch.bfloat16: 3 * 2.0**-9 + 2.0**-9}
_ALIGNED = 8  # what a row's numbers are a multiple of: a GPU copies tiles whose rows begin at 16 bytes
_SHAPE_ROWS = 128  # what the rows of a small product are a multiple of
_TILE_ROWS = 1_024  # a side: 2 MB of scores, which stay in a CPU's cache
_SMALL_PRODUCT = 1 << 24  # scores of a product that is not worth a kernel of its own
_EXACT_VALUES = {"cpu": 1 << 20, "cuda": 1 << 24}  # numbers in fp64 at a time: what a CPU's cache holds, and 128 MB

Pairs = tuple[Rows, Rows, Float64s]
_Proposed = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Block:
    """n rows on a device, all of which hold a vector.

    Attributes:
        values: fp16 [n, d], as given.
        unit: [n, d or a little more], scaled to unit length, in the type that proposes; filled up with zeros.
        squares: float64 [n], exact squared norms.
    """

    values: torch.Tensor
    unit: torch.Tensor
    squares: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Rows) -> "Block":
        """A copy of some rows, in their order."""
        index = torch.from_numpy(rows).to(self.values.device)
        return Block(*(part.index_select(0, index) for part in (self.values, self.unit, self.squares)))


class Products:
    """Compares vectors on one device: "cpu" or "cuda".

    Attributes:
        proposes: the type in which a product proposes pairs.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.proposes = torch.float16 if self.device.type == "cuda" else _cpu_dtype()

    def load(self, vectors: Float16s) -> tuple[Block, Rows]:
        """Bring vectors, fp16 [n, d], to the device: those rows that are neither zero nor NaN, and which these are.

        Raises:
            ArtifactError: a row is far longer than a unit vector, so that its products would not be exact.
        """
        values = torch.from_numpy(np.ascontiguousarray(vectors)).to(self.device)
        squares = torch.empty(len(values), dtype=torch.float64, device=self.device)
        for rows in self._chunks(values):
            squares[rows] = values[rows].float().double().square_().sum(1)  # a CPU has no quick way from fp16 to fp64
        check_norms(squares.cpu().numpy())
        there = torch.nonzero((squares > 0) & squares.isfinite())[:, 0]
        if len(there) < len(values):
            values, squares = values[there], squares[there]
        n, d = values.shape
        unit = torch.zeros((n, -(-d // _ALIGNED) * _ALIGNED), dtype=self.proposes, device=self.device)
        for rows in self._chunks(values):
            unit[rows, :d] = values[rows].float() / squares[rows].sqrt().float()[:, None]
        return Block(values, unit, squares), there.cpu().numpy()

    def row_hashes(self, values: torch.Tensor) -> torch.Tensor:
        """int64 [n] of fp16 [n, d]: equal for rows of equal bytes, and hardly ever for others."""
        hashes = torch.empty(len(values), dtype=torch.int64, device=self.device)
        odd = np.random.default_rng(0).integers(-(2**62), 2**62, values.shape[1]) * 2 + 1
        factors = torch.from_numpy(odd).to(self.device)
        for rows in self._chunks(values):
            hashes[rows] = (values[rows].view(torch.int16).long() * factors).sum(1)
        return hashes

    def close_pairs(
        self, x: Block, y: Block, threshold: float, cells: "tuple[Grouped, Grouped] | None" = None
    ) -> Iterator[Pairs]:
        """All pairs of a row of `x` and a row of `y` whose cosine is at least `threshold`, in batches.

        With `cells`, rows of x and rows of y by cell, only those in the same cell are compared. Of a block with itself
        in the same cells (the same objects twice) each pair of two different rows comes once in a cell, the one that is
        first, first.

        Returns:
            Rows of x, rows of y, int64 [m] each, and their cosines, float64 [m].
        """
        check_threshold(threshold)
        is_same = x is y and (cells is None or cells[0] is cells[1])
        cut = threshold - _BAND[self.proposes]
        found = (
            _by_all(x.unit, y.unit, cut, is_same) if cells is None else _by_cells(x.unit, y.unit, cells, cut, is_same)
        )
        for i, j in found:
            if is_same:
                i, j = i[i < j], j[i < j]
            yield self._decided(x, y, i, j, threshold)

    def close_of(self, x: Block, y: Block, i: torch.Tensor, j: torch.Tensor, threshold: float) -> Pairs:
        """Those of some pairs of x[i] and y[j], int64 [p] each, whose cosine is at least `threshold`."""
        i, j = i.to(self.device), j.to(self.device)
        scores = torch.empty(len(i), device=self.device)
        for pairs in chunks(len(i), x.unit.shape[1], _EXACT_VALUES[self.device.type]):
            torch.sum(x.unit[i[pairs]].float() * y.unit[j[pairs]].float(), 1, out=scores[pairs])
        near = scores >= threshold - _BAND[self.proposes]
        return self._decided(x, y, i[near], j[near], threshold)

    def near_sketches(
        self, x: torch.Tensor, y: torch.Tensor, sketcher: Sketcher, cells: "tuple[Grouped, Grouped]"
    ) -> Iterator[_Proposed]:
        """Pairs of rows of x and y, int8 [n, k], in the same cell that may be sketches of duplicates, in batches."""
        left, right = (sketches.to(self.proposes) / 128 for sketches in (x, y))
        cut = sketcher.cut / 2**14 - 2.0**-8  # numbers and sums are exact, and a result is below 1; it may become bf16
        for i, j in _by_cells(left, right, cells, cut, is_same=False):
            near = sketcher.may_be_close(x[i], y[j])
            yield i[near], j[near]

    def _decided(self, x: Block, y: Block, i: torch.Tensor, j: torch.Tensor, threshold: float) -> Pairs:
        cosine = self._cosine(x, y, i, j)
        close = cosine >= threshold
        return i.cpu().numpy()[close], j.cpu().numpy()[close], cosine[close]

    def _cosine(self, x: Block, y: Block, i: torch.Tensor, j: torch.Tensor) -> Float64s:
        """Cosine of x[i] with y[j]. The host divides: torch's roots are not the last bit's on every processor."""
        dots = torch.empty(len(i), dtype=torch.float64, device=self.device)
        for pairs in chunks(len(i), x.values.shape[1], _EXACT_VALUES[self.device.type]):
            torch.sum(x.values[i[pairs]].double() * y.values[j[pairs]].double(), 1, out=dots[pairs])
        return cosine_of_dots(*(part.cpu().numpy() for part in (dots, x.squares[i], y.squares[j])))

    def _chunks(self, values: torch.Tensor) -> list[slice]:
        return chunks(len(values), values.shape[1], _EXACT_VALUES[self.device.type])


@lru_cache(maxsize=1)
def _cpu_dtype() -> torch.dtype:
    """bf16 where the processor has AMX tiles for it: 3.5 times as fast as fp32 there, slower elsewhere."""
    return torch.bfloat16 if has_amx() else torch.float32


def _by_all(left: torch.Tensor, right: torch.Tensor, cut: float, is_same: bool) -> Iterator[_Proposed]:
    """Where left @ right.T reaches `cut`, in batches; with `is_same` what lies below the diagonal may be missing."""
    if left.is_cuda and len(left) * len(right) > _SMALL_PRODUCT and triton_runs():
        from image_curation.duplicates.cuda_pairs import pairs_above

        return pairs_above(left, right, cut, is_same)
    return _by_tiles(left, right, cut, is_same)


def _by_cells(
    left: torch.Tensor, right: torch.Tensor, cells: "tuple[Grouped, Grouped]", cut: float, is_same: bool
) -> Iterator[_Proposed]:
    """As `_by_all`, of rows in the same cell."""
    if left.is_cuda and triton_runs():
        from image_curation.duplicates.cuda_cells import pairs_in_cells

        yield from pairs_in_cells(left, right, cells, cut, is_same)
        return
    for cell in range(len(cells[0].bounds) - 1):
        x, y = (grouped.of(cell) for grouped in cells)
        if len(x) and len(y):
            some = _some(left, x)
            for i, j in _by_tiles(some, some if is_same else _some(right, y), cut, is_same):
                there = (i < len(x)) & (j < len(y))
                yield x[i[there]], y[j[there]]


def _by_tiles(left: torch.Tensor, right: torch.Tensor, cut: float, is_same: bool) -> Iterator[_Proposed]:
    for top in range(0, len(left), _TILE_ROWS):
        for side in range(top if is_same else 0, len(right), _TILE_ROWS):
            scores = left[top : top + _TILE_ROWS] @ right[side : side + _TILE_ROWS].T
            if is_same and top == side:
                scores.fill_diagonal_(0)  # each row is near to itself
            hot = torch.nonzero(scores.amax(1) >= cut)[:, 0]  # most rows of most tiles have nothing
            if len(hot):
                i, j = torch.nonzero(scores[hot] >= cut, as_tuple=True)
                yield hot[i] + top, j + side


def _some(unit: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Some rows, and rows of zeros: a CPU prepares its product for every new shape."""
    filled = unit.new_empty((-(-len(rows) // _SHAPE_ROWS) * _SHAPE_ROWS, unit.shape[1]))
    torch.index_select(unit, 0, rows, out=filled[: len(rows)])
    filled[len(rows) :] = 0
    return filled
