"""Asset checks: the library's audits, shown beside the assets that they speak of."""

from collections.abc import Callable, Sequence

import dagster as dg

from assets.curated_shards import curated_shards
from assets.embeddings import embeddings
from assets.selection import selection
from assets.shard_index import shard_index
from assets.tars import done
from image_curation import audit
from image_curation.project import Project
from resources.curation import Curation

Audit = Callable[[Project, Sequence[str]], audit.Finding]


def _check(asset: dg.AssetsDefinition, shards_of: str, look: Audit) -> dg.AssetChecksDefinition:
    """A check that audits every shard for which the asset `shards_of` has been materialized."""

    @dg.asset_check(asset=asset, name=look.__name__, description=(look.__doc__ or "").strip())
    def check(context: dg.AssetCheckExecutionContext, curation: Curation) -> dg.AssetCheckResult:
        project = curation.project()
        finding = look(project, done(context.instance, project.settings, shards_of))
        told = {name: v for name, v in finding.facts.items() if v not in ({}, [])}
        metadata = {name: dg.MetadataValue.json(v) if isinstance(v, dict | list) else v for name, v in told.items()}
        return dg.AssetCheckResult(passed=finding.passed, description=finding.sentence, metadata=metadata)

    return check


checks = [
    _check(shard_index, "shard_index", audit.shards_are_readable),
    _check(embeddings, "embeddings", audit.vectors_have_samples),
    _check(embeddings, "embeddings", audit.vectors_have_unit_norm),
    _check(selection, "selection", audit.ledger_adds_up),
    _check(curated_shards, "selection", audit.release_equals_selection),
]
