"""Edges of all kinds -> what each threshold would do, and the pairs that stand next to it. Nothing is searched again.

The forests keep the components at every threshold above the floor, so a selection would count the same.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from image_curation.duplicates.edges import Edges, Kind, Rows
from image_curation.duplicates.groups import connected_groups, filter_edges
from image_curation.duplicates.vectors import TILE_ROWS, Vectors

MOST_STEPS = 20
_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


class Thresholds(NamedTuple):
    """What a policy takes for a duplicate, as `filter_edges` has it; None takes nothing of that kind."""

    min_similarity: float | None
    max_distance: int | None
    exact: bool


class Cut(NamedTuple):
    """What thresholds would do.

    Attributes:
        goes: images that would go: all but one of the eligible ones of each group.
        groups: of two images or more, of which one may stay.
        largest: images in the largest of them; 0 where there is none.
        least_alike: the lowest cosine of two images of that largest group (the first one, where several are as large):
            far below the threshold, it was joined by way of others. None where there is none.
    """

    thresholds: Thresholds
    goes: int
    groups: int
    largest: int
    least_alike: float | None


def cosine_cuts(
    edges: Edges, eligible: npt.NDArray[np.bool_], vectors: Vectors, chosen: Thresholds, floor: float
) -> list[Cut]:
    """What cosines from the search floor to 1 would do, the other thresholds as chosen; last, taking no cosine at all.

    Args:
        edges: between n rows.
        eligible: bool [n], the rows that no other rule drops: only these can stay, or go as duplicates.
        vectors: of the same n rows.
        chosen: the policy's thresholds, which are among the rows.
        floor: the cosine down to which `edges` are complete.
    """
    steps = [*cosine_steps(floor, chosen.min_similarity), None]
    return [_cut(edges, eligible, vectors, chosen._replace(min_similarity=step)) for step in steps]


def distance_cuts(
    edges: Edges, eligible: npt.NDArray[np.bool_], vectors: Vectors, chosen: Thresholds, searched: int
) -> list[Cut]:
    """What perceptual distances of 0 to `searched` bits would do, as `cosine_cuts`; last, taking none at all."""
    return [_cut(edges, eligible, vectors, chosen._replace(max_distance=bits)) for bits in [*range(searched + 1), None]]


def cosine_steps(floor: float, chosen: float | None) -> list[float]:
    """Round cosines from `floor` to 1, about `MOST_STEPS` at most, with both ends and the chosen one among them."""
    step = next((step for step in _STEPS if (1 - floor) / step <= MOST_STEPS), _STEPS[-1])
    between = {round(i * step, 6) for i in range(int(floor / step), round(1 / step))}
    wanted = {floor, *(between if chosen is None else {*between, chosen}), 1.0}
    return sorted(cosine for cosine in wanted if cosine >= floor)


def _cut(edges: Edges, eligible: npt.NDArray[np.bool_], vectors: Vectors, thresholds: Thresholds) -> Cut:
    labels = connected_groups(filter_edges(edges, *thresholds), len(eligible))
    sizes = np.bincount(labels, minlength=len(labels))
    may_stay = np.bincount(labels[eligible], minlength=len(labels))
    sizes[(sizes < 2) | (may_stay == 0)] = 0
    goes, groups = int(np.maximum(may_stay - 1, 0).sum()), int((sizes > 0).sum())
    if not groups:
        return Cut(thresholds, goes, 0, 0, None)
    largest = int(sizes.argmax())
    return Cut(thresholds, goes, groups, int(sizes[largest]), _least_alike(vectors, np.flatnonzero(labels == largest)))


def _least_alike(vectors: Vectors, rows: Rows) -> float | None:
    """The lowest cosine of any two of these rows, of an even choice of `TILE_ROWS` if they are more."""
    rows = np.intersect1d(rows, vectors.rows)
    rows = rows[:: -(-len(rows) // TILE_ROWS) or 1]
    cosine = vectors.close_pairs(rows, rows, -1.0)[2]
    return float(cosine.min()) if len(rows) > 1 else None


def pairs_around(edges: Edges, eligible: npt.NDArray[np.bool_], chosen: Thresholds) -> tuple[Edges, Edges]:
    """The pairs that the cosine decides, those at or above the threshold and those below, the nearest to it first.

    They are the semantic pairs of eligible rows that equal bytes and perceptual hashes do not join already.
    """
    joined = connected_groups(filter_edges(edges, *chosen._replace(min_similarity=None)), len(eligible))
    pairs = edges.of(Kind.SEMANTIC)
    pairs = pairs.take((joined[pairs.a] != joined[pairs.b]) & eligible[pairs.a] & eligible[pairs.b])
    pairs = pairs.take(np.lexsort((pairs.b, pairs.a, pairs.similarity)))
    threshold = np.inf if chosen.min_similarity is None else chosen.min_similarity
    above = pairs.similarity >= threshold
    return pairs.take(above), pairs.take(np.flatnonzero(~above)[::-1])
