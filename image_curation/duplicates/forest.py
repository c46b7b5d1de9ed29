"""Edges -> a maximum spanning forest: at most n - 1 edges with the same connected components at every threshold.

Filtering the forest at any threshold gives exactly the components that all edges have there, and the forest of a forest
and further edges is the forest of all edges (the cycle property): so thresholds are chosen late and increments compose.
This holds for one scale of similarity. Kinds of edges are on different scales and are cut by thresholds of their own:
so each kind keeps its own forest, and their union has the right components at every combination of thresholds.
"""

from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from image_curation.duplicates.edges import Edges, Kind, concatenate

BATCH_EDGES = {"cpu": 1_000_000, "cuda": 10_000_000}  # held before they are reduced: 25 and 250 MB, about a second


def maximum_spanning_forest(edges: Edges, n: int, device: str = "cpu") -> Edges:
    """The one spanning forest that prefers the strongest edges: similarity down, then kind, a and b up.

    Since no two edges tie, the forest is unique and depends on neither the order nor the repetition of edges.

    Args:
        edges: m edges between rows below `n`; a pair may be there more than once.
        n: number of rows.
        device: where to work, "cpu" or "cuda".

    Returns:
        At most n - 1 of the edges, strongest first.
    """
    if len(edges) == 0:
        return edges
    if edges.b.max() >= n:
        raise ValueError(f"row {edges.b.max()} of an edge should be < n={n}")
    if device == "cuda":
        from image_curation.duplicates.cuda_forest import forest_places

        return edges.take(forest_places(edges, n, device).numpy())
    edges = _ranked(edges, n)
    used = np.zeros(n, np.bool_)
    used[edges.a] = used[edges.b] = True
    place, rows = np.cumsum(used) - 1, int(used.sum())
    # Ranks 1..m as weights: distinct, so that scipy has no tie to break its own way; and none is 0, which it would drop
    ranks = np.arange(1, len(edges) + 1, dtype=np.float64)
    graph = coo_array((ranks, (place[edges.a], place[edges.b])), shape=(rows, rows))
    tree = minimum_spanning_tree(graph.tocsr())
    return edges.take(np.sort(tree.data).astype(np.int64) - 1)


def _ranked(edges: Edges, n: int) -> Edges:
    """Strongest first, each pair once (scipy would add repeated ones up)."""
    edges = edges.take(np.argsort(edges.a * n + edges.b))
    edges = edges.take(np.lexsort((edges.kind, -edges.similarity)))  # stable: of equally strong ones, by pair
    first = np.unique(edges.a * n + edges.b, return_index=True)[1]
    return edges.take(np.sort(first)) if len(first) < len(edges) else edges


def spanning_forests(edges: Edges, n: int, device: str = "cpu") -> Edges:
    """One maximum spanning forest a kind, together: at most 3 (n - 1) edges, right at all thresholds of each kind."""
    return concatenate([maximum_spanning_forest(edges.of(kind), n, device) for kind in Kind])


def forest_of_batches(batches: Iterable[Edges], n: int, device: str = "cpu", batch_edges: int | None = None) -> Edges:
    """The maximum spanning forest of edges of one kind that arrive in batches; holds a batch + `batch_edges` + n.

    Args:
        device: where to work, "cpu" or "cuda".
        batch_edges: how many edges to hold before they are reduced; None is `BATCH_EDGES`.
    """
    limit = batch_edges or BATCH_EDGES[device]
    held, count = [Edges.none()], 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        if count > limit:
            held, count = [maximum_spanning_forest(concatenate(held), n, device)], 0
    return maximum_spanning_forest(concatenate(held), n, device)
