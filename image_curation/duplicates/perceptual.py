"""Perceptual hashes -> edges between samples whose hashes differ in a few of 64 bits.

Multi-index hashing (Norouzi, Punjani, Fleet: "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012): the
hash is cut into four bands of 16 bits. Two hashes within a distance are, by the pigeonhole principle, within about a
quarter of it in some band; so every pair is met by looking up all near values of each band in turn, and none is missed.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.duplicates.edges import HASH_BITS, Edges, Kind, Rows, collapse
from image_curation.duplicates.forest import forest_of_batches
from image_curation.errors import ConfigError
from image_curation.kernels import triton_runs

if TYPE_CHECKING:
    import torch

Hashes = npt.NDArray[np.uint64]
BANDS, BAND_BITS = 4, 16
MAX_DISTANCE = 16  # unrelated hashes differ in 32 +- 4 bits: beyond a quarter of the bits, chance begins to make pairs
CHUNK_PAIRS = 4_000_000  # candidates compared at a time: about 200 MB
FLAT_CONTRAST = 0.01  # of an image without structure, whose hash is chance


def perceptual_edges(
    phash: Hashes,
    max_distance: int,
    usable: npt.NDArray[np.bool_] | None = None,
    new: npt.NDArray[np.bool_] | None = None,
    device: str = "cpu",
) -> Edges:
    """The maximum spanning forest of all pairs of hashes within a Hamming distance. No such pair is missed.

    Equal hashes are tied to the first of them and enter the search once, so that many copies cost no more than one.
    At a distance of 8 a hash meets about n / 350 others if the hashes spread evenly over their bands. At worst, all
    sharing a band, every distinct hash meets every other, in bounded memory.

    Args:
        phash: uint64 [n].
        max_distance: bits that may differ, 0 to 16.
        usable: bool [n], which rows have a hash that says something. A flat image has none: its bits are chance.
        new: bool [n]: only pairs and copies of the hash of such a row are wanted; the cost is that of these.
        device: where to compare, "cpu" or "cuda".

    Returns:
        At most n - 1 edges with similarity 1 - distance / 64.

    Raises:
        ConfigError: `max_distance` is out of range.
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ConfigError(f"max_distance={max_distance} should be from 0 to {MAX_DISTANCE} bits of {HASH_BITS}.")
    rows = np.arange(len(phash)) if usable is None else np.flatnonzero(usable)
    found = _all_edges_on_gpu if device == "cuda" and triton_runs() else _all_edges
    return forest_of_batches(found(phash, rows, max_distance, new), len(phash), device)


def nearest_hashes(
    phash: Hashes, others: Hashes, max_distance: int, usable: npt.NDArray[np.bool_] | None = None
) -> tuple[Rows, Rows]:
    """For each hash the nearest of others within a Hamming distance. None is missed; of equally near ones the first.

    Args:
        phash: uint64 [n].
        others: uint64 [m].
        max_distance: bits that may differ, 0 to 16.
        usable: bool [n], which of `phash` say something.

    Returns:
        (row, distance), int64 [n]: the place in `others`, -1 where none is near, and the bits that differ.
    """
    distinct, first = np.unique(others, return_index=True)
    none = (max_distance + 1) * len(others)
    best = np.full(len(phash), none, np.int64)  # distance * m + place: the least is the nearest, and the first of those
    asked = np.arange(len(phash)) if usable is None else np.flatnonzero(usable)
    for band, radius in enumerate(_band_radii(max_distance)):
        order, bounds = _buckets(distinct, band)
        for mask in _masks(radius):
            partner = (_bands(phash[asked])[:, band] ^ np.uint16(mask)).astype(np.int64)
            for i, place in _expand(bounds[partner], bounds[partner + 1]):
                x, y = asked[i], order[place]
                np.minimum.at(best, x, hamming(phash[x], distinct[y]).astype(np.int64) * len(others) + first[y])
    distance, row = np.divmod(best, max(1, len(others)))
    near = best < none
    return np.where(near, row, -1), np.where(near, distance, 0)


