"""Kept samples -> which of them go into which output shard, under which keys; nothing is read or written here."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.errors import ConfigError, ReleaseError
from image_curation.release.content import rows_hash
from image_curation.release.keys import release_keys

# Part of every plan hash. Raise it when the bytes of a shard change with equal rows.
LAYOUT = "1"

# What a row must have. All other columns (scores, quality) go as they are into JSON and Parquet; `vector` into Parquet.
NEVER_NULL = ("shard", "key", "url", "image_name", "image_offset", "image_size", "sha256")
ROW_COLUMNS = (*NEVER_NULL, "sidecars", "caption", "metadata", "format", "width", "height")
_TAKEN = ("release_key", "release_name", "previous", "renamed")

_HORIZON = 8  # shards: while more are to come, each is cut without looking at how many samples there are in all
_BLOCK = 512
_JSON_BYTES = 2 * _BLOCK  # what our part of a JSON sidecar takes, roughly


@dataclass(frozen=True)
class ShardPlan:
    """One output shard: its name without ending, the rows that go into it, their keys, and a hash of all that."""

    name: str
    rows: range
    keys: tuple[str, ...]
    plan_hash: str

    def slice(self, rows: pa.Table) -> pa.Table:
        """The shard's own rows of the table that was planned: what `write_release_shard` takes."""
        return rows.slice(self.rows.start, len(self.rows))


def plan_shards(rows: pa.Table, max_samples: int, max_bytes: int, config_hash: str) -> list[ShardPlan]:
    """Cut the kept samples into output shards.

    Args:
        rows: one row a kept sample, in order of (shard, key), with at least `ROW_COLUMNS` (`metadata` may be absent).
            The structs of `sidecars` may have a field `sha256`: then it is checked, and a sidecar that changed in place
            makes a new shard.
        max_samples: samples in a shard at most.
        max_bytes: bytes of a tar at most, up to the size of our JSON, which is estimated. A larger sample is a shard.
        config_hash: whatever else decides the bytes. Not the policy: it says which rows there are, and what a policy
            does not touch is not written again.

    Raises:
        ConfigError: a limit is below 1, a column is missing, or its name or type cannot go into a release.
        ReleaseError: the rows are not in order, one comes twice, or one has no image.
    """
    _check_columns(rows.schema)
    samples = list(zip(rows["shard"].to_pylist(), rows["key"].to_pylist(), strict=True))
    _check_rows(rows, samples)
    keys = release_keys(samples)
    anchors = np.array([int(sha256[:15], 16) for sha256 in rows["sha256"].to_pylist()], dtype=np.int64)
    content = rows.drop_columns(["url"])  # where a source lies is no content
    plans = []
    for number, part in enumerate(plan_release(_tar_bytes(rows), max_samples, max_bytes, anchors)):
        own = tuple(keys[part.start : part.stop])
        plan_hash = rows_hash(content.slice(part.start, len(part)), LAYOUT, config_hash, *own)
        plans.append(ShardPlan(f"shard-{number:06d}-{plan_hash[:8]}", part, own, plan_hash))
    return plans


def plan_release(
    sizes: Sequence[int] | npt.NDArray[np.int64],
    max_samples: int,
    max_bytes: int,
    anchors: npt.NDArray[np.int64] | None = None,
) -> list[range]:
    """Cut a sequence of samples into even ranges.

    Up to eight shards are of equal length (or of equal bytes where `max_bytes` is the tighter limit). Of more, all but
    the last eight are cut between 7/8 and all of what fits, and what is left is made even.

    Anchors keep the cuts in place when samples come or go: a cut goes before the sample with the smallest anchor within
    1/16 to each side of where it should be (or in the last 1/8 of a full shard), which is mostly the same sample as
    before. Shards are then even to an eighth, and those before a change and some way behind it stay the same
    (content-defined chunking, as in LBFS: Muthitacharoen et al., SOSP 2001).

    Args:
        sizes: bytes of each sample, [n].
        max_samples: samples in a range at most.
        max_bytes: bytes in a range at most; a larger sample has a range to itself.
        anchors: a number of each sample, [n], that says nothing of its neighbours; None cuts by position alone.

    Returns:
        Ranges that follow each other and cover 0 to n; none for n = 0.
    """
    if min(max_samples, max_bytes) < 1:
        raise ConfigError(f"max_samples={max_samples} and max_bytes={max_bytes} of a release shard should be >= 1")
    cutter = _Cutter(np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), max_samples, max_bytes, anchors)
    ranges: list[range] = []
    while (start := ranges[-1].stop if ranges else 0) < len(sizes):
        ranges.append(range(start, cutter.cut(start)))
    return ranges


