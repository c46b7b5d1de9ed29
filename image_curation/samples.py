"""What is known of a shard's samples, put side by side: index, embeddings and scores -> one table."""

import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import read_table
from image_curation.errors import ArtifactError
from image_curation.project import Project

SCORES = ("aesthetic", "nsfw")

_INDEX = (
    "shard",
    "key",
    "image_name",
    "image_offset",
    "image_size",
    "sidecars",
    "caption",
    "metadata",
    "format",
    "sha256",
)
_EMBEDDING = ("status", "error", "width", "height", "decoder", "damaged", "phash", "sharpness", "exposure", "contrast")


def read_samples(project: Project, shard: str, vectors: bool = False) -> pa.Table:
    """All that is known of each sample of a shard, in the order of its index.

    Columns: those of the index (identity, place in the tar, caption, metadata, hash), `status` and `error`, what was
    measured while decoding, `aesthetic` and `nsfw` (null without a head), and derived `short_side`, `aspect_ratio`,
    `pixels`, `caption_characters`; `vector` if asked for.

    Raises:
        ArtifactError: an artifact of the shard is missing, or they are not of the same samples.
    """
    index = read_table(project.index_url(shard), _INDEX)
    parts = [read_table(project.embeddings_url(shard), ["key", *_EMBEDDING, *(["vector"] if vectors else [])])]
    parts += [read_table(project.scores_url(score, shard), ["key", score]) for score in SCORES]
    for part in parts:
        if not part["key"].equals(index["key"]):
            raise ArtifactError(f"shard {shard}: its artifacts are of different samples. Materialize the shard again.")
        for name in part.column_names[1:]:
            index = index.append_column(part.schema.field(name), part[name])
    return _derive(index)


def _derive(samples: pa.Table) -> pa.Table:
    width, height = (samples[name].cast(pa.float64()) for name in ("width", "height"))
    short, long = pc.min_element_wise(width, height), pc.max_element_wise(width, height)
    return (
        samples.append_column("short_side", short.cast(pa.int32()))
        .append_column("aspect_ratio", pc.divide(long, short))
        .append_column("pixels", pc.multiply(width, height))
        .append_column("caption_characters", pc.utf8_length(samples["caption"]))
    )
