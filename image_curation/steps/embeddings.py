"""`embeddings`: a tar and its index -> one row a sample with its vector and what was measured while decoding."""

from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

from image_curation import embedding, storage
from image_curation.artifacts import Artifact, Certificate, read_artifact, read_table
from image_curation.config import Settings, resolve_device
from image_curation.encoders import load_encoder, profile
from image_curation.encoders.identity import weights_identity
from image_curation.errors import ShardError
from image_curation.project import Project
from image_curation.steps.outcome import Made, Outcome, count, reuse_or_make

if TYPE_CHECKING:
    from image_curation.decode.decoder import ImageDecoder
    from image_curation.encoders import Encoder


def build_embeddings(project: Project, shard: str) -> Outcome:
    """Decode and embed one shard. The model is loaded once a worker.

    Raises:
        ArtifactError: the shard has no index yet.
        WeightsError: the encoder's weights are not at hand.
        ShardError: the tar is no longer as it was indexed.
        StorageError: the tar cannot be read.
    """
    index = read_artifact(project.index_url(shard))
    settings, encoder_profile = project.settings, project.profile
    device = resolve_device(settings.device)
    certificate = Certificate(
        artifact="embeddings",
        code_version=embedding.CODE_VERSION,
        settings={
            "encoder": asdict(encoder_profile),
            "weights": weights_identity(encoder_profile, settings.weights)
            or _loaded(settings, device)[1].weights_sha256,
            "dtype": encoder_profile.dtype if device == "cuda" else "fp32",
            "limits": settings.decode.model_dump(),
        },
        inputs={"shard_index": index.content},
    )

    def make() -> Made:
        _check_unchanged(index)
        decoder, encoder = _loaded(settings, device)
        rows = read_table(index.url)
        table = embedding.embed_shard(rows, index.facts["url"], decoder, encoder, settings.batch_size)
        _check_unchanged(index)  # nor while it was read
        made_by = {
            "weights_sha256": encoder.weights_sha256,
            "preprocessing": encoder.preprocessing,
            "vector_space": encoder.profile.vector_space,
        }
        return table, made_by | {"statuses": count(table["status"].to_pylist())}

    return reuse_or_make(project.embeddings_url(shard), certificate, make)


def _check_unchanged(index: Artifact) -> None:
    """The index says where bytes lie: in another tar, or in one that was cut short, other bytes lie there."""
    url = index.facts["url"]
    found = storage.file_info(url)
    if found is None or found.fingerprint != index.certificate.inputs["tar"]:
        what = "has changed since it was indexed" if found else "is no longer there"
        raise ShardError(f"tar {url} {what}: materialize `shard_index` for it again, then `embeddings`.")


@lru_cache(maxsize=1)
def _loaded(settings: Settings, device: str) -> "tuple[ImageDecoder, Encoder]":
    """Model and decoding pipeline, kept by each worker between its tasks."""
    from image_curation.decode.decoder import ImageDecoder  # loads DALI, which only those who decode should wait for

    encoder_profile = profile(settings.encoder)
    threads = settings.threads_per_worker()
    decoder = ImageDecoder(encoder_profile.size, device, threads, settings.batch_size, settings.decode)
    return decoder, load_encoder(encoder_profile, device, settings.weights)
