"""Edges -> the places of those in their maximum spanning forest, in torch's operations, for a GPU.

Boruvka's method ("O jistem problemu minimalnim", 1926): every component takes its strongest edge at once, components
that are joined become one, and what lies within one is left out; each round leaves at most half of the components.
Strengths are made distinct by a total order, so the forest is the one that any other method finds.
"""

import torch

from image_curation.duplicates.edges import Edges


def forest_places(edges: Edges, n: int, device: str) -> torch.Tensor:
    """Places, int64 on the host, of the edges of the forest, strongest first; see `forest.maximum_spanning_forest`."""
    a, b, similarity = (torch.from_numpy(column).to(device) for column in (edges.a, edges.b, edges.similarity))
    order = torch.argsort(a * n + b)
    order = order[torch.argsort(torch.from_numpy(edges.kind).to(device)[order], stable=True)]
    order = order[torch.argsort(similarity[order], stable=True, descending=True)]
    used, ends = torch.unique(torch.cat([a[order], b[order]]), return_inverse=True)
    u, v = ends.chunk(2)
    return order[_forest(u, v, len(used))].cpu()


def _forest(u: torch.Tensor, v: torch.Tensor, nodes: int) -> torch.Tensor:
    """Ranks of the edges of the forest, rising; edge u[i] - v[i] of rank i is the stronger, the smaller i."""
    edges = len(u)
    ranks, each = torch.arange(edges, device=u.device), torch.arange(nodes, device=u.device)
    taken = torch.zeros(edges, dtype=torch.bool, device=u.device)
    while len(ranks):
        strongest = torch.full((nodes,), edges, device=u.device)
        for end in (u, v):
            strongest.scatter_reduce_(0, end, ranks, "amin")
        joined = torch.nonzero(strongest < edges)[:, 0]
        taken[strongest[joined]] = True
        place = torch.searchsorted(ranks, strongest[joined])
        parent = each.clone()
        parent[joined] = u[place] + v[place] - joined  # the other end
        parent = _roots(torch.where((parent[parent] == each) & (each < parent), each, parent))
        u, v = parent[u], parent[v]
        left = u != v
        u, v, ranks = u[left], v[left], ranks[left]
    return torch.nonzero(taken)[:, 0]


def _roots(parent: torch.Tensor) -> torch.Tensor:
    """The root of each node's tree."""
    while not torch.equal(parent, above := parent[parent]):
        parent = above
    return parent
