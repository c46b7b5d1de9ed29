"""The whole job without an orchestrator: source and policy -> release and report, on whatever cluster is given.

It makes the same artifacts in the same places as the Dagster graph, so either can go on where the other stopped.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

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
from image_curation.cluster import Cluster
from image_curation.ledger import Ledger
from image_curation.project import Project
from image_curation.release.manifest import Manifest
from image_curation.shards.discover import Shard, discover, largest_first
from image_curation.steps.curated_shards import build_curated_shards
from image_curation.steps.curation_report import build_curation_report
from image_curation.steps.duplicate_groups import build_duplicate_groups
from image_curation.steps.embeddings import build_embeddings
from image_curation.steps.outcome import Outcome
from image_curation.steps.scores import build_scores
from image_curation.steps.selection import build_selection
from image_curation.steps.shard_index import build_shard_index

OnProgress = Callable[[str, int, int], None]
"""Called with the step, how much of it is done, and how much there is."""

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
        ConfigError: there is no tar in the source.
        CurationError: whatever stopped all shards, or a step over all of them.
    """
    tars, ignored = discover(project.settings.source)
    tars = largest_first(tars)
    run = _ShardRun(cluster, on_progress, [tar.key for tar in tars])
    run.step("shard_index", partial(build_shard_index, project), tars)
    run.step("embeddings", partial(build_embeddings, project))
    run.step("aesthetic_scores", partial(build_scores, project, "aesthetic"))
    run.step("nsfw_scores", partial(build_scores, project, "nsfw"))
    shards = sorted(run.shards)
    with _whole("duplicate_groups", on_progress):
        build_duplicate_groups(project, shards)
    with _whole("selection", on_progress):
        build_selection(project, shards)
    ledger = ledger_of(project, shards)
    with _whole("curated_shards", on_progress):
        manifest = build_curated_shards(project, shards, cluster, ledger, on_shard=lambda _: None)
    with _whole("curation_report", on_progress):
        build_curation_report(project, shards)
    findings = {audit.__name__: audit(project, shards) for audit in AUDITS}
    return Curated(ledger, manifest, findings, run.failed, ignored, null_score_reasons(project, shards))


class _ShardRun:
    """Takes shards through steps, leaving behind those that fail."""

    def __init__(self, cluster: Cluster, on_progress: OnProgress, shards: Sequence[str]) -> None:
        self.shards = list(shards)
        self.failed: dict[str, str] = {}
        self._cluster, self._on_progress = cluster, on_progress

    def step(self, name: str, function: Callable[[Any], Outcome], items: Sequence[Shard | str] | None = None) -> None:
        """Run one step on all shards that are still there."""
        items = list(self.shards) if items is None else items  # a copy: shards that fail are removed on the way
        errors: list[Exception] = []
        self._on_progress(name, 0, len(items))
        for n, done in enumerate(self._cluster.map(function, items), 1):
            if done.error is not None:
                key = done.item.key if isinstance(done.item, Shard) else done.item
                self.failed[key] = f"{name}: {done.error}"
                self.shards.remove(key)
                errors.append(done.error)
            self._on_progress(name, n, len(items))
        if errors and not self.shards:
            raise errors[0]


@contextmanager
def _whole(name: str, on_progress: OnProgress) -> Iterator[None]:
    """Progress of a step that is one piece of work."""
    on_progress(name, 0, 1)
    yield
    on_progress(name, 1, 1)
