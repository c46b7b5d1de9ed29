"""Many tars -> groups of about the same bytes, whose members never change: for sources with more tars than partitions.

Groups are filled in the order in which tars are found. A group that is full is closed: later tars go into the last open
group or into new ones. So what was made of a closed group stays good, however the source grows.
"""

from collections.abc import Iterable, Mapping, Sequence

from image_curation.shards.discover import Shard


def grow(
    groups: Sequence[Sequence[str]], sizes: Mapping[str, int], found: Iterable[Shard], target: int
) -> list[list[str]]:
    """Add tars to groups.

    Args:
        groups: keys of tars, as this function gave them before; none at first.
        sizes: bytes of each of these tars, whether it is still in the source or not.
        found: the tars in the source; those that are in a group stay where they are.
        target: bytes of a group. A group is closed when it holds as much, and is at most one tar larger.

    Returns:
        The groups, with those that are closed as they were, and the last perhaps longer. Tars that are gone stay in
        their groups: they hold their place, so that nobody moves up.

    Raises:
        ValueError: target is below 1.
    """
    if target < 1:
        raise ValueError(f"target={target} should be >= 1 byte")
    grown = [list(group) for group in groups]
    placed = {key for group in grown for key in group}
    room = target - sum(sizes[key] for key in grown[-1]) if grown else 0
    for shard in sorted(found, key=lambda shard: shard.key):
        if shard.key in placed:
            continue
        if room <= 0:
            grown.append([])
            room = target
        grown[-1].append(shard.key)
        placed.add(shard.key)
        room -= shard.size
    return grown
