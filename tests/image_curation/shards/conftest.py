"""Fixtures for the shard tests: tars written by `tarfile`, and small real images in every format."""

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from image_curation.shards.discover import Shard

TarWriter = Callable[..., bytes]


@pytest.fixture(scope="session")
def tar_of() -> TarWriter:
    """(name, content) pairs, or ready TarInfo objects -> the bytes of a tar."""

    def write(members: Sequence[tuple[str, bytes] | tarfile.TarInfo], format: int = tarfile.USTAR_FORMAT) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    tar.addfile(member)
                    continue
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
        return buffer.getvalue()

    return write


@pytest.fixture
def shard_of(tmp_path: Path) -> Callable[[bytes], Shard]:
    """The bytes of a tar -> a shard with the key `s` on disk."""

    def write(content: bytes) -> Shard:
        path = tmp_path / "s.tar"
        path.write_bytes(content)
        return Shard("s", str(path), len(content), "f")

    return write


@pytest.fixture(scope="session")
def image_of() -> Callable[..., bytes]:
    """Format and size -> the bytes of a real image with a gradient in it."""

    def write(format: str = "JPEG", size: tuple[int, int] = (8, 6), **options: object) -> bytes:
        buffer = io.BytesIO()
        Image.linear_gradient("L").resize(size).convert("RGB").save(buffer, format, **options)
        return buffer.getvalue()

    return write
