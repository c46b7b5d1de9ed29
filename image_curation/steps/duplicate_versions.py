"""Duplicate pairs of all shards -> for each shard, how many samples have a twin, and a hash of its pairs.

By the hash it can be told whose duplicates a new search has changed.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from image_curation.artifacts import digest
from image_curation.project import Project
from image_curation.steps.duplicate_groups import read_duplicates


@dataclass(frozen=True)
class Twins:
    """A shard's samples that have a twin somewhere, and a hash of the pairs that they are in."""

    samples: int
    content: str


_NONE = Twins(0, digest([]))


def twins_by_shard(project: Project) -> Mapping[str, Twins]:
    """Shard -> its twins; shards without any have none.

    A pair counts for the shards of both its samples. Both its identities and its similarity are in the hash, so that
    whatever may change a group changes the hash of one of its shards at least.

    Raises:
        ArtifactError: duplicates have not been searched yet.
    """
    members, edges = read_duplicates(project, ["shard", "key"])
    shards, keys = members["shard"].to_pylist(), members["key"].to_pylist()
    pairs: dict[str, list[str]] = {shard: [] for shard in shards}
    ends = zip(edges.a.tolist(), edges.b.tolist(), edges.similarity.tolist(), edges.kind.tolist(), strict=True)
    for a, b, similarity, kind in ends:
        pair = f"{sorted([(shards[a], keys[a]), (shards[b], keys[b])])} {similarity!r} {kind}"
        for shard in {shards[a], shards[b]}:
            pairs[shard].append(pair)
    samples = Counter(shards)
    found = {shard: Twins(samples[shard], digest(sorted(told))) for shard, told in pairs.items()}
    return defaultdict(lambda: _NONE, found)
