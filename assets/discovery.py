"""What is in the source and what Dagster has on record -> what is to be done: a decision, which others carry out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from assets.made import Made, agreeing, released, same_tars, tar_version
from assets.tars import Partition
from assets.versions import SAMPLES
from image_curation.artifacts import digest
from image_curation.shards.groups import Group


@dataclass(frozen=True)
class Known:
    """What Dagster knows: registered shards in their order, how each was last made, and what is going on.

    Attributes:
        made: asset -> shard -> how it was last made, for the assets that are made shard by shard.
        busy: shards that an unfinished run has asked for.
        deciding: whether an unfinished run makes a release.
        released: the tag of the last release.
    """

    registered: Sequence[str] = ()
    made: Mapping[str, Mapping[str, Made]] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    deciding: bool = False
    released: str = ""


@dataclass(frozen=True)
class Batch:
    """Shards that follow each other in the order of registration, and the assets that have to be made of each."""

    shards: tuple[str, ...]
    assets: tuple[str, ...]
    content: str
    """Changes with the tars and with what is to be made of them: the same batch again is a second try."""


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        add, remove: shards to register, and to forget.
        batches: what is to be made of shards by themselves.
        release: the tag of the release of all that is on record now; empty where the last one is just that, or another
            is on its way.
        waiting: how many shards are being worked on. While there are any, or batches, a release would soon be old.
        sample: a shard for a run of decisions to ask for; they are made on all shards, whichever is asked for.
    """

    add: tuple[str, ...]
    remove: tuple[str, ...]
    batches: tuple[Batch, ...]
    release: str
    waiting: int
    sample: str


def plan(
    found: Sequence[Partition], known: Known, versions: Mapping[str, str], stale: bool, shards_per_run: int
) -> Plan:
    """Decide what has to be done so that everything is made of the source as it is.

    A tar is taken up as long as what is on record was not made of it as it is now. So one whose run failed comes again,
    from the step that failed on, apart from those that went through.

    Args:
        found: the partitions that the source has.
        versions: asset -> its version now.
        stale: take up also what was made by another version: under other settings, policy or code.
        shards_per_run: shards of a batch, at most.
    """
    tars = {shard.key: tar_version(shard.fingerprint) for shard in found}
    stays = [key for key in known.registered if key in tars]
    add = sorted(tars.keys() - set(stays))
    needs = {key: _needs(tars[key], key, known, versions if stale else {}) for key in [*stays, *add]}
    fit = agreeing(sorted(stays), [known.made.get(asset, {}) for asset in SAMPLES])
    for group in found:
        if isinstance(group, Group) and fit.get(group.key) != tars[group.key]:
            fit.pop(group.key, None)  # it is released again once it is made of the tars that it has now
    return Plan(
        add=tuple(add),
        remove=tuple(sorted(set(known.registered) - tars.keys())),
        batches=tuple(_batches(needs, tars, known.busy, versions, shards_per_run)),
        release="" if known.deciding or not fit else _release(fit, known.released, versions["curated_shards"], stale),
        waiting=sum(bool(needs[key]) for key in known.busy & needs.keys()),
        sample=next(iter(fit or needs)),
    )


def unchanged(found: Sequence[Partition], registered: Sequence[str], last_release: str) -> bool:
    """Whether the last release is of the source as it is, so that there is nothing to ask further."""
    tars = {shard.key: tar_version(shard.fingerprint) for shard in found}
    return set(registered) == tars.keys() and same_tars(last_release, released(tars, ""))


def _needs(tar: str, key: str, known: Known, versions: Mapping[str, str]) -> tuple[str, ...]:
    """The assets of a shard that were not made of its tar as it is, or not by these versions."""

    def holds(asset: str) -> bool:
        before = known.made.get(asset, {}).get(key)
        return before is not None and before.tar == tar and before.code == versions.get(asset, before.code)

    return tuple(asset for asset in SAMPLES if not holds(asset))


def _batches(
    needs: Mapping[str, tuple[str, ...]],
    tars: Mapping[str, str],
    busy: frozenset[str],
    versions: Mapping[str, str],
    shards_per_run: int,
) -> Iterator[Batch]:
    """Neighbours with the same needs, as many as a run may take. `needs` is in the order of registration."""
    for (assets, is_busy), run in groupby(needs, key=lambda key: (needs[key], key in busy)):
        keys = list(run)
        for start in range(0, len(keys) if assets and not is_busy else 0, shards_per_run):
            shards = tuple(keys[start : start + shards_per_run])
            content = digest([[(key, tars[key]) for key in shards], [(asset, versions[asset]) for asset in assets]])
            yield Batch(shards, assets, content[:12])


def _release(fit: Mapping[str, str], last: str, code: str, stale: bool) -> str:
    """The tag of a release of these shards; empty if it is the last one's."""
    wanted = released(fit, code)
    same = wanted == last if stale else same_tars(wanted, last)
    return "" if same else wanted
