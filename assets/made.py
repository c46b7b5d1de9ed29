"""What Dagster's log says of shards: of which tar, by which version and with which content each was last made.

These three are the data version of a materialization, the one tag by which Dagster finds the latest of all partitions
in a single query.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from image_curation.artifacts import digest

_DATA_VERSION = "dagster/data_version"


@dataclass(frozen=True)
class Made:
    """How a shard was last made. Empty strings where it was recorded without saying so."""

    tar: str
    code: str
    content: str

    def __str__(self) -> str:
        return f"{self.tar}.{self.code}.{self.content[:16]}"

    @classmethod
    def parse(cls, version: str) -> "Made":
        """The inverse of `str`; a version of another kind says nothing of tar and code."""
        parts = version.split(".")
        return cls(*parts) if len(parts) == 3 else cls("", "", version)


def tar_version(fingerprint: str) -> str:
    """A short name for the content of a tar."""
    return digest(fingerprint)[:12]


def made(instance: dg.DagsterInstance, asset: str) -> dict[str, Made]:
    """Shard -> how it was last made, of those that were."""
    key, kind = dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION
    log = instance.event_log_storage
    tags = log.get_latest_tags_by_partition(key, kind, [_DATA_VERSION])
    found = {shard: Made.parse(tag[_DATA_VERSION]) for shard, tag in tags.items()}
    silent = instance.get_materialized_partitions(key) - found.keys()
    return found | dict.fromkeys(silent, Made("", "", ""))


def agreeing(shards: Iterable[str], assets: Sequence[Mapping[str, Made]]) -> dict[str, str]:
    """Shard -> its tar's version, of those of `shards` for which all these assets were made of one and the same tar.

    A shard whose tar changed, and of which not all could be made anew, is not among them: its rows would not fit
    together.
    """
    found = {}
    for shard in shards:
        tars = {one[shard].tar if shard in one else None for one in assets}
        if len(tars) == 1 and None not in tars:
            found[shard] = tars.pop() or ""
    return found


def ready(instance: dg.DagsterInstance, *assets: str) -> dict[str, str]:
    """Shard -> its tar's version, of the registered shards for which all these assets fit together, by name."""
    shards = sorted(instance.get_dynamic_partitions("shards"))
    return agreeing(shards, [made(instance, asset) for asset in assets])


RELEASED = "image-curation/released"
"""A tag of each release: which tars are in it, and by which version it was made."""


def released(tars: Mapping[str, str], code: str) -> str:
    """The value of that tag, for a release of these shards (shard -> its tar's version)."""
    return f"{digest(dict(tars))[:16]}.{code}"


def same_tars(release: str, other: str) -> bool:
    """Whether two releases, by their tags, are of the same tars."""
    return release.split(".")[0] == other.split(".")[0]


def last_release(instance: dg.DagsterInstance) -> str:
    """The tag of the newest release; empty where there is none."""
    event = instance.get_latest_materialization_event(dg.AssetKey("curated_shards"))
    said = event.asset_materialization if event else None
    return (said.tags or {}).get(RELEASED, "") if said else ""
