"""`aesthetic_scores`, `nsfw_scores`: a shard's vectors -> a score a sample, null without vector or head."""

from functools import lru_cache

import numpy as np
import pyarrow as pa

from image_curation import embedding
from image_curation.artifacts import Certificate, read_artifact, read_table
from image_curation.errors import NoHead
from image_curation.heads import Head, HeadKind, load_head
from image_curation.project import Project
from image_curation.steps.outcome import Made, Outcome, reuse_or_make

CODE_VERSION = "1"


def build_scores(project: Project, score: HeadKind, shard: str) -> Outcome:
    """Score one shard's vectors. Where no head fits the encoder, the fact `null_reason` says why all scores are null.

    Raises:
        ArtifactError: the shard has no embeddings yet.
    """
    vectors = read_artifact(project.embeddings_url(shard))
    head, no_head = _head(score, vectors.facts["vector_space"], project.settings.heads)
    certificate = Certificate(
        artifact=f"{score}_scores",
        code_version=CODE_VERSION,
        settings={"head": head.weights_sha256 if head else None},
        inputs={"embeddings": vectors.content},
    )

    def make() -> Made:
        table = read_table(vectors.url, ["shard", "key", "status", "vector"])
        values = np.full(len(table), np.nan, np.float32)
        good = np.array(table["status"].to_pylist(), dtype=object) == "ok"
        if head and good.any():
            values[good] = head.score(embedding.vectors_of(table)[good])
        scores = pa.array(values, pa.float32(), from_pandas=True)
        facts = {"scored": len(scores) - scores.null_count, "null_reason": no_head}
        return table.select(["shard", "key"]).append_column(score, scores), facts

    return reuse_or_make(project.scores_url(score, shard), certificate, make)


@lru_cache(maxsize=8)
def _head(score: HeadKind, vector_space: str, path: str | None) -> tuple[Head | None, str | None]:
    """The head, or None and the sentence that says why there is none."""
    try:
        return load_head(score, vector_space, path), None
    except NoHead as error:
        return None, str(error)
