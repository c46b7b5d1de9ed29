"""`embeddings`: a tar and its index -> one row a sample with its vector and what was measured while decoding."""

import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from image_curation import embedding, storage
from image_curation.artifacts import Artifact, Certificate, read_artifact, read_table
from image_curation.config import Settings, resolve_device
from image_curation.decode.limits import DecodeLimits
from image_curation.encoders import load_encoder, profile
from image_curation.encoders.base import CpuDtype, dtype_on
from image_curation.encoders.identity import weights_identity
from image_curation.errors import ShardError
from image_curation.project import Project
from image_curation.steps.outcome import Made, Outcome, count, reuse_or_make

if TYPE_CHECKING:
    from image_curation.engine import EmbeddingEngine, EngineStats

_loading = threading.Lock()
_CUDA_DECODERS = 2  # beside a busy encoder each waits for it now and then
_SWITCH_INTERVAL_S = 0.0005
_engines: "dict[tuple[Any, ...], EmbeddingEngine]" = {}  # of this process, by what it was made of: one at most


def build_embeddings(project: Project, shard: str) -> Outcome:
    """Decode and embed one shard. The model is loaded once a process, whose threads may each build a shard at once.

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
            or _loaded(settings, device).encoder.weights_sha256,
            "dtype": dtype_on(encoder_profile, device, settings.cpu_dtype),
            "limits": settings.decode.model_dump(),
        },
        inputs={"shard_index": index.content},
    )

    def make() -> Made:
        _check_unchanged(index)
        engine = _loaded(settings, device)
        table = engine.embed(read_table(index.url, embedding.INDEX_COLUMNS), index.facts["url"])
        _check_unchanged(index)  # nor while it was read
        encoder = engine.encoder
        made_by = {
            "weights_sha256": encoder.weights_sha256,
            "preprocessing": encoder.preprocessing,
            "vector_space": encoder.profile.vector_space,
        }
        return table, made_by | {"statuses": count(table["status"].to_pylist())}

    return reuse_or_make(project.embeddings_url(shard), certificate, make)


def engine_stats() -> "EngineStats":
    """What the engine of this process has done; nothing, where there is none. For benchmarks."""
    from image_curation.engine import EngineStats

    return next((engine.stats() for engine in _engines.values()), EngineStats())


def _check_unchanged(index: Artifact) -> None:
    """The index says where bytes lie: in another tar, or in one that was cut short, other bytes lie there."""
    url = index.facts["url"]
    found = storage.file_info(url)
    if found is None or found.fingerprint != index.certificate.inputs["tar"]:
        what = "has changed since it was indexed" if found else "is no longer there"
        raise ShardError(f"tar {url} {what}: materialize `shard_index` for it again, then `embeddings`.")


def _loaded(settings: Settings, device: str) -> "EmbeddingEngine":
    """Model, decoder and their threads, kept by each process between its tasks."""
    threads = settings.threads_per_worker()
    needs = (settings.encoder, settings.weights, device, settings.cpu_dtype, threads, settings.decode)
    with _loading:
        if needs not in _engines:
            _engines.clear()  # the older one ends with the last call that uses it
            _engines[needs] = _new_engine(*needs)
        return _engines[needs]


def _new_engine(
    encoder_name: str, weights: str | None, device: str, cpu_dtype: CpuDtype, threads: int, limits: DecodeLimits
) -> "EmbeddingEngine":
    from image_curation.decode.decoder import ImageDecoder  # loads DALI, which only those who decode should wait for
    from image_curation.engine import EmbeddingEngine

    if device == "cuda":  # what a GPU waits for takes the interpreter often and briefly, beside threads with much to do
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
    encoder = load_encoder(profile(encoder_name), device, weights, cpu_dtype)
    size, batch = encoder.profile.size, encoder.batch
    decoders = _CUDA_DECODERS if device == "cuda" else 1
    return EmbeddingEngine(
        [ImageDecoder(size, device, max(1, threads // decoders), batch, limits) for _ in range(decoders)],
        encoder,
        encode_threads=2 if device == "cuda" else 1,
    )
