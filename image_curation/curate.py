"""The whole job without an orchestrator: source and policy -> release and report, on whatever cluster is given.

It makes the same artifacts in the same places as the Dagster graph, so either can go on where the other stopped.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from image_curation.audit import (
    Finding,
    ledger_adds_up,
    ledger_of,
    null_score_reasons,
    release_equals_selection,
    shards_are_readable,
    vectors_have_samples,
    vectors_have_unit_norm,
)
from image_curation.cluster import Cluster, Stage
from image_curation.ledger import Ledger
from image_curation.project import Project
from image_curation.release.manifest import Manifest
from image_curation.shards.discover import Shard, discover, largest_first
from image_curation.steps.curated_shards import build_curated_shards
from image_curation.steps.curation_report import build_curation_report
from image_curation.steps.duplicate_groups import build_duplicate_groups
from image_curation.steps.embeddings import build_embeddings
from image_curation.steps.known_matches import build_known_matches, check_known_sets
from image_curation.steps.outcome import Outcome
from image_curation.steps.scores import build_scores
from image_curation.steps.selection import build_selection
from image_curation.steps.shard_index import build_shard_index

OnProgress = Callable[[str, int, int, int], None]
"""Called with the step, how much of it is done, how much there is, and how many samples were made anew in it."""

AUDITS = (shards_are_readable, vectors_have_samples, vectors_have_unit_norm, ledger_adds_up, release_equals_selection)


@dataclass(frozen=True)
class Curated:
    """What a curation came to. `failed_shards` could not be done, for reasons that a second try may mend."""

    ledger: Ledger
    manifest: Manifest
    findings: dict[str, Finding]
    failed_shards: dict[str, str]
    ignored_files: list[str]
    null_scores: dict[str, str]
    """Scores that no sample has, and why."""


def curate(project: Project, cluster: Cluster, on_progress: OnProgress) -> Curated:
    """Bring every artifact of the project up to date, and release.

    A shard that cannot be done is left out and named in the result. If none can be done, its error is raised.

    Raises:
        ConfigError: there is no tar in the source, or a known set cannot be used.
        CurationError: whatever stopped all shards, or a step over all of them.
    """
    check_known_sets(project)
    tars, ignored = discover(project.settings.source)
    failed = take_through(shard_stages(project), largest_first(tars), cluster, on_progress)
    shards = [tar.key for tar in tars if tar.key not in failed]
    build_duplicate_groups(project, shards, cluster, lambda done, of: on_progress("duplicate_groups", done, of, 0))
    with _whole("selection", on_progress):
        build_selection(project, shards)
    ledger = ledger_of(project, shards)
    with _whole("curated_shards", on_progress):
        manifest = build_curated_shards(project, shards, cluster, ledger, on_shard=lambda _: None)
    with _whole("curation_report", on_progress):
        build_curation_report(project, shards)
    findings = {audit.__name__: audit(project, shards) for audit in AUDITS}
    return Curated(ledger, manifest, findings, failed, ignored, null_score_reasons(project, shards))


def shard_stages(project: Project) -> list[Stage]:
    """What is made of each tar by itself. Without known sets there is nothing to match."""
    known = Stage("known_matches", partial(_by_key, partial(build_known_matches, project)))
    return [
        Stage("shard_index", partial(build_shard_index, project)),
        Stage("embeddings", partial(_by_key, partial(build_embeddings, project)), "gpu"),
        Stage("aesthetic_scores", partial(_by_key, partial(build_scores, project, "aesthetic"))),
        Stage("nsfw_scores", partial(_by_key, partial(build_scores, project, "nsfw"))),
        *([known] if project.settings.known_sets else []),
    ]


def _by_key(step: Callable[[str], Outcome], shard: Shard) -> Outcome:
    return step(shard.key)


def take_through(
    stages: Sequence[Stage], shards: Sequence[Shard], cluster: Cluster, on_progress: OnProgress
) -> dict[str, str]:
    """Take shards through stages, leaving behind those that fail. Returns the keys of these, each with stage and error.

    Raises:
        Exception: no shard came through; the first error.
    """
    failed: dict[str, str] = {}
    first_error: Exception | None = None
    done, to_do, made = Counter[str](), {stage.name: len(shards) for stage in stages}, Counter[str]()

    def tell(stage: str) -> None:
        on_progress(stage, done[stage], to_do[stage], made[stage])

    names = list(to_do)
    for name in names:
        tell(name)
    for one in cluster.run(stages, shards):
        done[one.stage] += 1
        if one.error is None:
            made[one.stage] += 0 if one.result.reused else one.result.artifact.rows
        else:
            first_error = first_error or one.error
            failed[one.item.key] = f"{one.stage}: {one.error}"
            for later in names[names.index(one.stage) + 1 :]:
                to_do[later] -= 1
                tell(later)
        tell(one.stage)
    if first_error and len(failed) == len(shards):
        raise first_error
    return failed


@contextmanager
def _whole(name: str, on_progress: OnProgress) -> Iterator[None]:
    """Progress of a step that is one piece of work."""
    on_progress(name, 0, 1, 0)
    yield
    on_progress(name, 1, 1, 0)