def usable_hashes(images: pa.Table) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """The column `phash` as uint64 [n], and bool [n] where there is one of an image that is not flat."""
    usable = pc.is_valid(images["phash"])
    if "contrast" in images.column_names:
        usable = pc.and_(usable, pc.fill_null(pc.greater_equal(images["contrast"], FLAT_CONTRAST), False))
    return pc.fill_null(images["phash"], 0).to_numpy(), usable.to_numpy().astype(np.bool_)


def hamming(x: Hashes, y: Hashes) -> npt.NDArray[np.uint8]:
    """Number of bits in which x[i] and y[i] differ."""
    bits: npt.NDArray[np.uint8] = np.bitwise_count(x ^ y)
    return bits


def _all_edges(phash: Hashes, rows: Rows, max_distance: int, new: npt.NDArray[np.bool_] | None) -> Iterator[Edges]:
    distinct, copies = collapse(phash[rows], rows, Kind.PERCEPTUAL)
    hashes = phash[distinct]
    fresh = None
    if new is not None:  # a hash is new if any row that has it is: its first row may be an old one
        arrived = phash[rows[new[rows]]]
        fresh = np.isin(hashes, arrived)
        copies = copies.take(np.isin(phash[copies.b], arrived))
    yield copies
    for i, j, distance in _near_pairs(hashes, max_distance, fresh):
        yield Edges.between(distinct[i], distinct[j], 1 - distance / HASH_BITS, Kind.PERCEPTUAL)


def _all_edges_on_gpu(
    phash: Hashes, rows: Rows, max_distance: int, new: npt.NDArray[np.bool_] | None
) -> Iterator[Edges]:
    """As `_all_edges`."""
    import torch

    row = torch.from_numpy(rows).cuda()
    hashes, group = torch.unique(torch.from_numpy(phash.view(np.int64)).cuda()[row], return_inverse=True)
    first = torch.full_like(hashes, len(phash)).scatter_reduce_(0, group, row, "amin")
    fresh, copy = None, first[group] != row
    if new is not None:
        fresh = torch.zeros(len(hashes), dtype=torch.bool, device="cuda")
        fresh[group[torch.from_numpy(new).cuda()[row]]] = True
        copy &= fresh[group]
    yield Edges.between(first[group[copy]].cpu(), row[copy].cpu(), 1.0, Kind.PERCEPTUAL)
    for i, j, distance in _near_pairs_on_gpu(hashes, max_distance, fresh):
        yield Edges.between(first[i].cpu(), first[j].cpu(), 1 - distance.cpu() / HASH_BITS, Kind.PERCEPTUAL)


def _near_pairs_on_gpu(
    hashes: "torch.Tensor", max_distance: int, fresh: "torch.Tensor | None" = None
) -> Iterator[tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]]:
    """As `_near_pairs`, of int64 [n]."""
    import torch

    from image_curation.duplicates.cuda_hashes import near_in_buckets

    radii, values = _band_radii(max_distance), (1 << BAND_BITS) - 1
    ones = torch.from_numpy(np.bitwise_count(np.arange(1 << BAND_BITS)).astype(np.int64)).cuda()
    bands = torch.arange(0, HASH_BITS, BAND_BITS).cuda()
    for band in range(sum(radius >= 0 for radius in radii)):
        bucket, order = torch.sort(hashes >> bands[band] & values)
        ranked, bounds = hashes[order], torch.searchsorted(bucket, torch.arange((1 << BAND_BITS) + 1).cuda())
        for i, j in near_in_buckets(ranked, bounds, _masks(radii[band]), max_distance):
            distance = ones[(ranked[i] ^ ranked[j])[:, None] >> bands & values]  # [p, bands]
            wanted = (distance[:, :band] > torch.tensor(radii[:band]).cuda()).all(1)  # not met before
            if fresh is not None:
                wanted &= fresh[order[i]] | fresh[order[j]]
            yield order[i[wanted]], order[j[wanted]], distance[wanted].sum(1)


