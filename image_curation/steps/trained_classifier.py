"""`trained_classifier`: a release and a configuration -> a model that names the release, made once."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from image_curation import storage
from image_curation.artifacts import digest
from image_curation.errors import ReleaseError
from image_curation.project import Project
from image_curation.release.manifest import MANIFEST, Manifest, read_manifest
from image_curation.training.config import TrainConfig

CODE_VERSION = "2"  # raise it when equal releases and configurations give other weights
_MODEL, _CARD = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Classifier:
    """A trained model: its folder and card, the hash of its file, whether it was there already, and where it is from.

    `raw_shards`: raw shard -> how many images of the release came from it.
    """

    folder: str
    card: dict[str, Any]
    sha256: str
    reused: bool
    manifest_url: str
    raw_shards: dict[str, int]


def build_trained_classifier(
    project: Project, config: TrainConfig, on_event: Callable[[Any], None] = lambda event: None
) -> Classifier:
    """Train on the project's release, or take the model that is there of the same release and configuration.

    Raises:
        ReleaseError: there is no release.
        ConfigError, TrainingError: see `image_curation.training.loop.train`.
    """
    manifest = read_manifest(project.release_url)
    if manifest is None:
        raise ReleaseError(f"there is no whole release in {project.release_url}: materialize curated_shards first.")
    manifest_url = storage.join(project.release_url, MANIFEST)
    release = hashlib.sha256(storage.read_bytes(manifest_url)).hexdigest()
    name = f"{config.model}-{digest([CODE_VERSION, config.model_dump(), release])[:8]}".replace("/", "_")
    folder = storage.join(project.settings.root, "models", name)
    card_url = storage.join(folder, _CARD)
    reused = storage.exists(card_url)  # the card is written last
    if not reused:
        from image_curation.training.loop import train

        train(project.release_url, folder, config, device=project.settings.device, on_event=on_event)
    return Classifier(
        folder=folder,
        card=json.loads(storage.read_bytes(card_url)),
        sha256=hashlib.sha256(storage.read_bytes(storage.join(folder, _MODEL))).hexdigest(),
        reused=reused,
        manifest_url=manifest_url,
        raw_shards=raw_shards(project.release_url, manifest),
    )


def raw_shards(release_url: str, manifest: Manifest) -> dict[str, int]:
    """Raw shard -> images that the release took from it, by the Parquet beside each of the release's tars."""
    counts: Counter[str] = Counter()
    for shard in manifest.shards:
        content = storage.read_bytes(storage.join(release_url, shard.parquet.name))
        counts.update(pq.read_table(io.BytesIO(content), columns=["shard"])["shard"].to_pylist())
    return dict(sorted(counts.items()))
