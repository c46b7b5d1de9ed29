"""A partition -> the tars that it is of: one, or a group of them where IMAGE_CURATION_PARTITION_BYTES is set."""

from collections.abc import Mapping, Sequence

import dagster as dg

from assets.made import made, tar_version
from image_curation.artifacts import digest
from image_curation.config import Settings
from image_curation.project import Project
from image_curation.shards.discover import Shard, discover, largest_first
from image_curation.shards.groups import Group, group_tars, remembered_groups
from image_curation.storage import join

Partition = Shard | Group
Members = dict[str, list[str]]
"""Partition -> the keys of its tars."""


def partitions_of(settings: Settings) -> list[Partition]:
    """The partitions of the source as it is now, by key."""
    found, _ = discover(settings.source)
    if settings.partition_bytes is None:
        return list(found)
    return list(group_tars(_groups_url(settings), found, settings.partition_bytes))


def tars_of(partition: Partition) -> list[Shard]:
    """The tars of a partition, largest first."""
    return largest_first(partition.tars) if isinstance(partition, Group) else [partition]


def partitions_to_index(project: Project, keys: Sequence[str]) -> list[Partition]:
    """These partitions as the source has them now, largest first.

    Raises:
        Failure: one of them is no longer in the source.
    """
    found = {one.key: one for one in partitions_of(project.settings)}
    missing = [key for key in keys if key not in found]
    if missing:
        raise dg.Failure(
            f"{len(missing)} shards are no longer under {project.settings.source}: {', '.join(missing[:10])}. "
            "Remove their partitions, or put the tars back.",
            allow_retries=False,
        )
    return sorted((found[key] for key in keys), key=lambda one: (-sum(tar.size for tar in tars_of(one)), one.key))


def members(settings: Settings, versions: Mapping[str, str]) -> Members:
    """The tars of partitions of which something was made.

    Args:
        versions: partition -> the version of its tars that it was made of. A group that has other tars since is left
            out: its rows would not fit together.
    """
    if settings.partition_bytes is None:
        return {key: [key] for key in versions}
    return {
        group.key: [tar.key for tar in group.tars]
        for group in remembered_groups(_groups_url(settings))
        if versions.get(group.key) == tar_version(group.fingerprint)
    }


def done(instance: dg.DagsterInstance, settings: Settings, asset: str) -> list[str]:
    """The tars of all partitions that exist and of which `asset` has been materialized, by name."""
    registered = set(instance.get_dynamic_partitions("shards"))
    versions = {key: one.tar for key, one in made(instance, asset).items() if key in registered}
    return keys_of(members(settings, versions))


def keys_of(of: Members) -> list[str]:
    """The keys of all tars of these partitions, by name."""
    return sorted(key for keys in of.values() for key in keys)


def content_of(partition: str, contents: Mapping[str, str]) -> str:
    """A hash of what was made of a partition: of what was made of its tar, or of each of its tars."""
    return contents[partition] if contents.keys() == {partition} else digest(dict(contents))


def _groups_url(settings: Settings) -> str:
    return join(settings.root, "groups.parquet")
