"""Real photos, and decoders that several test files share."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_curation.decode.decoder import ImageDecoder


@pytest.fixture(scope="session")
def photos(shared_data: Path) -> list[bytes]:
    """All 387 real photos, as JPEG files; 28 of them are large enough to be reduced for crops of 224 pixels."""
    images = []
    for tar in sorted((shared_data / "photos").glob("*.tar")):
        with tarfile.open(tar) as shard:
            members = [member for member in shard if member.name.endswith(".jpg")]
            images += [file.read() for member in members if (file := shard.extractfile(member)) is not None]
    assert len(images) == 387
    return images


@pytest.fixture(scope="session")
def decoder() -> Iterator[ImageDecoder]:
    with ImageDecoder(224, threads=1) as shared:
        yield shared
