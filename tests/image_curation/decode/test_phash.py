"""Perceptual hashes: equal to pHash's definition, near for the same photo, far for others."""

import csv
import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy.fft import dctn

from image_curation.decode.luminance import luminance
from image_curation.decode.phash import phash


def hashes(thumbs: np.ndarray) -> np.ndarray:
    return phash(luminance(thumbs))


def bits_apart(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.bitwise_count(left ^ right)


@pytest.fixture(scope="module")
def thumbs(photos) -> np.ndarray:
    """Of 50 photos, as Pillow makes them."""
    return np.array(
        [np.asarray(Image.open(io.BytesIO(photo)).convert("RGB").resize((64, 64))) for photo in photos[:50]]
    )


def test_hash_by_scipy_bit_by_bit(thumbs):
    for thumb, found in zip(thumbs, hashes(thumbs), strict=True):
        luma = np.rint(thumb @ np.array([0.299, 0.587, 0.114]))
        low = dctn(luma, type=2, norm="ortho")[1:9, 1:9].ravel()
        bits = low > np.median(low)
        assert int(found) == int("".join("1" if bit else "0" for bit in bits), 2)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 256), block=st.sampled_from([1, 4, 16, 64]))
def test_hash_is_that_of_the_definition_in_whole_numbers(seed, levels, block):
    """Every step in 64-bit integers, with the median of 64 numbers between the two in the middle."""
    coarse = np.random.default_rng(seed).integers(0, levels, (4, 64 // block, 64 // block, 3), np.uint8)
    images = coarse.repeat(block, axis=1).repeat(block, axis=2)
    found = hashes(images)
    position = np.arange(64)
    basis = np.rint(2**14 * np.cos(np.pi * np.arange(1, 9)[:, None] * (2 * position + 1) / 128)).astype(np.int64)
    for image, value in zip(images.astype(np.int64), found, strict=True):
        luma = (299 * image[..., 0] + 587 * image[..., 1] + 114 * image[..., 2] + 500) // 1000
        luma = luma - round(int(luma.sum()) / 4096)
        low = (basis @ luma @ basis.T).ravel()
        middle = np.sort(low)[31:33].sum()
        assert f"{int(value):064b}" == "".join("1" if 2 * number > middle else "0" for number in low)


def test_hash_of_one_wave_by_hand():
    """The DCT wave (3, 2) alone: among the 8 x 8 frequencies it is (2, 1) counted from 0, and so bit 63 - 17."""
    position = np.arange(64)
    wave = np.outer(np.cos(np.pi * 3 * (2 * position + 1) / 128), np.cos(np.pi * 2 * (2 * position + 1) / 128))
    thumb = np.repeat(np.rint(128 + 100 * wave).astype(np.uint8)[None, :, :, None], 3, axis=3)
    assert (int(hashes(thumb)[0]) >> (63 - 17)) & 1 == 1
    assert (int(hashes(255 - thumb)[0]) >> (63 - 17)) & 1 == 0


def test_shape_type_and_half_of_the_bits(thumbs):
    found = hashes(thumbs)
    assert found.dtype == np.uint64
    assert found.shape == (50,)
    assert (np.bitwise_count(found) == 32).all()


def test_image_of_one_colour_has_no_hash():
    flat = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (0, 1, 100, 255)])
    assert hashes(flat).tolist() == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def originals(photos) -> list[Image.Image]:
    return [ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB") for photo in photos[::8]]


EDITS: dict[str, tuple[Callable[[Image.Image], Image.Image], dict, int]] = {
    # how it is edited, how it is stored, and the most bits that may differ (measured at most: 2, 2, 2, 8, 2)
    "quality 20": (lambda image: image, {"format": "JPEG", "quality": 20}, 4),
    "webp": (lambda image: image, {"format": "WEBP", "quality": 60}, 4),
    "half the size": (lambda image: image.resize((image.width // 2, image.height // 2)), {"format": "BMP"}, 4),
    "brighter by a fifth": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), {"format": "BMP"}, 10),
    "darker by a fifth": (lambda image: ImageEnhance.Brightness(image).enhance(0.8), {"format": "BMP"}, 4),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_photo_stays_near(originals, photos, decoder, edit):
    change, options, most = EDITS[edit]
    edited = []
    for image in originals:
        file = io.BytesIO()
        change(image).save(file, **options)
        edited.append(file.getvalue())
    apart = bits_apart(*(decoder.decode(images).measures["phash"] for images in (photos[::8], edited)))
    print(f"{edit}: mean {apart.mean():.2f}, most {apart.max()} bits")
    assert len(apart) == 49
    assert apart.max() <= most


def test_different_photos_are_far(photos, decoder):
    found = decoder.decode(photos[::4]).measures["phash"]
    apart = bits_apart(found[:, None], found[None, :])[np.triu_indices(len(found), 1)]
    assert len(apart) == 97 * 96 // 2
    assert apart.min() >= 18
    assert 31 < apart.mean() < 33


def test_labelled_groups_of_one_photo_in_many_codecs(shared_data, decoder):
    folder = shared_data / "near-duplicates"
    with open(folder / "groups.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    decoded = decoder.decode([(folder / row["file"]).read_bytes() for row in rows])
    assert len(decoded.rows) == 110
    found = decoded.measures["phash"]
    groups = np.array([row["group"] for row in rows])
    apart = bits_apart(found[:, None], found[None, :])
    same = groups[:, None] == groups[None, :]
    # turned and mirrored copies, and four takes of one scene (pdq), are not one picture to a perceptual hash
    other_pictures = np.isin(groups, ["ukb:ukbench00120", "pdq:exif-rotn"])
    assert apart[same & ~other_pictures[:, None]].max() <= 8
    assert apart[~same].min() >= 20
