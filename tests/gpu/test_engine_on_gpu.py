"""The embedding engine on a GPU: shards at once, in shared batches, give the bytes that each gives alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_curation.artifacts import Artifact, read_artifact
from image_curation.config import load_settings, resolve_device
from image_curation.project import Project
from image_curation.shards.discover import discover
from image_curation.steps.embeddings import build_embeddings
from image_curation.steps.shard_index import build_shard_index

pytestmark = pytest.mark.skipif(resolve_device("auto") != "cuda", reason="no GPU on this machine")


@pytest.mark.parametrize("encoder", ["clip-vit-b-32", "clip-vit-l-14"])
def test_shards_at_once_give_the_vectors_that_each_gives_alone(shared_data: Path, tmp_path: Path, encoder: str) -> None:
    def embedded(root: str, threads: int) -> dict[str, Artifact]:
        settings = load_settings(
            source=str(shared_data / "photos"), root=str(tmp_path / root), encoder=encoder, weights="random:0"
        )
        project = Project.load(settings)
        shards, _ = discover(settings.source)
        for shard in shards:
            build_shard_index(project, shard)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda shard: build_embeddings(project, shard.key), shards))
        return {shard.key: read_artifact(project.embeddings_url(shard.key)) for shard in shards}

    alone, together = embedded("alone", 1), embedded("together", 4)
    assert {key: one.content for key, one in alone.items()} == {key: one.content for key, one in together.items()}
    assert sum(one.facts["statuses"]["ok"] for one in alone.values()) > 300
