"""Quality measures against values computed by hand, and against scipy."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import laplace

from image_curation.decode.luminance import luminance
from image_curation.decode.quality import exposure_and_contrast, sharpness


def gray(values: np.ndarray) -> np.ndarray:
    """[h, w] to the luminance of that image, [1, h, w]."""
    return luminance(np.repeat(values.astype(np.uint8)[None, :, :, None], 3, axis=3))


def measured(luma: np.ndarray) -> tuple[float, float]:
    """Exposure and contrast of one image."""
    (exposure,), (contrast,) = exposure_and_contrast(luma)
    return exposure, contrast


FLAT = gray(np.full((64, 64), 128))
CHECKERBOARD = gray(np.indices((64, 64)).sum(axis=0) % 2 * 255)
GRADIENT = gray(np.tile(np.arange(64) * 4, (64, 1)))


def test_flat_image():
    assert sharpness(FLAT) == [0]
    assert measured(FLAT) == (pytest.approx(128 / 255), 0)


def test_checkerboard_of_single_pixels():
    # white has four black neighbours: 0 - 4 = -4; black has four white ones: 4 - 0 = 4; so the variance is 16
    assert sharpness(CHECKERBOARD) == [16]
    assert measured(CHECKERBOARD) == (0.5, 0.5)


def test_gradient():
    # a straight slope has no second derivative; the levels are 0, 4, ... 252, of variance 16 * (64 ** 2 - 1) / 12
    assert sharpness(GRADIENT) == [0]
    assert measured(GRADIENT) == pytest.approx((126 / 255, np.sqrt(16 * 4095 / 12) / 255))


def test_single_bright_pixel_off_the_border():
    # one -4 and four 1s among 3 x 3 inner pixels: a sum of 0, and of squares 16 + 4
    values = np.zeros((5, 5))
    values[2, 2] = 255
    assert sharpness(gray(values)) == pytest.approx([20 / 9])


def test_bright_pixels_on_the_border_have_no_laplacian_of_their_own():
    # of the corners no inner pixel is a neighbour; beside the middle of an edge lies one
    corners, edge = np.zeros((5, 5)), np.zeros((5, 5))
    corners[0, 0] = corners[0, 4] = corners[4, 0] = corners[4, 4] = 255
    edge[2, 4] = 255
    assert sharpness(gray(corners)) == [0]
    assert sharpness(gray(edge)) == pytest.approx([1 / 9 - 1 / 81])


def test_colours_weigh_as_in_rec_601():
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        colour = np.zeros((1, 64, 64, 3), np.uint8)
        colour[..., channel] = 255
        assert measured(luminance(colour))[0] == pytest.approx(weight)


def test_sharpness_of_photos_is_the_variance_of_scipys_laplacian(photos, decoder):
    decoded = decoder.decode(photos[:11])  # not a multiple of the block
    expected = []
    for image in decoded.pixels:
        luma = image @ np.array([0.299, 0.587, 0.114]) / 255
        expected.append(laplace(luma)[1:-1, 1:-1].var())
    assert decoded.measures["sharpness"] == pytest.approx(expected, rel=1e-6)


def test_blur_lowers_sharpness_and_resolution_does_not_raise_it(photos, decoder):
    def sharpness_of(images: list[Image.Image]) -> np.ndarray:
        files = []
        for image in images:
            file = io.BytesIO()
            image.save(file, "BMP")
            files.append(file.getvalue())
        return decoder.decode(files).measures["sharpness"]

    originals = [Image.open(io.BytesIO(photo)) for photo in photos[:12]]
    sharp = sharpness_of(originals)
    blurred = sharpness_of([image.filter(ImageFilter.GaussianBlur(4)) for image in originals])
    doubled = sharpness_of([image.resize((2 * image.width, 2 * image.height)) for image in originals])
    assert (blurred < sharp / 3).all()
    assert (np.abs(doubled / sharp - 1) < 0.25).all()
