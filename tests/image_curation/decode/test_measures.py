"""Measures are exact: the same for one image and for many, as an array and as a tensor."""

import numpy as np
import pytest
import torch

from image_curation.decode.luminance import WHITE, luminance
from image_curation.decode.measures import joined, measure


@pytest.fixture(scope="module")
def crops_and_thumbs(photos, decoder) -> tuple[np.ndarray, np.ndarray]:
    """Of 16 photos, and of noise, which has the largest numbers."""
    crops = decoder.decode(photos[:16]).pixels
    noise = np.random.default_rng(0).integers(0, 2, crops.shape, np.uint8) * 255
    crops = np.concatenate([crops, noise])
    return crops, np.ascontiguousarray(crops[:, 80:144, 80:144])


def test_a_tensor_is_measured_as_an_array_bit_by_bit(crops_and_thumbs):
    crops, thumbs = crops_and_thumbs
    expected = measure(crops, thumbs)
    found = measure(torch.from_numpy(crops), torch.from_numpy(thumbs))
    assert list(found) == list(expected) == ["phash", "sharpness", "exposure", "contrast"]
    for name, values in expected.items():
        assert isinstance(found[name], np.ndarray)
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values), name


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_neighbours_do_not_change_a_measure(crops_and_thumbs, kind):
    crops, thumbs = (kind(array) for array in crops_and_thumbs)
    together = measure(crops, thumbs)
    alone = joined([measure(crops[i : i + 1], thumbs[i : i + 1]) for i in range(len(crops))])
    for name, values in together.items():
        assert np.array_equal(alone[name], values), name


def test_no_image_has_no_measures():
    none = measure(np.empty((0, 224, 224, 3), np.uint8), np.empty((0, 64, 64, 3), np.uint8))
    assert {name: (values.shape, values.dtype.name) for name, values in none.items()} == {
        "phash": ((0,), "uint64"),
        "sharpness": ((0,), "float32"),
        "exposure": ((0,), "float32"),
        "contrast": ((0,), "float32"),
    }


def test_luminance_in_thousandths():
    rgb = np.array([[[[0, 0, 0], [255, 255, 255], [1, 2, 3]]]], np.uint8)
    found = luminance(rgb)
    assert found.dtype == np.float32
    assert found.tolist() == [[[0, WHITE, 299 + 2 * 587 + 3 * 114]]]
