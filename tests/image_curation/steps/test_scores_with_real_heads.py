"""The score steps with the real LAION heads, over embeddings that are the heads' own golden inputs."""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from image_curation.artifacts import Certificate, read_table, write_table
from image_curation.config import load_settings
from image_curation.embedding import embeddings_schema
from image_curation.heads import CLIP_L_14, HeadKind
from image_curation.project import Project
from image_curation.steps.scores import build_scores

SHARD = "00000"


@pytest.fixture
def heads(shared_data: Path, tmp_path: Path) -> Path:
    """One folder with the original files of both heads."""
    folder = tmp_path / "heads"
    folder.mkdir()
    for name in ("aesthetic/sac+logos+ava1-l14-linearMSE.pth", "nsfw/clip_autokeras_binary_nsfw.zip"):
        shutil.copy(shared_data / "heads" / name, folder)
    return folder


def project_with_vectors(
    tmp_path: Path, vectors: npt.NDArray[np.float16], vector_space: str, heads: Path | None
) -> Project:
    """A project whose shard holds these vectors, and one sample more that failed."""
    settings = load_settings(
        source=str(tmp_path / "raw"), root=str(tmp_path / "root"), encoder="clip-vit-l-14", heads=heads and str(heads)
    )
    project = Project.load(settings)
    n, dim = len(vectors) + 1, vectors.shape[1]
    schema = embeddings_schema(dim)
    flat = np.concatenate([vectors, np.zeros((1, dim), np.float16)])
    columns: dict[str, pa.Array] = {
        "shard": pa.array([SHARD] * n),
        "key": pa.array([f"{i:03d}" for i in range(n)]),
        "status": pa.array(["ok"] * (n - 1) + ["decode_failed"]),
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(flat.ravel()), dim, mask=pa.array([False] * (n - 1) + [True])
        ),
    }
    table = pa.table([columns.get(f.name, pa.nulls(n, f.type)) for f in schema], schema=schema)
    certificate = Certificate(artifact="embeddings", code_version="test")
    write_table(project.embeddings_url(SHARD), table, certificate, {"vector_space": vector_space})
    return project


@pytest.mark.parametrize(
    ("score", "golden", "inputs", "outputs", "tolerance"),
    [
        # fp16 vectors move the aesthetic score itself by up to 2e-4; the head's own error is tested apart.
        ("aesthetic", "aesthetic/golden_rating_embeddings.npz", "emb", "mlp_sac_logos_ava1", 1e-3),
        ("nsfw", "nsfw/nsfw_l14_golden.npz", "f16_x", "f16_y", 1e-5),
    ],
)
def test_scores_equal_the_golden_values_and_failed_samples_have_none(
    score: HeadKind,
    golden: str,
    inputs: str,
    outputs: str,
    tolerance: float,
    shared_data: Path,
    tmp_path: Path,
    heads: Path,
) -> None:
    values = np.load(shared_data / "heads" / golden)
    project = project_with_vectors(tmp_path, values[inputs].astype(np.float16), CLIP_L_14, heads)
    outcome = build_scores(project, score, SHARD)
    scores = read_table(project.scores_url(score, SHARD))[score].to_pylist()
    assert scores[-1] is None
    np.testing.assert_allclose(scores[:-1], values[outputs].ravel(), atol=tolerance)
    assert outcome.artifact.facts == {"scored": len(scores) - 1, "null_reason": None}


def test_vectors_of_another_space_get_no_score_and_the_reason(tmp_path: Path, heads: Path) -> None:
    project = project_with_vectors(tmp_path, np.eye(3, 768, dtype=np.float16), "random", heads)
    outcome = build_scores(project, "nsfw", SHARD)
    assert read_table(project.scores_url("nsfw", SHARD))["nsfw"].null_count == 4
    assert "random" in outcome.artifact.facts["null_reason"]
    assert CLIP_L_14 in outcome.artifact.facts["null_reason"]


def test_scores_are_made_again_once_the_head_is_at_hand(
    tmp_path: Path, heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no cache of heads
    vectors = np.eye(3, 768, dtype=np.float16)
    without = project_with_vectors(tmp_path, vectors, CLIP_L_14, None)
    assert build_scores(without, "nsfw", SHARD).artifact.facts["scored"] == 0
    with_head = project_with_vectors(tmp_path, vectors, CLIP_L_14, heads)
    assert build_scores(with_head, "nsfw", SHARD).artifact.facts["scored"] == 3
