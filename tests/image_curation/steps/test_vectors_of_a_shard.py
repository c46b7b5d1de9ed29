"""The vectors of a shard, all of them or those at some positions."""

import numpy as np
import pyarrow as pa

from image_curation.artifacts import Certificate, write_table
from image_curation.embedding import vector_type
from image_curation.steps.duplicate_cells import read_vectors, vectors_at


def write(project, shard: str, letters: str) -> None:
    """The vector of a letter is its place in the alphabet, and 0; a dash has none."""
    vectors = pa.array([x for letter in letters for x in (ord(letter) - 97, 0)], pa.float16())
    bad = [letter == "-" for letter in letters]
    columns = {
        "key": list(letters),
        "status": ["empty_image" if one else "ok" for one in bad],
        "vector": pa.FixedSizeListArray.from_arrays(vectors, type=vector_type(2), mask=pa.array(bad)),
    }
    write_table(project.embeddings_url(shard), pa.table(columns), Certificate(artifact="embeddings", code_version="1"))


def test_samples_without_a_vector_take_no_position(workshop, tmp_path):
    project = workshop.project(tmp_path / "raw", tmp_path / "out")
    write(project, "s", "d-ab")
    write(project, "t", "xyz")
    assert read_vectors(project, "s")[:, 0].tolist() == [3, 0, 1]
    which, positions = np.array([0, 0, 0, 2]), np.array([2, 0, 2, 1])
    assert vectors_at(project, ["s", "unasked", "t"], which, positions)[:, 0].tolist() == [1, 3, 1, 24]
    assert len(vectors_at(project, ["s"], which[:0], positions[:0])) == 0
