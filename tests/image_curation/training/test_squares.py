"""Squares on a CPU: Pillow's pixels, near those of DALI on a GPU, whatever the sizes and the number of threads."""

import numpy as np
import pytest
from nvidia.dali import fn
from nvidia.dali.pipeline import pipeline_def
from PIL import Image

from image_curation.training.squares import resizer

SIDE = 64
SIZES = [(1, 1), (1, 300), (64, 64), (63, 65), (40, 200), (500, 333), (1200, 900), (64, 500), (70, 70)]
UPRIGHT = [np.array(0)] * len(SIZES)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Smooth ones with some noise, as photos are."""
    found = []
    for number, (height, width) in enumerate(SIZES):
        chance = np.random.default_rng(number)
        small = chance.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.int16)
        found.append((smooth + chance.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))
    return found


@pytest.mark.parametrize("threads", [1, 3, 20])
def test_squares_are_pillows_but_for_rounding(images, threads):
    squares = resizer(SIDE, threads)(images, UPRIGHT)
    assert len(squares) == len(SIZES)
    for square, image in zip(squares, images, strict=True):
        assert square.shape == (SIDE, SIDE, 3)
        pillow = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.int16)
        assert np.abs(square - pillow).max() <= 1


def test_those_with_a_flag_are_mirrored(images):
    flags = [np.array(number % 2, np.int32) for number in range(len(SIZES))]
    upright, found = resizer(SIDE, 2)(images, UPRIGHT), resizer(SIDE, 2)(images, flags)
    for number, (square, other) in enumerate(zip(upright, found, strict=True)):
        assert np.array_equal(other, square[:, ::-1] if number % 2 else square)
        assert other.flags.c_contiguous


def test_squares_are_near_those_of_dali(images):
    """Training on a GPU resizes by DALI."""

    @pipeline_def(batch_size=len(SIZES), num_threads=1, device_id=None, prefetch_queue_depth=1)
    def resize():
        return fn.resize(fn.external_source(source=lambda: images, layout="HWC"), size=[float(SIDE)] * 2)

    (dali,) = resize().run()
    distances = [
        np.abs(square - np.asarray(other).astype(np.int16))
        for square, other in zip(resizer(SIDE, 2)(images, UPRIGHT), dali, strict=True)
    ]
    assert np.mean(distances) < 0.3
    assert np.max(distances) < 10
