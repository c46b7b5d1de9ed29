"""`curated_shards`: the selection and the source tars -> the release, of which only what changed is written."""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import digest, read_artifact, read_table
from image_curation.cluster import Cluster, Stage
from image_curation.errors import ReleaseError
from image_curation.ledger import Ledger
from image_curation.project import Project
from image_curation.release.manifest import FileEntries, Manifest, ReleaseFacts, publish
from image_curation.release.plan import ShardPlan, plan_shards
from image_curation.release.writer import write_release_shard
from image_curation.samples import read_samples

_IDENTITY = ("shard", "key", "image_name", "image_offset", "image_size", "sidecars", "caption", "metadata", "format")
_MEASURES = ("aesthetic", "nsfw", "sharpness", "exposure", "contrast")


def build_curated_shards(
    project: Project, shards: Sequence[str], cluster: Cluster, ledger: Ledger, on_shard: Callable[[str], None] = print
) -> Manifest:
    """Write the release of all samples that the selection keeps, and publish it as a whole.

    Args:
        on_shard: called with a sentence as each output shard is done.

    Raises:
        ArtifactError: a shard has no selection yet.
        ReleaseError: a source tar changed since it was indexed; the release before stays as it is.
    """
    shards = sorted(shards)
    rows = pa.concat_tables([kept_rows(project, shard) for shard in shards])
    rules = project.policy.release
    plans = plan_shards(rows, rules.samples_per_shard, rules.max_shard_megabytes * 1_000_000, config_hash="")
    tasks = [(plan, plan.slice(rows), project.release_url) for plan in plans]
    entries: list[FileEntries] = []
    for done in cluster.run([Stage("curated_shards", _write)], tasks):
        if done.error is not None:
            raise ReleaseError(
                f"{done.item[0].name} was not written, so nothing is released: {done.error}"
            ) from done.error
        entries.append(done.result)
        on_shard(f"{len(entries)}/{len(plans)} {done.result.name}: {done.result.samples:,} samples")
    selections = {shard: read_artifact(project.selection_url(shard)).content for shard in shards}
    facts = ReleaseFacts(
        ledger=ledger,
        policy_hash=project.policy.fingerprint(),
        selection_hash=digest(selections),
        encoder=_encoder_facts(project, shards),
    )
    return publish(project.release_url, entries, facts)


def _write(task: tuple[ShardPlan, pa.Table, str]) -> FileEntries:
    return write_release_shard(*task)


def kept_rows(project: Project, shard: str) -> pa.Table:
    """The kept samples of a shard with all that goes into the release, by key. `url` is the raw tar's."""
    vectors = project.policy.release.vectors
    samples = read_samples(project, shard, vectors=vectors)
    chosen = [*_IDENTITY, "width", "height", "sha256", *_MEASURES, *(["vector"] if vectors else [])]
    url = read_artifact(project.index_url(shard)).facts["url"]
    rows = samples.select(chosen).append_column("url", pa.array([url] * len(samples), pa.string()))
    decisions = read_table(project.selection_url(shard), ["decision"])["decision"]
    return rows.filter(pc.equal(decisions, "kept")).sort_by("key")


def _encoder_facts(project: Project, shards: Sequence[str]) -> dict[str, object]:
    """The encoder's part of the birth certificate, from the first shard that has vectors."""
    for shard in shards:
        artifact = read_artifact(project.embeddings_url(shard))
        if artifact.rows:
            facts = {name: artifact.facts[name] for name in ("weights_sha256", "preprocessing")}
            return {"name": project.profile.name, "dtype": artifact.certificate.settings["dtype"], **facts}
    return {"name": project.profile.name}