@dataclass(frozen=True)
class _Cutter:
    """Finds one cut after the other. `before[i]` is the bytes of all samples before sample i, [n + 1]."""

    before: npt.NDArray[np.int64]
    max_samples: int
    max_bytes: int
    anchors: npt.NDArray[np.int64] | None

    def cut(self, start: int) -> int:
        """Where the shard that begins at `start` ends."""
        end, furthest = len(self.before) - 1, self._furthest(start)
        shards = self._shards_needed(start)
        if shards == 1:
            return end
        if shards > _HORIZON:
            return self._anchored(furthest - (furthest - start) // 8, furthest, furthest)
        earliest = end  # the shortest shard that leaves no more than fits into the others
        for _ in range(shards - 1):
            earliest = self._earliest(earliest)
        even = min(max(self._even(start, shards), earliest), furthest)
        slack = (even - start) // 16
        return self._anchored(max(even - slack, earliest), even, min(even + slack, furthest))

    def _anchored(self, low: int, best: int, high: int) -> int:
        return best if self.anchors is None else low + int(np.argmin(self.anchors[low : high + 1]))

    def _shards_needed(self, start: int) -> int:
        """Shards that hold all from `start`, counted no further than one beyond the horizon."""
        shards = 0
        while start < len(self.before) - 1 and shards <= _HORIZON:
            start, shards = self._furthest(start), shards + 1
        return shards

    def _even(self, start: int, shards: int) -> int:
        """The end of the first of so many equal shards, by the limit that is tighter for what is left."""
        samples = len(self.before) - 1 - start
        size = int(self.before[-1] - self.before[start])
        if samples * self.max_bytes >= size * self.max_samples:
            return start + -(-samples // shards)
        return int(np.searchsorted(self.before, self.before[start] + size // shards))

    def _furthest(self, start: int) -> int:
        by_bytes = int(np.searchsorted(self.before, self.before[start] + self.max_bytes, side="right")) - 1
        return min(max(by_bytes, start + 1), start + self.max_samples, len(self.before) - 1)

    def _earliest(self, stop: int) -> int:
        by_bytes = int(np.searchsorted(self.before, self.before[stop] - self.max_bytes, side="left"))
        return max(min(by_bytes, stop - 1), stop - self.max_samples, 0)


def _tar_bytes(rows: pa.Table) -> npt.NDArray[np.int64]:
    """What each sample takes in a tar, int64 [n]: a header and whole blocks for each member."""

    def padded(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return _BLOCK + -(-sizes // _BLOCK) * _BLOCK

    counts = pc.fill_null(pc.list_value_length(rows["sidecars"]), 0).to_numpy()
    sidecars = padded(pc.struct_field(pc.list_flatten(rows["sidecars"]), "size").to_numpy())
    ends = np.concatenate([[0], np.cumsum(sidecars)])
    last = np.cumsum(counts)
    own: npt.NDArray[np.int64] = padded(rows["image_size"].to_numpy()) + ends[last] - ends[last - counts]
    return own + _BLOCK + _JSON_BYTES


def extra_columns(schema: pa.Schema) -> list[str]:
    """The columns that go as they are into JSON and Parquet."""
    return [name for name in schema.names if name not in (*ROW_COLUMNS, "vector")]


def _check_columns(schema: pa.Schema) -> None:
    missing = [name for name in ROW_COLUMNS if name not in schema.names and name != "metadata"]
    if missing:
        raise ConfigError(
            f"rows for a release lack the columns {', '.join(missing)}; they have {', '.join(schema.names)}"
        )
    for name in extra_columns(schema):
        kind = schema.field(name).type
        if name in _TAKEN:
            raise ConfigError(f"the column {name} has a name that a release uses itself: rename it")
        if not any(test(kind) for test in _PLAIN):
            raise ConfigError(f"the column {name} is {kind}, but a release takes numbers, booleans, strings and null")


_PLAIN = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_null,
)


def _check_rows(rows: pa.Table, samples: list[tuple[str, str]]) -> None:
    for name in NEVER_NULL:
        if rows[name].null_count:
            first = samples[pc.index(pc.is_null(rows[name]), True).as_py()]
            raise ReleaseError(
                f"shard {first[0]}, sample {first[1]}: it is kept, but has no {name}. Only ok samples can be."
            )
    for one, next_one in pairwise(samples):
        if one >= next_one:
            raise ReleaseError(
                f"rows for a release should be in order of (shard, key), each once, but {next_one} comes after {one}"
            )
