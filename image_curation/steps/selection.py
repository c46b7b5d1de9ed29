"""`selection`: scores, measures, duplicate pairs and the policy -> keep, or the reason for dropping, for every sample.

Each shard is judged by itself first; then the members of duplicate groups, few against all samples, are put together
and decided at once; then each shard's decisions are written. Only shards whose decisions changed are written anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation import storage
from image_curation.artifacts import Certificate, digest, read_artifact
from image_curation.duplicates.edges import Edges
from image_curation.known.hash_lists import blocked
from image_curation.known.verdicts import verdicts
from image_curation.project import Project
from image_curation.samples import SCORES, read_samples
from image_curation.selection import CODE_VERSION, decide, judge, resolve_duplicates, similarity_facts
from image_curation.steps.duplicate_groups import member_vectors, read_duplicates
from image_curation.steps.known_matches import read_known_matches
from image_curation.steps.outcome import Made, Outcome, count, reuse_or_make

_MEASURES = ("eligible", "aesthetic", "pixels", "image_size", "caption_characters", "sharpness")


@dataclass(frozen=True)
class Judged:
    """A shard's samples and what their own measures say: reason and detail, object [n], None where fine."""

    samples: pa.Table
    reasons: npt.NDArray[np.object_]
    details: npt.NDArray[np.object_]


def build_selection(project: Project, shards: Sequence[str]) -> dict[str, Outcome]:
    """Decide every sample of `shards`, and write the decisions of those shards for which they changed.

    Decisions on other shards, which are gone from the source or could not be done, are removed: they would name
    representatives that are no longer there.

    Raises:
        ArtifactError: a shard has no scores, or duplicates or matches with known sets have not been searched yet.
        ConfigError: a blocklist or a known set is gone.
    """
    project.remember()
    judged = {shard: _judge(project, shard) for shard in sorted(shards)}
    duplicates = _resolve(project, judged)
    outcomes = {shard: _write(project, shard, item, duplicates) for shard, item in judged.items()}
    for shard in set(project.selected_shards()) - outcomes.keys():
        storage.remove(project.selection_url(shard))
    return outcomes


def _judge(project: Project, shard: str) -> Judged:
    samples = _with_known(project, shard, read_samples(project, shard))
    return Judged(samples, *judge(samples, project.policy))


def _with_known(project: Project, shard: str, samples: pa.Table) -> pa.Table:
    """The samples with a column of sentences for each reason that is about known images and that the policy uses."""
    rules, told = project.policy.known, {}
    if rules.blocklists:
        told["blocked"] = blocked(samples, project.policy.blocklists(), rules.max_phash_distance)
    if project.settings.known_sets:
        matches = read_known_matches(project, shard)["matches"].to_pylist()
        limits = project.known_similarity, rules.max_phash_distance
        told["contaminated"] = verdicts(matches, rules.evaluation, "evaluation set", *limits)
        told["in_reference"] = verdicts(matches, rules.reference, "reference set", *limits)
    for name, sentences in told.items():
        samples = samples.append_column(name, pa.array(sentences, pa.string()))
    return samples


def _resolve(project: Project, judged: dict[str, Judged]) -> pa.Table:
    """Which members of duplicate groups go, looking only at members in the shards at hand."""
    members, edges = read_duplicates(project)
    measured = pa.concat_tables([_measures(item) for item in judged.values()])
    position = {identity: i for i, identity in enumerate(_identities(measured))}
    places = np.array([position.get(identity, -1) for identity in _identities(members)], np.int64)
    here = places >= 0
    members, edges = members.filter(pa.array(here)), _among(edges, here)
    for name, column in zip(_MEASURES, measured.take(pa.array(places[here])).select(_MEASURES).columns, strict=True):
        members = members.append_column(name, column)
    return resolve_duplicates(members, member_vectors(project, members), edges, project.policy, project.min_similarity)


def _among(edges: Edges, here: npt.NDArray[np.bool_]) -> Edges:
    """The edges between rows that are here, by the numbers that these rows have when the others are left out."""
    edges = edges.take(here[edges.a] & here[edges.b])
    number = np.cumsum(here) - 1
    return replace(edges, a=number[edges.a], b=number[edges.b])


def _measures(item: Judged) -> pa.Table:
    eligible = pa.array([reason is None for reason in item.reasons], pa.bool_())
    return item.samples.append_column("eligible", eligible).select(["shard", "key", *_MEASURES])


def _identities(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True))


def _write(project: Project, shard: str, item: Judged, duplicates: pa.Table) -> Outcome:
    """Write one shard's decisions, unless they are there already, made of the same."""
    own = duplicates.filter(pc.equal(duplicates["shard"], shard))
    inputs = {"index": project.index_url(shard), "embeddings": project.embeddings_url(shard)}
    inputs |= {score: project.scores_url(score, shard) for score in SCORES}
    if project.settings.known_sets:
        inputs["known_matches"] = project.known_matches_url(shard)
    certificate = Certificate(
        artifact="selection",
        code_version=CODE_VERSION,
        settings={
            "policy": project.policy.model_dump(mode="json"),
            "blocklists": project.policy.blocklist_contents(),
            "min_similarity": project.min_similarity,
        },
        inputs={name: read_artifact(url).content for name, url in inputs.items()}
        | {"duplicates": digest(own.to_pylist())},
    )

    def make() -> Made:
        table = decide(item.samples, item.reasons, item.details, own)
        facts = {"decisions": count(table["decision"].to_pylist()), "reasons": count(table["reason"].to_pylist())}
        return table, facts | similarity_facts(table, project.warn_below)

    return reuse_or_make(project.selection_url(shard), certificate, make)
