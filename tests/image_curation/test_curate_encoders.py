"""The whole job with real model architectures: ONNX, and CLIP ViT-B/32 with random weights."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from image_curation.artifacts import read_artifact, read_table
from image_curation.audit import vectors_have_unit_norm
from image_curation.embedding import vectors_of
from image_curation.errors import WeightsError
from image_curation.release.manifest import read_manifest


@pytest.fixture(scope="module")
def eight_photos(shared_data: Path, workshop, tmp_path_factory) -> Path:
    """A source with two tars of four real photos, of which one is there twice."""
    with tarfile.open(shared_data / "photos" / "00000.tar") as tar:
        members = [member for member in tar if member.name.endswith(".jpg")][:7]
        images = [tar.extractfile(member).read() for member in members]
    images.append(images[2])
    names = [f"{i}.jpg" for i in range(8)]
    shards = {"a": dict(zip(names[:4], images[:4], strict=True)), "b": dict(zip(names[4:], images[4:], strict=True))}
    return workshop.source(tmp_path_factory.mktemp("photos"), shards)


def vectors(project, shards=("a", "b")) -> np.ndarray:
    return np.concatenate([vectors_of(read_table(project.embeddings_url(shard))) for shard in shards])


def check_artifacts(project, dim: int) -> None:
    found = vectors(project)
    assert found.shape == (8, dim)
    assert found.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float32), axis=1), 1, atol=1e-3)
    assert vectors_have_unit_norm(project, ["a", "b"]).passed
    assert np.array_equal(found[2], found[7])
    cosines = found.astype(np.float64) @ found.T.astype(np.float64)
    assert cosines[2, 3] < 0.999


def test_onnx_and_back_to_embedded(eight_photos, shared_data, tmp_path, workshop):
    root = tmp_path / "out"
    embedded = workshop.project(eight_photos, root)
    workshop.run(embedded)
    release, before = workshop.hashes(root / "release"), workshop.times(root)

    model = shared_data / "encoder" / "mobilenet_v2_feat1280_f32.onnx"
    onnx = workshop.project(eight_photos, root, encoder=f"onnx:{model}")
    result = workshop.run(onnx)
    check_artifacts(onnx, 1280)
    assert result.ledger.dropped == {"duplicate_exact": 1}
    assert (result.ledger.kept, result.failed_shards) == (7, {})
    assert all(finding.passed for finding in result.findings.values())
    artifact = read_artifact(onnx.embeddings_url("a"))
    assert artifact.certificate.settings["weights"] == artifact.facts["weights_sha256"]
    manifest = read_manifest(onnx.release_url)
    assert manifest.encoder["weights_sha256"] == artifact.facts["weights_sha256"]

    after = workshop.times(root)
    kept = {name: time for name, time in before.items() if "/embedded/" in name or name.startswith("shard_index/")}
    assert len(kept) == 2 * 4 + 3
    assert {name: after[name] for name in kept} == kept  # the old vectors lie beside the new ones
    assert onnx.embeddings_url("a") != embedded.embeddings_url("a")

    workshop.run(embedded)
    again = workshop.times(root)
    assert {name: again[name] for name in kept} == kept
    assert workshop.hashes(root / "release") == release


def test_clip_with_random_weights(eight_photos, tmp_path, workshop):
    project = workshop.project(eight_photos, tmp_path / "out", encoder="clip-vit-b-32", weights="random:0")
    result = workshop.run(project, report=True)
    check_artifacts(project, 512)
    assert result.ledger.read == 8
    assert set(result.null_scores) == {"aesthetic", "nsfw"}
    for score, reason in result.null_scores.items():
        assert reason.startswith(f"There is no {score} head for vectors of random")
        for shard in ("a", "b"):
            table = read_table(project.scores_url(score, shard))
            assert table[score].null_count == len(table) == 4
    assert result.ledger.kept + sum(result.ledger.dropped.values()) == 8
    assert "low_aesthetic" not in result.ledger.dropped  # the policy keeps what has no score
    settings = read_artifact(project.embeddings_url("a")).certificate.settings
    assert (settings["weights"], settings["dtype"]) == ("random:0", "fp32")

    first = vectors(project)
    other = workshop.project(eight_photos, tmp_path / "out", encoder="clip-vit-b-32", weights="random:1")
    workshop.run(other)
    assert other.embeddings_url("a") == project.embeddings_url("a")
    assert read_artifact(other.embeddings_url("a")).certificate.settings["weights"] == "random:1"
    assert not np.array_equal(vectors(other), first)  # made again: vectors of different weights never mix


def test_weights_that_are_not_there_stop_the_job_and_say_what_to_do(eight_photos, tmp_path, workshop):
    project = workshop.project(eight_photos, tmp_path / "out", encoder="clip-vit-b-32", weights="/no/such/file.pt")
    with pytest.raises(WeightsError, match=r"encoder clip-vit-b-32: there is no weights file at /no/such/file\.pt"):
        workshop.run(project)
