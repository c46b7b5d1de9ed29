# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""The close pairs within many cells at once on a GPU: thousands of small products as one kernel.

One by one, the launching and waiting would take longer than the products.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from image_curation.duplicates.cells import Grouped
from image_curation.duplicates.cuda_pairs import ROOM, Places, found_by, keep_hits

_TILE = (128, 128, 64)
_TILES = 1 << 20  # that are done by one launch


def pairs_in_cells(
    x: torch.Tensor, y: torch.Tensor, cells: tuple[Grouped, Grouped], cut: float, is_same: bool, room: int = ROOM
) -> Iterator[Places]:
    """Where a row of x and a row of y in the same cell have a product of at least `cut`, int64 [p] each, in any order.

    Args:
        x, y: fp16 [m, d] and [n, d] on the GPU, contiguous rows; sums are fp32.
        cells: rows of x and rows of y by cell.
        cut: above 0.
        is_same: both are the same rows in the same cells: each pair comes once, the smaller row first.
        room: pairs to keep memory for; where there are more, the work is cut in pieces.
    """
    left, right = cells
    tiles = torch.from_numpy(_tiles(left.bounds, right.bounds, is_same)).to(x.device)

    def launch(start: int, end: int, count: torch.Tensor, places: torch.Tensor) -> None:
        _pairs_in_cells[(end - start,)](
            x, y, left.rows, right.rows, tiles[start:], cut, count, places, places.shape[1], x.shape[1],
            is_same, *_TILE, num_stages=3, num_warps=8,
        )  # fmt: skip

    yield from found_by(launch, len(tiles), _TILES, x.device, room)


def _tiles(left: npt.NDArray[np.int64], right: npt.NDArray[np.int64], is_same: bool) -> npt.NDArray[np.int64]:
    """The tiles of all cells, from the bounds of their rows: first row, end of the cell, and the same of columns."""
    rows, columns, _ = _TILE
    down, across = -(-np.diff(left) // rows), -(-np.diff(right) // columns)
    cell = np.repeat(np.arange(len(down)), down * across)
    nth = np.arange(len(cell)) - np.repeat(np.cumsum(down * across) - down * across, down * across)
    row, column = nth // across[cell] * rows, nth % across[cell] * columns
    table = np.stack([left[cell] + row, left[cell + 1], right[cell] + column, right[cell + 1]], 1)
    return table[column + columns > row] if is_same else table


@triton.jit
def _pairs_in_cells(
    x, y, x_rows, y_rows, tiles, cut, count, places, room, d,
    SAME: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tiles += tl.program_id(0) * 4
    row, column = tl.load(tiles) + tl.arange(0, ROWS), tl.load(tiles + 2) + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < tl.load(tiles + 1), column < tl.load(tiles + 3)
    i = tl.load(x_rows + row, mask=in_rows, other=0)
    j = tl.load(y_rows + column, mask=in_columns, other=0)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, d, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        left = tl.load(x + i[:, None] * d + depth[None, :], mask=in_rows[:, None] & (depth < d)[None, :], other=0.0)
        right = tl.load(y + j[None, :] * d + depth[:, None], mask=in_columns[None, :] & (depth < d)[:, None], other=0.0)
        sums = tl.dot(left, right, sums)
    if tl.max(tl.max(sums, 1), 0) >= cut:
        hit = (sums >= cut) & in_rows[:, None] & in_columns[None, :]
        if SAME:
            hit = hit & (i[:, None] < j[None, :])
        keep_hits(hit, i[:, None], j[None, :], count, places, room)
