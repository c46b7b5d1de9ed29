"""Rows of duplicate groups -> the row for which each goes, by rules that ask who is alike directly: `star`, `ranked`.

Groups come from a spanning forest, which knows who is linked but not every pair. So the rows of one group are compared
with each other once more, all of them, in tiles.
"""

from typing import Literal

import numpy as np

from image_curation.duplicates.alike import Alike, Bools
from image_curation.duplicates.edges import Rows, in_blocks
from image_curation.duplicates.vectors import TILE_ROWS

BLOCK_ROWS = 256  # rows decided at a time: many small groups share a block, whose pairs across groups are wasted work


def choose_leaders(labels: Rows, rank: Rows, eligible: Bools, alike: Alike, rule: Literal["star", "ranked"]) -> Rows:
    """The row for which each row goes: the best ranked one that is alike directly and may take others with it.

    `star`: in order of rank, an eligible row goes if a row that stays is alike, and else stays. So each row that goes
    is alike to one that stays, and no two that stay are alike: what is linked only by way of others is kept.

    `ranked`: an eligible row goes if any better ranked eligible row is alike, even one that went itself; of a chain
    A ~ B ~ C only A stays, although nothing that stays is like C. The leader of a row may so be a row that went. This
    is the rule of SemDeDup (Abbas et al. 2023, arXiv 2303.09540) and of NeMo Curator, which look within a k-means cell.

    Rows that are not eligible take none with them; theirs is the leader that they would have, ranked last.

    In the largest group every row meets at worst every other; memory is that of a tile and some numbers a row.

    Args:
        labels: int64 [n], equal for rows of one group: only these are compared.
        rank: int64 [n], position in a total order, 0 best. Equal ranks would fall to the smaller row.
        eligible: bool [n], rows that may stay.
        alike: when two rows are duplicates.

    Returns:
        int64 [n]: the leader, of a row that stays itself, -1 for one that is not eligible and has none.
    """
    leader = np.full(len(labels), -1, np.int64)
    leading = np.empty(0, np.int64)  # rows that may take others with them, of the group that a block has not ended
    for rows in in_blocks(np.lexsort((rank, ~eligible, labels)), BLOCK_ROWS):
        leading = leading[labels[leading] == labels[rows[0]]]
        for tile in in_blocks(leading, TILE_ROWS):
            free = rows[(labels[rows] == labels[rows[0]]) & (leader[rows] < 0)]
            if len(free) == 0:
                break
            _follow(leader, free, tile, alike)
        _decide(leader, rows, eligible, alike.all_pairs(rows, rows) & (labels[rows][:, None] == labels[rows]), rule)
        taking = eligible[rows] & ((leader[rows] == rows) | (rule == "ranked"))
        leading = np.concatenate([leading, rows[taking]])
        leading = leading[labels[leading] == labels[rows[-1]]]
    return leader


def _follow(leader: Rows, rows: Rows, tile: Rows, alike: Alike) -> None:
    """Give each of `rows` the first row of `tile` that is alike."""
    takes = alike.all_pairs(rows, tile)
    taken = takes.any(axis=1)
    leader[rows[taken]] = tile[takes[taken].argmax(axis=1)]


def _decide(leader: Rows, rows: Rows, eligible: Bools, takes: Bools, rule: str) -> None:
    """Go through a block in order. Rows without a leader yet are those that none of an earlier block takes.

    Args:
        takes: bool [len(rows), len(rows)], whether two rows are of one group and alike.
    """
    for i in np.flatnonzero(eligible[rows]):
        if leader[rows[i]] < 0:
            leader[rows[i]] = rows[i]
        elif rule == "star":
            continue
        free = takes[i] & (leader[rows] < 0)  # all that rank before i have a leader, so these rank after it
        leader[rows[free]] = rows[i]


def last_leaders(leader: Rows) -> Rows:
    """int64 [n]: the row that stays at the end of each chain of leaders; -1 where there is no leader."""
    last = leader
    while True:
        further = np.where(last < 0, -1, last[last])
        if np.array_equal(further, last):
            return last
        last = further
