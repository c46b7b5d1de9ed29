"""Pairs found, decisions and the policy -> what other duplicate thresholds would do, without making anything again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import read_table
from image_curation.duplicates.edges import Edges
from image_curation.duplicates.preview import Cut, Thresholds, cosine_cuts, distance_cuts, pairs_around
from image_curation.duplicates.vectors import Vectors
from image_curation.policy import Policy
from image_curation.project import Project
from image_curation.steps.duplicate_groups import member_vectors, read_duplicates

PAIRS = 12


@dataclass(frozen=True)
class Pairs:
    """Pairs of images, nearest to the threshold first; `total` if these are only some.

    Attributes:
        left, right: n rows each with `shard` and `key`.
        similarity: n cosines.
    """

    left: pa.Table
    right: pa.Table
    similarity: list[float]
    total: int


@dataclass(frozen=True)
class Preview:
    """What thresholds would do: the policy's own, others of the cosine and of the bits, and the pairs at the border."""

    chosen: Thresholds
    by_cosine: list[Cut]
    by_distance: list[Cut]
    above: Pairs
    below: Pairs


def preview_caution(policy: Policy) -> str | None:
    """What to know of the counts where the policy drops fewer than all but one of the images that are linked."""
    rules = policy.duplicates
    if rules.groups == "components" and rules.min_keeper_similarity is None:
        return None
    chosen = f"groups: {rules.groups}" if rules.groups != "components" else "min_keeper_similarity"
    return (
        "The preview of duplicate thresholds counts all but one of the images that are linked. The policy has "
        f"`{chosen}`, under which fewer go: the ledger has the true number for its own thresholds."
    )


def preview_thresholds(project: Project, shards: Sequence[str]) -> Preview:
    """Count what would go of the samples of `shards` at other thresholds than the policy's.

    Which images may stay at all is what the last selection found of them; so counts are those of a new selection under
    the same other rules, with groups as connected components.

    Raises:
        ArtifactError: duplicates have not been searched yet, or a shard has no selection.
    """
    members, edges = read_duplicates(project)
    here, eligible = _standing(project, shards, members)
    edges = edges.take(here[edges.a] & here[edges.b])
    rules = project.policy.duplicates
    min_similarity = None if rules.min_similarity is None else project.min_similarity
    chosen = Thresholds(min_similarity, rules.max_phash_distance, rules.exact)
    vectors = Vectors.measure(_vectors(project, members, here))
    searched = project.settings.duplicates.max_phash_distance
    above, below = pairs_around(edges, eligible, chosen)
    return Preview(
        chosen,
        cosine_cuts(edges, eligible, vectors, chosen, project.similarity_floor),
        distance_cuts(edges, eligible, vectors, chosen, searched),
        _pairs(members, above),
        _pairs(members, below),
    )


def _standing(
    project: Project, shards: Sequence[str], members: pa.Table
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """bool [m] each: members that are in `shards`, and those of them that no rule but that of duplicates drops."""
    places = {
        identity: i
        for i, identity in enumerate(zip(members["shard"].to_pylist(), members["key"].to_pylist(), strict=True))
    }
    here, eligible = np.zeros(len(members), np.bool_), np.zeros(len(members), np.bool_)
    for shard in shards:
        decided = read_table(project.selection_url(shard), ["key", "decision", "reason"])
        duplicate = pc.fill_null(pc.starts_with(decided["reason"], "duplicate_"), False)
        stands = pc.or_(pc.equal(decided["decision"], "kept"), duplicate)
        for key, may_stay in zip(decided["key"].to_pylist(), stands.to_pylist(), strict=True):
            place = places.get((shard, key))
            if place is not None:
                here[place], eligible[place] = True, may_stay
    return here, eligible


def _vectors(project: Project, members: pa.Table, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.float16]:
    """The members' vectors, zeros for those that are not here: their shards may be gone."""
    found = member_vectors(project, members.filter(pa.array(here)))
    vectors = np.zeros((len(members), found.shape[1]), np.float16)
    vectors[here] = found
    return vectors


def _pairs(members: pa.Table, edges: Edges) -> Pairs:
    shown = edges.take(np.arange(min(PAIRS, len(edges))))
    left, right = (members.select(["shard", "key"]).take(pa.array(rows)) for rows in (shown.a, shown.b))
    return Pairs(left, right, shown.similarity.tolist(), len(edges))
