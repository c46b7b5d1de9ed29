"""Vectors and cells -> a sample's duplicates, and the margin with which a search by the cells meets a share of them."""

import math
from dataclasses import dataclass, replace

import numpy as np

from image_curation.duplicates.cells import Cells, assign
from image_curation.duplicates.edges import Rows
from image_curation.duplicates.products import Block, Products
from image_curation.duplicates.vectors import Float16s, Float64s

_FIRST_QUERIES = 2_000  # sampled rows that show how many have duplicates
FEW = 100  # rows with duplicates that are looked for where there are too few to show a recall
LITTLE_KNOWN = 1.25  # how much more of a margin than any of a few duplicates needs
_Z_CERTAIN = 1.2815515655446004  # standard normal quantile of 90 %


@dataclass(frozen=True, eq=False)
class Sampled:
    """What sampled rows of a block have for duplicates.

    Attributes:
        block: rows that hold a vector, on a device.
        a, b: int64 [m] both: row b[i] is a duplicate of the sampled row a[i]; all that a sampled row has are there.
    """

    block: Block
    a: Rows
    b: Rows


def sampled_duplicates(
    vectors: Float16s, threshold: float, recall: float, queries: int = 40_000, device: str = "cpu"
) -> Sampled:
    """The duplicates of as many rows as show a recall with 90 % certainty, or of some of at most `queries` rows."""
    products = Products(device)
    block, _ = products.load(vectors)
    order = np.random.default_rng(0).permutation(len(block))[:queries]
    return Sampled(block, *_duplicates_of_some(products, block, order, threshold, rows_to_show(recall)))


def rows_to_show(share: float) -> float:
    """How many rows with duplicates it takes to show that a share of these is met with 90 % certainty."""
    return _Z_CERTAIN**2 * share / max(1 - share, 1e-12)


def fitted_margin(
    vectors: Float16s, cells: Cells, threshold: float, recall: float, queries: int = 20_000, device: str = "cpu"
) -> float:
    """`margin_of` the duplicates of a sample of these vectors."""
    return margin_of(sampled_duplicates(vectors, threshold, recall, queries, device), cells, threshold, recall)


def margin_of(sampled: Sampled, cells: Cells, threshold: float, recall: float) -> float:
    """The least margin of which a sample shows that a search by `cells` meets the wanted share of duplicates.

    Sampled rows were compared with all. Of each duplicate that was found it is known with what margin one of the two
    would be a ghost in the other's cell; each sampled row with duplicates counts once. As many rows are sampled as show
    the share with 90 % certainty: it takes 81 with duplicates for 0.98, and 1,641 for 0.999. Where there are not so
    many, the answer is no less than the cells' own margin, and more than any of a few duplicates needs.
    It is at least 0.02, and at most 1, the bound of the worst case.
    """
    known = len(np.unique(sampled.a))
    if known == 0:
        return cells.margin
    need = _needed_margin(sampled.block, sampled.a, sampled.b, cells, threshold)
    few = known < rows_to_show(recall)
    margin = max(cells.margin, LITTLE_KNOWN * need.max()) if few else shown(need, sampled.a, known, recall)
    return float(np.clip(margin * (1 + 1e-6), 0.02, 1.0))


def shown(need: Float64s, a: Rows, known: int, recall: float) -> float:
    """The least need that meets so many of the duplicates of `known` rows that `recall` is certain."""
    share = recall + _Z_CERTAIN * (recall * (1 - recall) / known) ** 0.5  # Wilson's (1927) interval begins at recall
    weight, order = 1 / np.bincount(a)[a], np.argsort(need)
    met = np.searchsorted(np.cumsum(weight[order]), share * known * (1 - 1e-12))
    return float(need[order][min(met, len(need) - 1)])


def _duplicates_of_some(
    products: Products, block: Block, order: Rows, threshold: float, enough: float
) -> tuple[Rows, Rows]:
    """All duplicates b[i] of rows a[i], the first of an order: of as many as it takes until `enough` have duplicates.

    Those asked so far show how many it takes. Where there are not so many, a few have to do.
    """
    a = b = np.empty(0, np.int64)
    asked, step = 0, _FIRST_QUERIES
    while step and asked < len(order):
        more_a, more_b = _duplicates_of(products, block, order[asked : asked + step], threshold)
        a, b = np.concatenate([a, more_a]), np.concatenate([b, more_b])
        asked, known = asked + step, len(np.unique(a))
        share = max(1, known) / asked
        wanted = enough if enough <= share * len(order) else FEW
        step = max(0, math.ceil((wanted - known) / share))
    return a, b


def _duplicates_of(products: Products, block: Block, sample: Rows, threshold: float) -> tuple[Rows, Rows]:
    """All pairs of a sampled row and another row of the block that are duplicates."""
    none = np.empty(0, np.int64)
    pairs = products.close_pairs(block.take(sample), block, threshold)
    parts = [(none, none), *((sample[i], j) for i, j, _ in pairs)]
    a, b = (np.concatenate(column) for column in zip(*parts, strict=True))
    return a[a != b], b[a != b]


def _needed_margin(block: Block, a: Rows, b: Rows, cells: Cells, threshold: float) -> Float64s:
    """The margin with which a[i] or b[i] would be a ghost in the cell of the other; 0 where they share one."""
    used, place = np.unique(np.concatenate([a, b]), return_inverse=True)
    values = block.take(used).values
    nearest = assign(values, replace(cells, margin=0.0), threshold).cell.cpu().numpy()[place]
    (own, other), (of_a, of_b) = np.split(nearest, 2), np.split(values.cpu().numpy().astype(np.float64)[place], 2)
    centroids = cells.centroids.astype(np.float64)
    between = centroids[own] - centroids[other]
    gap = np.minimum(np.einsum("ij,ij->i", of_a, between), -np.einsum("ij,ij->i", of_b, between))
    needed = np.zeros(len(a))
    apart = own != other
    reach = np.linalg.norm(between, axis=1) * (1 - threshold**2) ** 0.5 / threshold
    needed[apart] = gap[apart] / reach[apart]
    return needed
