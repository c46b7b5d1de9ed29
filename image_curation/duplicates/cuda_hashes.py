# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Hashes in buckets by some of their bits -> the pairs of near ones in chosen pairs of buckets, on a GPU."""

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl

from image_curation.duplicates.cuda_pairs import ROOM, Places, found_by, keep_hits

_TILE = (32, 128)


def near_in_buckets(
    hashes: torch.Tensor, bounds: torch.Tensor, masks: Sequence[int], max_distance: int, room: int = ROOM
) -> Iterator[Places]:
    """Places of two hashes that differ in at most `max_distance` bits, int64 [p] each; each pair once, in any order.

    Args:
        hashes: int64 [n] on the GPU, by bucket.
        bounds: int64 [k + 1] there, k a power of two: bucket v has hashes[bounds[v] : bounds[v + 1]].
        masks: a bucket v is compared with v ^ mask for each; with 0, with itself.
    """
    buckets, chosen = len(bounds) - 1, torch.tensor(list(masks), device=hashes.device)

    def launch(start: int, end: int, count: torch.Tensor, places: torch.Tensor) -> None:
        _near_in_buckets[(end - start,)](
            hashes, bounds, chosen, start, buckets, max_distance, count, places, places.shape[1], *_TILE
        )

    yield from found_by(launch, buckets * len(masks), buckets * len(masks), hashes.device, room)


@triton.jit
def _near_in_buckets(
    hashes, bounds, masks, first, buckets, max_distance, count, places, room, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """One pair of buckets, from the side of the smaller one."""
    pair = first + tl.program_id(0)
    bucket = pair % buckets
    partner = bucket ^ tl.load(masks + pair // buckets)
    if partner >= bucket:
        end_i, end_j = tl.load(bounds + bucket + 1), tl.load(bounds + partner + 1)
        for row in range(tl.load(bounds + bucket), end_i, ROWS):
            for column in range(tl.load(bounds + partner), end_j, COLUMNS):
                i, j = row + tl.arange(0, ROWS).to(tl.int64), column + tl.arange(0, COLUMNS).to(tl.int64)
                x = tl.load(hashes + i, mask=i < end_i, other=0)
                y = tl.load(hashes + j, mask=j < end_j, other=0)
                inside = (i < end_i)[:, None] & (j < end_j)[None, :]
                if partner == bucket:
                    inside = inside & (i[:, None] < j[None, :])
                hit = inside & (_ones(x[:, None] ^ y[None, :]) <= max_distance)
                if tl.max(tl.max(hit.to(tl.int32), 1), 0) > 0:
                    keep_hits(hit, i[:, None], j[None, :], count, places, room)


@triton.jit
def _ones(bits):
    """How many of 64 bits are set: counted in pairs, in fours and in bytes, whose sum the product has in its top."""
    bits = bits - ((bits >> 1) & 0x5555555555555555)
    bits = (bits & 0x3333333333333333) + ((bits >> 2) & 0x3333333333333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((bits * 0x0101010101010101) >> 56) & 127
