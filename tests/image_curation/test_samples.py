"""What is known of a shard's samples, side by side: every column in its row, and derived ones by hand."""

import pytest

from image_curation.artifacts import read_artifact, read_table, write_table
from image_curation.errors import ArtifactError
from image_curation.samples import read_samples


@pytest.fixture
def project(tmp_path, workshop):
    shard = {
        "wide.jpg": workshop.photo(1, (200, 80)),
        "wide.txt": "drei Bären".encode(),
        "tall.png": workshop.photo(2, (90, 120), kind="PNG"),
        "broken.jpg": b"no image",
        "broken.txt": b"",
    }
    made = workshop.project(workshop.source(tmp_path / "raw", {"s": shard}), tmp_path / "out")
    workshop.run(made)
    return made


def test_derived_columns(project):
    rows = {row["key"]: row for row in read_samples(project, "s").to_pylist()}
    derived = ("short_side", "aspect_ratio", "pixels", "caption_characters")
    assert [rows["wide"][name] for name in derived] == [80, 2.5, 16_000, 10]
    assert [rows["tall"][name] for name in derived] == [90, pytest.approx(4 / 3), 10_800, None]
    assert [rows["broken"][name] for name in derived] == [None] * 4


def test_columns_of_all_artifacts_are_in_the_row_of_their_sample(project):
    samples = read_samples(project, "s", vectors=True)
    assert samples["key"].to_pylist() == read_table(project.index_url("s"))["key"].to_pylist()
    rows = {row["key"]: row for row in samples.to_pylist()}
    vectors = {row["key"]: row["vector"] for row in read_table(project.embeddings_url("s")).to_pylist()}
    assert {key: row["vector"] for key, row in rows.items()} == vectors
    assert (rows["wide"]["width"], rows["wide"]["format"], rows["wide"]["status"]) == (200, "JPEG", "ok")
    assert (rows["broken"]["status"], rows["broken"]["aesthetic"], rows["broken"]["vector"]) == (
        "not_an_image",
        None,
        None,
    )
    assert "vector" not in read_samples(project, "s").column_names


def test_artifacts_of_different_samples_are_refused(project):
    url = project.scores_url("nsfw", "s")
    artifact = read_artifact(url)
    write_table(url, read_table(url).take([1, 0, 2]), artifact.certificate, artifact.facts)
    with pytest.raises(ArtifactError, match=r"shard s: its artifacts are of different samples\. Materialize the shard"):
        read_samples(project, "s")
