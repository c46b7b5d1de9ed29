"""The demo's photos: cut from what is installed, apart from each other, and different pictures."""

import importlib.util
import itertools
import random

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from image_curation.demo.photos import SOURCES, Photo, load_photos
from image_curation.errors import ConfigError


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    return load_photos(random.Random(0))


def hash_bits(image: Image.Image) -> np.ndarray:
    """Bits of a DCT hash, by an implementation of the test's own."""
    small = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BILINEAR), float)
    low = dctn(small, norm="ortho")[:8, :8].ravel()[1:]
    return low > np.median(low)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_enough_photos_for_every_seed(seed):
    assert len(load_photos(random.Random(seed))) >= 165


def test_no_two_photos_are_near_duplicates_by_perceptual_hash(photos):
    bits = np.array([hash_bits(photo.image) for photo in photos])
    distances = (bits[:, None] != bits[None]).sum(2)
    distances[np.diag_indices(len(photos))] = 63
    assert distances.min() > 4


def test_windows_of_one_photograph_do_not_overlap(photos):
    compared = 0
    for source in SOURCES:
        boxes = [photo.box for photo in photos if photo.source == source and not photo.whole]
        for (l1, t1, r1, b1), (l2, t2, r2, b2) in itertools.combinations(boxes, 2):
            assert r1 <= l2 or r2 <= l1 or b1 <= t2 or b2 <= t1
            compared += 1
    assert compared > 500


def test_no_photo_is_flat_and_sizes_vary(photos):
    assert min(np.asarray(photo.image.convert("L"), float).std() for photo in photos) >= 20
    assert min(min(photo.image.size) for photo in photos) >= 64
    assert len({photo.image.size for photo in photos}) > 100


def test_caption_says_where_the_window_lies(photos):
    checked = 0
    for photo in photos:
        with Image.open(frame_path(photo)) as frame:
            width, height = frame.size
        left, top, right, bottom = photo.box
        if photo.whole:
            assert photo.caption == photo.source.subject
        elif right < width / 3 and bottom < height / 3:
            assert photo.caption == f"{photo.source.subject}, detail at the upper left"
            checked += 1
        elif left > 2 * width / 3:
            assert photo.caption.endswith("right")
            checked += 1
        elif top > 2 * height / 3 and left > width / 3 and right < 2 * width / 3:
            assert photo.caption.endswith("detail at the bottom")
            checked += 1
    assert checked > 10


def frame_path(photo: Photo) -> str:
    spec = importlib.util.find_spec(photo.source.package)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin.removesuffix("__init__.py") + photo.source.path


def test_pixels_are_those_of_the_source(photos):
    photo = next(photo for photo in photos if photo.source.name == "astronaut" and not photo.whole)
    with Image.open(frame_path(photo)) as frame:
        left, top, right, bottom = photo.box
        assert np.array_equal(np.asarray(frame)[top:bottom, left:right], np.asarray(photo.image))


def test_absent_package_says_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else find(name))
    with pytest.raises(ConfigError, match=r"pip install 'image-curation\[demo\]'"):
        load_photos(random.Random(0))
