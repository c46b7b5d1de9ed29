"""Audits: artifacts -> findings on whether what must always hold does hold. Dagster shows them as asset checks."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from image_curation.artifacts import read_artifact, read_table
from image_curation.embedding import vectors_of
from image_curation.ledger import Ledger, most_frequent_first
from image_curation.project import Project
from image_curation.release.manifest import read_manifest
from image_curation.samples import SCORES

NORM_TOLERANCE = 1e-3  # of a unit vector whose entries were rounded to fp16


@dataclass(frozen=True)
class Finding:
    """The result of one audit: whether it holds, a sentence that says what to do if not, and numbers."""

    passed: bool
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)


def shard_ledger(project: Project, shard: str) -> Ledger:
    """Count one shard's fates from the rows of its index and its selection.

    Raises:
        ArtifactError: the shard has no index or no selection yet.
    """
    fates = read_table(project.selection_url(shard), ["decision", "reason"]).group_by(["decision", "reason"])
    counts = fates.aggregate([([], "count_all")]).to_pylist()

    def of(decision: str) -> Counter[str]:
        return Counter({row["reason"]: row["count_all"] for row in counts if row["decision"] == decision})

    return Ledger(
        read=read_artifact(project.index_url(shard)).rows,
        kept=of("kept").total(),
        dropped=most_frequent_first(of("dropped")),
        failed=most_frequent_first(of("failed")),
    )


def ledger_of(project: Project, shards: Sequence[str]) -> Ledger:
    """The ledger of many shards together.

    Raises:
        ArtifactError: a shard has no index or no selection yet.
    """
    return total_ledger(shard_ledger(project, shard) for shard in shards)


def total_ledger(ledgers: Iterable[Ledger]) -> Ledger:
    """The sum of many shards' ledgers."""
    return sum(ledgers, Ledger())


def largest_group(project: Project, shards: Sequence[str]) -> int:
    """Members of the largest duplicate group, over all shards together; 0 where there is none.

    Raises:
        ArtifactError: a shard has no selection yet.
    """
    sizes = Counter[str]()
    for shard in shards:
        sizes.update(read_table(project.selection_url(shard), ["group"])["group"].drop_null().to_pylist())
    return max(sizes.values(), default=0)


def unreadable_shards(project: Project, shards: Sequence[str]) -> dict[str, str]:
    """Shards whose tar cannot be read at all, and why. How many samples they hold is not known."""
    return _told({shard: read_artifact(project.index_url(shard)).facts for shard in shards}, "unreadable")


def _told(facts: Mapping[str, dict[str, Any]], name: str) -> dict[str, str]:
    """One fact of each shard or score for which it is told."""
    return {key: fact[name] for key, fact in facts.items() if fact[name]}


def null_score_reasons(project: Project, shards: Sequence[str]) -> dict[str, str]:
    """Kinds of scores that no sample has, and why: no head fits the encoder, or its file is not at hand."""
    facts = {score: read_artifact(project.scores_url(score, shards[0])).facts for score in SCORES}
    return _told(facts, "null_reason")


def shards_are_readable(project: Project, shards: Sequence[str]) -> Finding:
    """No tar is so damaged that nothing of it could be read, and none was cut short."""
    facts = {shard: read_artifact(project.index_url(shard)).facts for shard in shards}
    unreadable, problems = _told(facts, "unreadable"), _told(facts, "problem")
    if not unreadable and not problems:
        return Finding(True, f"All {len(shards)} tars were read to their end.", {"shards": len(shards)})
    listed = "; ".join(f"{shard}: {reason}" for shard, reason in list((unreadable | problems).items())[:10])
    return Finding(
        False,
        f"{len(unreadable)} tars cannot be read and {len(problems)} are damaged. Replace them at the source; they are "
        f"read again when they change. {listed}",
        {"unreadable": unreadable, "damaged": problems},
    )


def vectors_have_samples(project: Project, shards: Sequence[str]) -> Finding:
    """Embeddings have the rows of the index, in its order, and a vector exactly where the status is ok."""
    wrong = [shard for shard in shards if not _rows_agree(project, shard)]
    text = "Every vector belongs to a sample, and every good sample has its vector."
    if wrong:
        text = f"Embeddings do not fit the index in shards {', '.join(wrong[:10])}. Materialize their embeddings again."
    return Finding(not wrong, text, {"shards": len(shards), "wrong_shards": wrong})


def _rows_agree(project: Project, shard: str) -> bool:
    found = read_table(project.embeddings_url(shard), ["key", "status", "vector"])
    has_vector = found["vector"].is_valid().to_pylist()
    good = [status == "ok" for status in found["status"].to_pylist()]
    keys = read_table(project.index_url(shard), ["key"])["key"].to_pylist()
    return bool(found["key"].to_pylist() == keys and has_vector == good)


def vectors_have_unit_norm(project: Project, shards: Sequence[str]) -> Finding:
    """All vectors have length 1, within what fp16 allows."""
    worst, vectors = 0.0, 0
    for shard in shards:
        table = read_table(project.embeddings_url(shard), ["vector"])
        table = table.filter(table["vector"].is_valid())
        if len(table):
            norms = np.linalg.norm(vectors_of(table).astype(np.float32), axis=1)
            worst, vectors = max(worst, float(np.abs(norms - 1).max())), vectors + len(table)
    passed = worst <= NORM_TOLERANCE
    text = f"The lengths of {vectors:,} vectors are 1 within {worst:.1e}."
    if not passed:
        text += f" That is more than {NORM_TOLERANCE:.0e}: materialize the embeddings again."
    return Finding(passed, text, {"vectors": vectors, "largest_deviation": worst})


def ledger_adds_up(project: Project, shards: Sequence[str]) -> Finding:
    """In each shard and in all: read = kept + dropped + failed."""
    ledgers = {shard: shard_ledger(project, shard) for shard in shards}
    total = total_ledger(ledgers.values())
    wrong = [shard for shard, ledger in ledgers.items() if not ledger.adds_up]
    text = total.sentence() + "."
    if wrong:
        text += f" It does not add up in shards {', '.join(wrong[:10])}. Materialize their selection again."
    facts = {"read": total.read, "kept": total.kept, "dropped": total.dropped, "failed": total.failed}
    return Finding(total.adds_up and not wrong, text, facts)


def release_equals_selection(project: Project, shards: Sequence[str]) -> Finding:
    """The release holds exactly as many samples as the selection keeps."""
    kept = ledger_of(project, shards).kept
    manifest = read_manifest(project.release_url)
    released = manifest.samples if manifest else 0
    text = f"{released:,} samples are released, {kept:,} are kept."
    if released != kept:
        text += " They should be equal: materialize `curated_shards` again."
    return Finding(released == kept, text, {"released": released, "kept": kept})
