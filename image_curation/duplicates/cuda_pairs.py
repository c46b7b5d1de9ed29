# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""A matrix product on a Hopper GPU that keeps of all its results only where they are large.

Written out, a million rows against a million would be 2 TB of scores, and writing and reading them would take longer
than multiplying.
"""

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

_TILE = (128, 256, 64)
_GROUP = 16  # rows of tiles that share their columns in the L2 cache


def pairs_above(x: torch.Tensor, y: torch.Tensor, cut: float, room: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Where x @ y.T >= cut: rows of x and rows of y, int64 [p] each, sorted; None if p > `room`.

    Args:
        x, y: fp16 [m, d] and [n, d] on the GPU, contiguous rows; sums are fp32.
        cut: above 0.
        room: pairs to keep memory for.
    """
    rows, columns, depth = _TILE
    (m, d), n = x.shape, len(y)
    count = torch.zeros(1, dtype=torch.int64, device=x.device)
    places = torch.empty(room, dtype=torch.int64, device=x.device)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    _pairs_above[(processors,)](
        TensorDescriptor.from_tensor(x, [rows, depth]), TensorDescriptor.from_tensor(y, [columns, depth]),
        cut, count, places, room, m, n, d, rows, columns, depth, _GROUP, processors, num_stages=3, num_warps=8,
    )  # fmt: skip
    found = int(count.item())
    if found > room:
        return None
    ranked = torch.sort(places[:found]).values
    return ranked // n, ranked % n


@triton.jit
def _pairs_above(
    x, y, cut, count, places, room, m, n, d,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, PROCESSORS: tl.constexpr,
):  # fmt: skip
    """One program a multiprocessor, each taking tile after tile. Each hit takes the next place, in any order."""
    tiles_down, tiles_across = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    for tile in tl.range(tl.program_id(0), tiles_down * tiles_across, PROCESSORS, flatten=True):
        group = tile // (GROUP * tiles_across)
        height = min(tiles_down - group * GROUP, GROUP)
        within = tile % (GROUP * tiles_across)
        row = (group * GROUP + within % height) * ROWS
        column = within // height * COLUMNS
        sums = tl.zeros([ROWS, COLUMNS], tl.float32)
        for depth in range(0, d, DEPTH):
            sums = tl.dot(x.load([row, depth]), y.load([column, depth]).T, sums)
        if tl.max(tl.max(sums, 1), 0) >= cut:  # rows beyond the end are read as zeros
            hit = sums >= cut
            place = tl.atomic_add(count + tl.zeros([ROWS, COLUMNS], tl.int32), hit.to(tl.int64), mask=hit)
            i = (row + tl.arange(0, ROWS)).to(tl.int64)[:, None]
            j = (column + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
            tl.store(places + place, i * n + j, mask=hit & (place < room))
