"""Small labelled photos as class folders, as plain tars and as a release."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from image_curation.training.dataset import Dataset, open_dataset

CLASSES = ("ash", "beech", "cedar")
N = 139  # a prime: no number of shards or size of batch divides it


@pytest.fixture(scope="session")
def folders(tmp_path_factory, workshop) -> Path:
    """139 photos of three classes in folders."""
    place = tmp_path_factory.mktemp("folders")
    for i in range(N):
        path = place / CLASSES[i % 3] / f"{i:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(workshop.photo(i, (40, 30)))
    return place


@pytest.fixture(scope="session")
def tars(tmp_path_factory, workshop) -> Path:
    """The same photos in three tars of 50, 50 and 39, each with its class in JSON and as `.cls`."""

    def members(numbers: range) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for i in numbers:
            found[f"{i:03d}.jpg"] = workshop.photo(i, (40, 30))
            found[f"{i:03d}.cls"] = str(i % 3).encode()
            found[f"{i:03d}.json"] = json.dumps({"tree": {"genus": CLASSES[i % 3]}}).encode()
        return found

    shards = {f"part-{start}": members(range(start, min(start + 50, N))) for start in range(0, N, 50)}
    return workshop.source(tmp_path_factory.mktemp("tars"), shards)


@pytest.fixture(params=["folders", "tars"])
def dataset(request: pytest.FixtureRequest) -> Dataset:
    """The 139 photos, by DALI's reader of files and by that of tars."""
    return open_dataset(str(request.getfixturevalue(request.param)))


@pytest.fixture(scope="session")
def release(tmp_path_factory, workshop) -> Path:
    """A curated release: 48 photos of two classes from two tars, and what DALI cannot read: a GIF and a TIFF."""
    folder = tmp_path_factory.mktemp("release")

    def members(first: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for i in range(first, first + 24):
            found[f"{i:03d}.jpg"] = workshop.photo(i, (96, 72))
            found[f"{i:03d}.txt"] = f"a photo of number {i}".encode()
            found[f"{i:03d}.json"] = json.dumps({"tree": CLASSES[i % 2]}).encode()
        return found

    odd = {
        "odd.gif": workshop.photo(900, (96, 72), "GIF"),
        "odd.json": b'{"tree": "ash"}',
        "old.tif": workshop.photo(901, (96, 72), "TIFF"),
        "old.json": b'{"tree": "beech"}',
    }
    workshop.source(folder / "raw", {"a": members(0), "b": members(24) | odd})
    policy = "image: {min_short_side: 1}\nduplicates: {max_phash_distance: null, min_similarity: null}\n"
    policy += "release: {samples_per_shard: 20}\n"
    project = workshop.project(folder / "raw", folder / "curated", policy)
    assert workshop.run(project).ledger.kept == 50
    return Path(project.release_url)


@pytest.fixture(scope="session")
def tree_classes() -> tuple[str, ...]:
    return CLASSES


@pytest.fixture(scope="session")
def write_folders() -> Callable[[Path, dict[str, bytes]], Path]:
    """Write files below a folder by their paths."""

    def write(place: Path, files: dict[str, bytes]) -> Path:
        for name, content in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        return place

    return write
