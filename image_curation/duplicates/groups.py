"""Edges -> groups, the survivor of each group, and how each row of a group relates to its survivor."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from image_curation.duplicates.alike import Alike
from image_curation.duplicates.edges import HASH_BITS, Edges, Kind, Rows
from image_curation.duplicates.vectors import Float64s

Found = Literal["exact", "perceptual", "semantic", "chain", ""]


def filter_edges(edges: Edges, min_similarity: float | None, max_distance: int | None, exact: bool = True) -> Edges:
    """The edges that a policy accepts, each kind by a threshold of its own.

    Args:
        min_similarity: lowest cosine of semantic edges; None takes none of them.
        max_distance: most bits in which perceptual hashes may differ; None takes none of them.
        exact: whether to take edges of equal content.
    """
    accepted = {
        Kind.EXACT: np.full(len(edges), exact),
        Kind.PERCEPTUAL: edges.similarity >= (np.inf if max_distance is None else 1 - max_distance / HASH_BITS),
        Kind.SEMANTIC: edges.similarity >= (np.inf if min_similarity is None else min_similarity),
    }
    keep = np.zeros(len(edges), np.bool_)
    for kind, mask in accepted.items():
        keep |= (edges.kind == kind) & mask
    return edges.take(keep)


def connected_groups(edges: Edges, n: int) -> Rows:
    """int64 [n]: the smallest row of each row's connected component; a row without edges is alone, its own smallest."""
    if n == 0:
        return np.empty(0, np.int64)
    graph = coo_array((np.ones(len(edges), np.bool_), (edges.a, edges.b)), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    _, first = np.unique(component, return_index=True)
    labels: Rows = first[component].astype(np.int64)
    return labels


def choose_survivors(labels: Rows, rank: Rows, eligible: npt.NDArray[np.bool_]) -> Rows:
    """The best eligible row of each group.

    Args:
        labels: int64 [n], equal for rows of one group, from `connected_groups`.
        rank: int64 [n], position in the user's total order, 0 best. Equal ranks would fall to the smaller row.
        eligible: bool [n], rows that may survive.

    Returns:
        int64 [n]: the survivor of each row's group (itself, if it survives), -1 where no row of the group is eligible.
    """
    rows = np.flatnonzero(eligible)
    best_first = rows[np.lexsort((rows, rank[rows]))]
    groups, first = np.unique(labels[best_first], return_index=True)
    survivor_of_label = np.full(len(labels), -1, np.int64)
    survivor_of_label[groups] = best_first[first]
    return survivor_of_label[labels]


@dataclass(frozen=True, eq=False)
class Relations:
    """How n rows relate to their survivors.

    Attributes:
        similarity: float64 [n], cosine with the survivor, 1 for the survivor itself; NaN where either has no vector or
            there is no survivor.
        found: str [n], the strongest direct relation: "exact", "perceptual", "semantic", "chain" (only by way of others
            in the group), "" for a survivor itself and for a row that has none.
    """

    similarity: Float64s
    found: npt.NDArray[np.str_]


def similarity_to_survivor(survivor: Rows, alike: Alike) -> Relations:
    """Compare each row with its survivor directly, by the same columns and thresholds that made the groups.

    Args:
        survivor: int64 [n] from `choose_survivors` or `choose_leaders`.
        alike: the n rows and the thresholds.
    """
    rows = np.flatnonzero(survivor >= 0)
    kept = survivor[rows]
    *kinds, cosine = alike.of_pairs(rows, kept)
    names: list[Found] = ["", "exact", "perceptual", "semantic"]
    similarity, found = np.full(len(survivor), np.nan), np.full(len(survivor), "", "<U10")
    similarity[rows] = cosine
    found[rows] = np.select([rows == kept, *kinds], names, "chain")
    return Relations(similarity, found)
