"""Quality measures against values computed by hand, and against scipy."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import laplace

from image_curation.decode.quality import contrast, exposure, sharpness


def gray(values: np.ndarray) -> np.ndarray:
    """[h, w] to [1, h, w, 3]."""
    return np.repeat(values.astype(np.uint8)[None, :, :, None], 3, axis=3)


FLAT = gray(np.full((64, 64), 128))
CHECKERBOARD = gray(np.indices((64, 64)).sum(axis=0) % 2 * 255)
GRADIENT = gray(np.tile(np.arange(64) * 4, (64, 1)))


def test_flat_image():
    assert sharpness(FLAT) == pytest.approx([0], abs=1e-10)
    assert exposure(FLAT) == pytest.approx([128 / 255])
    assert contrast(FLAT) == pytest.approx([0], abs=1e-6)


def test_checkerboard_of_single_pixels():
    # white has four black neighbours: 0 - 4 = -4; black has four white ones: 4 - 0 = 4; so the variance is 16
    assert sharpness(CHECKERBOARD) == pytest.approx([16])
    assert exposure(CHECKERBOARD) == pytest.approx([0.5])
    assert contrast(CHECKERBOARD) == pytest.approx([0.5])


def test_gradient():
    # a straight slope has no second derivative; the levels are 0, 4, ... 252, of variance 16 * (64 ** 2 - 1) / 12
    assert sharpness(GRADIENT) == pytest.approx([0], abs=1e-10)
    assert exposure(GRADIENT) == pytest.approx([126 / 255])
    assert contrast(GRADIENT) == pytest.approx([np.sqrt(16 * 4095 / 12) / 255])


def test_colours_weigh_as_in_rec_601():
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        colour = np.zeros((1, 64, 64, 3), np.uint8)
        colour[..., channel] = 255
        assert exposure(colour) == pytest.approx([weight])


def test_sharpness_of_photos_is_the_variance_of_scipys_laplacian(photos, decoder):
    pixels = decoder.decode(photos[:11]).pixels  # not a multiple of the block
    expected = []
    for image in pixels:
        luma = image @ np.array([0.299, 0.587, 0.114]) / 255
        expected.append(laplace(luma)[1:-1, 1:-1].var())
    found = sharpness(pixels)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, rel=1e-4)


def test_sharpness_of_a_tensor_is_as_of_an_array(photos, decoder):
    import torch

    pixels = decoder.decode(photos[:5]).pixels
    assert sharpness(torch.from_numpy(pixels)) == pytest.approx(sharpness(pixels), rel=1e-4)


def test_blur_lowers_sharpness_and_resolution_does_not_raise_it(photos, decoder):
    def bitmap(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, "BMP")
        return file.getvalue()

    originals = [Image.open(io.BytesIO(photo)) for photo in photos[:12]]
    sharp = sharpness(decoder.decode([bitmap(image) for image in originals]).pixels)
    blurred = sharpness(decoder.decode([bitmap(i.filter(ImageFilter.GaussianBlur(4))) for i in originals]).pixels)
    doubled = sharpness(decoder.decode([bitmap(i.resize((2 * i.width, 2 * i.height))) for i in originals]).pixels)
    assert (blurred < sharp / 3).all()
    assert (np.abs(doubled / sharp - 1) < 0.25).all()


def test_empty_list():
    none = np.empty((0, 64, 64, 3), np.uint8)
    assert sharpness(none).shape == exposure(none).shape == contrast(none).shape == (0,)
