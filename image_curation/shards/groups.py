"""The tars of a source -> groups of about the same bytes, taken up as one: for more tars than an orchestrator likes.

Which tar is in which group is remembered below the root, so that it stays there however the source grows, and which of
them were in the source, and how, when it was last listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from image_curation import storage
from image_curation.artifacts import Certificate, digest, read_table, write_table
from image_curation.shards.balance import grow
from image_curation.shards.discover import Shard

_MADE_BY = Certificate(artifact="groups", code_version="1")
_SCHEMA = pa.schema(
    [
        pa.field("group", pa.int32(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string()),  # null: it is no longer in the source, and holds its place
    ]
)


@dataclass(frozen=True)
class Group:
    """The tars of a group that are in the source, by key."""

    key: str
    tars: tuple[Shard, ...]

    @property
    def fingerprint(self) -> str:
        """Changes when a tar comes into the group, changes or goes."""
        return digest({tar.key: tar.fingerprint for tar in self.tars})


def group_tars(url: str, found: Sequence[Shard], target: int) -> list[Group]:
    """Put tars into groups, those that were in one before into the same, and remember it.

    Args:
        url: where groups are remembered; nothing is there at first.
        found: all tars in the source.
        target: bytes of a group, see `balance.grow`.

    Returns:
        The groups that have a tar in the source, by key.
    """
    before = _read(url)
    rows = {row["shard"]: row for row in before.to_pylist()}
    rows |= {tar.key: _row(tar) for tar in found}
    old: list[list[str]] = [[] for _ in range(1 + max(before["group"].to_pylist(), default=-1))]
    for group, shard in zip(before["group"].to_pylist(), before["shard"].to_pylist(), strict=True):
        old[group].append(shard)
    here = {tar.key for tar in found}
    after = [
        rows[shard] | {"group": n, "fingerprint": rows[shard]["fingerprint"] if shard in here else None}
        for n, group in enumerate(grow(old, {key: row["bytes"] for key, row in rows.items()}, found, target))
        for shard in group
    ]
    table = pa.Table.from_pylist(after, _SCHEMA)
    if not table.equals(before):
        write_table(url, table, _MADE_BY)
    return _groups(table)


def remembered_groups(url: str) -> list[Group]:
    """The groups as they were when the source was last listed."""
    return _groups(_read(url))


def _row(tar: Shard) -> dict[str, object]:
    return {"shard": tar.key, "bytes": tar.size, "url": tar.url, "fingerprint": tar.fingerprint}


def _read(url: str) -> pa.Table:
    found = read_table(url) if storage.exists(url) else _SCHEMA.empty_table()
    return found.replace_schema_metadata(None)


def _groups(table: pa.Table) -> list[Group]:
    members: dict[str, list[Shard]] = {}
    for row in table.to_pylist():
        if row["fingerprint"] is not None:
            tar = Shard(row["shard"], row["url"], row["bytes"], row["fingerprint"])
            members.setdefault(f"group-{row['group']:06}", []).append(tar)
    return [Group(key, tuple(sorted(tars, key=lambda tar: tar.key))) for key, tars in members.items()]
