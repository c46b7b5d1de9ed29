"""Real photos as pixels in the decoder's geometry, made with Pillow: encoders are tested without the decoder."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps

Prepare = Callable[[Image.Image], npt.NDArray[np.uint8]]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other are slow where other tests run on the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # onnxruntime's sessions
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def prepare() -> Prepare:
    """An image of any mode -> uint8 [224, 224, 3]: upright, short side to 224 px, centre crop."""

    def run(image: Image.Image) -> npt.NDArray[np.uint8]:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(ImageOps.fit(upright, (224, 224), Image.Resampling.BICUBIC))

    return run


@pytest.fixture(scope="session")
def photos(shared_data: Path) -> list[Image.Image]:
    """The first hundred real photos, upright."""
    found = []
    for tar in sorted((shared_data / "photos").glob("*.tar"))[:2]:
        with tarfile.open(tar) as archive:
            for member in archive:
                if member.name.endswith(".jpg"):
                    data = archive.extractfile(member).read()
                    found.append(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert len(found) >= 100
    return found[:100]


@pytest.fixture(scope="session")
def photo_pixels(photos: list[Image.Image], prepare: Prepare) -> npt.NDArray[np.uint8]:
    """The hundred photos as uint8 [100, 224, 224, 3]."""
    return np.stack([prepare(photo) for photo in photos])
