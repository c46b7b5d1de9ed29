# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""A matrix product on a Hopper GPU that keeps of all its results only where they are large.

Written out, a million rows against a million would be 2 TB of scores, and writing and reading them would take longer
than multiplying.
"""

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

_TILE = (128, 256, 64)
_GROUP = 16  # rows of tiles that share their columns in the L2 cache
_ROWS = 16_384  # that are compared with all others by one launch
ROOM = 1 << 24  # pairs that one launch may find: 256 MB

Places = tuple[torch.Tensor, torch.Tensor]


def pairs_above(x: torch.Tensor, y: torch.Tensor, cut: float, is_same: bool, room: int = ROOM) -> Iterator[Places]:
    """Where x @ y.T >= cut: rows of x and rows of y, int64 [p] each, in any order.

    With `is_same` only what lies above the diagonal need come, and all of it does.

    Args:
        x, y: fp16 [m, d] and [n, d] on the GPU, contiguous rows; sums are fp32.
        cut: above 0.
        room: pairs to keep memory for; where there are more, the work is cut in pieces.
    """
    rows, columns, depth = _TILE
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count

    def launch(start: int, end: int, count: torch.Tensor, places: torch.Tensor) -> None:
        left, right, first = x[start:end], y[start if is_same else 0 :], start if is_same else 0
        (m, d), n = left.shape, len(right)
        _pairs_above[(processors,)](
            TensorDescriptor.from_tensor(left, [rows, depth]), TensorDescriptor.from_tensor(right, [columns, depth]),
            cut, count, places, places.shape[1], start, first, m, n, d,
            rows, columns, depth, _GROUP, processors, num_stages=3, num_warps=8,
        )  # fmt: skip

    yield from found_by(launch, len(x), _ROWS, x.device, room)


def found_by(
    launch: Callable[[int, int, torch.Tensor, torch.Tensor], None], n: int, step: int, device: torch.device, room: int
) -> Iterator[Places]:
    """What kernels find that each give a pair the next place in a list, in the memory for `room` pairs.

    Args:
        launch: does part start .. end of the work. It counts pairs up in an int64 [1], and writes those that there is
            room for to int64 [2, room].
        n: parts of the work.
        step: parts that are done by one launch, at most; fewer where they have too many pairs.
    """
    spans = [(start, min(start + step, n)) for start in range(0, n, step)]
    places = torch.empty((2, room), dtype=torch.int64, device=device)
    while spans:
        start, end = spans.pop()
        count = torch.zeros(1, dtype=torch.int64, device=device)
        launch(start, end, count, places)
        found = int(count.item())
        if found <= places.shape[1]:
            yield places[0, :found].clone(), places[1, :found].clone()
        elif end - start > 1:
            spans += [(start, (start + end) // 2), ((start + end) // 2, end)]
        else:
            places = torch.empty((2, found), dtype=torch.int64, device=device)
            spans.append((start, end))


@triton.jit
def keep_hits(hit, i, j, count, places, room):
    """Write the rows i int64 [m, 1] and j int64 [1, n] of hits bool [m, n] to the next places."""
    place = tl.atomic_add(count + tl.zeros(hit.shape, tl.int32), hit.to(tl.int64), mask=hit)
    fits = hit & (place < room)
    tl.store(places + place, i + tl.zeros(hit.shape, tl.int64), mask=fits)
    tl.store(places + room + place, j + tl.zeros(hit.shape, tl.int64), mask=fits)


@triton.jit
def _pairs_above(
    x, y, cut, count, places, room, first_x, first_y, m, n, d,
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
            i = first_x + (row + tl.arange(0, ROWS)).to(tl.int64)
            j = first_y + (column + tl.arange(0, COLUMNS)).to(tl.int64)
            keep_hits(sums >= cut, i[:, None], j[None, :], count, places, room)