def _band_radii(max_distance: int) -> list[int]:
    """How far to search in each band; -1 is not at all.

    With max_distance = 4 s + r, the first r + 1 bands are searched to s and the others to s - 1: a pair missed by all
    of them would differ in at least (r + 1)(s + 1) + (3 - r) s = max_distance + 1 bits (Norouzi et al.).
    """
    whole, rest = divmod(max_distance, BANDS)
    return [whole if band <= rest else whole - 1 for band in range(BANDS)]


def _masks(radius: int) -> list[int]:
    """All 16-bit values with at most `radius` bits set."""
    return [
        sum(1 << bit for bit in bits) for size in range(radius + 1) for bits in combinations(range(BAND_BITS), size)
    ]


def _near_pairs(
    hashes: Hashes, max_distance: int, fresh: npt.NDArray[np.bool_] | None = None
) -> Iterator[tuple[Rows, Rows, npt.NDArray[np.int64]]]:
    """Positions and distance of all pairs of distinct hashes within `max_distance`, in batches.

    Each pair comes once; with `fresh` bool [n], only pairs with such a hash come, and twice where both are.
    """
    radii = np.array(_band_radii(max_distance))
    for band in range(BANDS):
        order, bounds = _buckets(hashes, band)
        ranked = hashes[order]
        values = _bands(ranked)
        askers = None if fresh is None else fresh[order]
        for i, j in _candidates(values[:, band], bounds, _masks(radii[band]), askers):
            distance = hamming(ranked[i], ranked[j])
            near = np.flatnonzero((distance <= max_distance) & (i != j))  # with `askers`, each meets itself
            near = near[~_met_before(ranked[i[near]], ranked[j[near]], radii[:band])]
            yield order[i[near]], order[j[near]], distance[near].astype(np.int64)


def _met_before(x: Hashes, y: Hashes, radii: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether x[i] and y[i] are within the radius of one of the first bands, and so came up there."""
    near = np.bitwise_count(_bands(x ^ y)[:, : len(radii)]) <= radii
    return np.asarray(near.any(axis=1))


def _bands(hashes: Hashes) -> npt.NDArray[np.uint16]:
    """uint16 [n, 4], the same bits."""
    return np.ascontiguousarray(hashes).view(np.uint16).reshape(-1, BANDS)


def _buckets(hashes: Hashes, band: int) -> tuple[Rows, Rows]:
    """The order of hashes by their values in a band, and where each value begins: v at bounds[v] .. bounds[v + 1]."""
    values = _bands(hashes)[:, band]
    order = np.argsort(values, kind="stable")
    return order, np.searchsorted(values[order], np.arange((1 << BAND_BITS) + 1))


def _candidates(
    ranked: npt.NDArray[np.uint16], bounds: Rows, masks: list[int], askers: npt.NDArray[np.bool_] | None = None
) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of places, each once, whose values differ by exactly one of the masks; as `_buckets` has them.

    With `askers` bool [n], each such place meets all others, and nobody else does.
    """
    asking = None if askers is None else np.flatnonzero(askers)
    for mask in masks:
        partner = (ranked if asking is None else ranked[asking]) ^ np.uint16(mask)
        first, last = bounds[partner], bounds[partner.astype(np.int64) + 1]
        if asking is not None:
            yield from ((asking[p], q) for p, q in _expand(first, last))
            continue
        if mask == 0:
            first = np.arange(1, len(ranked) + 1)  # only the rest of the same bucket
        else:
            last = np.where(ranked < partner, last, first)  # each pair of buckets from one side
        yield from _expand(first, last)


def _expand(first: Rows, last: Rows) -> Iterator[tuple[Rows, Rows]]:
    """(p, q) for every p and every q in first[p] .. last[p], about `CHUNK_PAIRS` at a time."""
    counts = last - first
    places = np.flatnonzero(counts)
    chunk = np.cumsum(counts[places]) // CHUNK_PAIRS
    for part in np.split(places, np.flatnonzero(np.diff(chunk)) + 1):
        size = counts[part]
        before = np.cumsum(size) - size
        place = np.repeat(part, size)
        yield place, np.arange(len(place)) - np.repeat(before, size) + np.repeat(first[part], size)
