"""When scores are made, made again or refused; that they are the right ones is shown with the real heads."""

import numpy as np
import pyarrow as pa
import pytest

from image_curation.artifacts import Certificate, read_table, write_table
from image_curation.embedding import embeddings_schema
from image_curation.errors import ArtifactError, WeightsError
from image_curation.steps.scores import build_scores


def write_embeddings(project, vectors: np.ndarray, vector_space: str) -> None:
    """The embeddings of shard `s`, made of given vectors [n, d]."""
    table = pa.Table.from_pylist(
        [
            {"shard": "s", "key": str(i), "status": "ok", "vector": vector.astype(np.float16).tolist()}
            for i, vector in enumerate(vectors)
        ],
        schema=embeddings_schema(vectors.shape[1]),
    )
    certificate = Certificate(artifact="embeddings", code_version="test")
    write_table(project.embeddings_url("s"), table, certificate, {"vector_space": vector_space})


def test_equal_vectors_are_scored_once_and_changed_ones_again(tmp_path, shared_data, workshop):
    heads = str(shared_data / "heads" / "aesthetic")
    golden = np.load(shared_data / "heads" / "aesthetic" / "golden_rating_embeddings.npz")
    project = workshop.project(tmp_path / "raw", tmp_path / "out", encoder="clip-vit-l-14", heads=heads)
    write_embeddings(project, golden["emb"], "openai-clip-vit-l-14")
    assert not build_scores(project, "aesthetic", "s").reused
    write_embeddings(project, golden["emb"], "openai-clip-vit-l-14")
    assert build_scores(project, "aesthetic", "s").reused
    write_embeddings(project, golden["emb"][::-1], "openai-clip-vit-l-14")
    assert not build_scores(project, "aesthetic", "s").reused
    table = read_table(project.scores_url("aesthetic", "s"))
    assert table.column_names == ["shard", "key", "aesthetic"]
    np.testing.assert_allclose(table["aesthetic"].to_numpy()[::-1], golden["mlp_sac_logos_ava1"], atol=1e-3)


def test_folder_of_heads_that_does_not_exist(tmp_path, workshop):
    project = workshop.project(
        tmp_path / "raw", tmp_path / "out", encoder="clip-vit-l-14", heads=str(tmp_path / "absent")
    )
    write_embeddings(project, np.eye(768)[:2], "openai-clip-vit-l-14")
    with pytest.raises(WeightsError, match=r"should be at .*/absent, but there is no such file or folder"):
        build_scores(project, "nsfw", "s")


def test_shard_without_samples_and_shard_without_embeddings(tmp_path, workshop):
    project = workshop.project(tmp_path / "raw", tmp_path / "out")
    write_embeddings(project, np.zeros((0, 4)), "")
    assert build_scores(project, "nsfw", "s").artifact.rows == 0
    with pytest.raises(ArtifactError, match=r"other\.parquet has not been made yet"):
        build_scores(project, "nsfw", "other")
