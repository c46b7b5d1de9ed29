"""Our images and a known set -> what each of ours matches in the set: by bytes, by perceptual hash, by vector."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from image_curation.duplicates.edges import HASH_BITS, Kind, Rows, in_blocks
from image_curation.duplicates.perceptual import nearest_hashes
from image_curation.duplicates.vectors import TILE_ROWS, Float16s, Float64s, Vectors
from image_curation.known.sets import Images


@dataclass(frozen=True, eq=False)
class Closest:
    """For each of n images its best match of one kind.

    Attributes:
        names: object [n], of the images of the set; None where none matches.
        similarity: float64 [n] on the kind's scale, see `Kind`; -inf where none matches.
    """

    names: npt.NDArray[np.object_]
    similarity: Float64s

    def meet(self, names: list[str], rows: Rows, similarity: Float64s) -> None:
        """Take the matches of a further block where they are better; -1 is none."""
        better = np.flatnonzero((rows >= 0) & (similarity > self.similarity))
        self.similarity[better] = similarity[better]
        self.names[better] = [names[row] for row in rows[better]]


def closest_matches(
    ours: Images, blocks: Iterable[Images], floor: float, max_phash_distance: int
) -> dict[Kind, Closest]:
    """The best match of each kind; of equally good ones the first in the set.

    All are compared with all: n m d operations.

    Args:
        ours: n images.
        blocks: the set, in parts that fit into memory.
        floor: lowest cosine, 0 < t <= 1.
        max_phash_distance: bits of 64 that may differ.
    """
    n = len(ours.names)
    found = {kind: Closest(np.full(n, None, object), np.full(n, -np.inf)) for kind in Kind}
    for block in blocks:
        found[Kind.EXACT].meet(block.names, *_same_bytes(ours, block))
        found[Kind.PERCEPTUAL].meet(block.names, *_near_hashes(ours, block, max_phash_distance))
        found[Kind.SEMANTIC].meet(block.names, *nearest_vectors(ours.vectors, block.vectors, floor))
    return found


def nearest_vectors(vectors: Float16s, others: Float16s, threshold: float) -> tuple[Rows, Float64s]:
    """For each vector the nearest of others with a cosine of at least `threshold`; of equally near ones the first.

    Args:
        vectors, others: fp16 [n, d] and [m, d] unit vectors; rows of zeros or NaN hold none.

    Returns:
        (row, cosine), int64 and float64 [n]: the place in `others`, -1 where none is near, and the exact cosine.
    """
    n = len(vectors)
    best, cosines = np.full(n, -1, np.int64), np.full(n, -np.inf)
    both = Vectors.measure(np.concatenate([vectors, others]))
    for left in in_blocks(both.rows[both.rows < n], TILE_ROWS):
        for right in in_blocks(both.rows[both.rows >= n], TILE_ROWS):
            x, y, cosine = both.close_pairs(left, right, threshold)
            order = np.lexsort((y, -cosine, x))
            x, first = np.unique(x[order], return_index=True)
            y, cosine = y[order][first], cosine[order][first]
            better = cosine > cosines[x]
            best[x[better]], cosines[x[better]] = y[better] - n, cosine[better]
    return best, cosines


def _same_bytes(ours: Images, block: Images) -> tuple[Rows, Float64s]:
    known = block.sha256.drop_null()
    rows = np.flatnonzero(block.sha256.is_valid())
    found = pc.index_in(ours.sha256, value_set=known, skip_nulls=True).fill_null(-1).to_numpy(zero_copy_only=False)
    return np.append(rows, -1)[found], np.ones(len(found))


def _near_hashes(ours: Images, block: Images, max_distance: int) -> tuple[Rows, Float64s]:
    rows = np.flatnonzero(block.usable)
    found, distance = nearest_hashes(ours.phash, block.phash[rows], max_distance, ours.usable)
    return np.append(rows, -1)[found], 1 - distance / HASH_BITS
