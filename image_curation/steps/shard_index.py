"""`shard_index`: a tar -> one row a sample with where its members lie, what they are, and what is wrong with them."""

from typing import Any

from image_curation.artifacts import Certificate
from image_curation.errors import ShardError
from image_curation.project import Project
from image_curation.shards.discover import Shard
from image_curation.shards.index import CODE_VERSION, SHARD_INDEX_SCHEMA, index_shard
from image_curation.steps.outcome import Made, Outcome, count, reuse_or_make


def build_shard_index(project: Project, shard: Shard) -> Outcome:
    """Index one tar.

    A tar that cannot be read gives an index without rows whose fact `unreadable` says why: it costs its own samples,
    and it is tried again when the file changes.

    Raises:
        StorageError: the store failed; that says nothing of the tar, so nothing is written.
    """
    limits = project.settings.decode
    certificate = Certificate(
        artifact="shard_index",
        code_version=CODE_VERSION,
        settings={"limits": limits.model_dump()},
        inputs={"tar": shard.fingerprint, "url": shard.url},
    )

    def make() -> Made:
        facts: dict[str, Any] = {
            "url": shard.url,
            "bytes": shard.size,
            "unreadable": None,
            "problem": None,
            "strays": [],
        }
        try:
            index = index_shard(shard, limits)
        except ShardError as error:
            return SHARD_INDEX_SCHEMA.empty_table(), facts | {"unreadable": str(error), "statuses": {}}
        statuses = count(index.table["status"].to_pylist())
        return index.table, facts | {"problem": index.problem, "strays": index.strays, "statuses": statuses}

    return reuse_or_make(project.index_url(shard.key), certificate, make)
