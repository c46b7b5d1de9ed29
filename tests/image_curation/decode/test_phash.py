"""Perceptual hashes: equal to pHash's definition, near for the same photo, far for others."""

import csv
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.fft import dctn

from image_curation.decode.phash import phash


def bits_apart(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.bitwise_count(left ^ right)


def test_hash_by_scipy_bit_by_bit(photos, decoder):
    thumbs = decoder.decode(photos[:20]).thumbs
    for thumb, found in zip(thumbs, phash(thumbs), strict=True):
        luma = np.rint(thumb @ np.array([0.299, 0.587, 0.114]))
        low = dctn(luma, type=2, norm="ortho")[1:9, 1:9].ravel()
        bits = low > np.median(low)
        assert int(found) == int("".join("1" if bit else "0" for bit in bits), 2)


def test_hash_of_one_wave_by_hand():
    """The DCT wave (3, 2) alone: among the 8 x 8 frequencies it is (2, 1) counted from 0, and so bit 63 - 17."""
    position = np.arange(64)
    wave = np.outer(np.cos(np.pi * 3 * (2 * position + 1) / 128), np.cos(np.pi * 2 * (2 * position + 1) / 128))
    thumb = np.repeat(np.rint(128 + 100 * wave).astype(np.uint8)[None, :, :, None], 3, axis=3)
    assert (int(phash(thumb)[0]) >> (63 - 17)) & 1 == 1
    assert (int(phash(255 - thumb)[0]) >> (63 - 17)) & 1 == 0


def test_shape_type_and_half_of_the_bits(photos, decoder):
    hashes = phash(decoder.decode(photos[:50]).thumbs)
    assert hashes.dtype == np.uint64
    assert hashes.shape == (50,)
    assert (np.bitwise_count(hashes) == 32).all()
    assert phash(np.empty((0, 64, 64, 3), np.uint8)).shape == (0,)


def test_image_of_one_colour_has_no_hash():
    flat = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (0, 1, 100, 255)])
    assert phash(flat).tolist() == [0, 0, 0, 0]


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
    apart = bits_apart(phash(decoder.decode(photos[::8]).thumbs), phash(decoder.decode(edited).thumbs))
    print(f"{edit}: mean {apart.mean():.2f}, most {apart.max()} bits")
    assert len(apart) == 49
    assert apart.max() <= most


def test_different_photos_are_far(photos, decoder):
    hashes = phash(decoder.decode(photos[::4]).thumbs)
    apart = bits_apart(hashes[:, None], hashes[None, :])[np.triu_indices(len(hashes), 1)]
    assert len(apart) == 97 * 96 // 2
    assert apart.min() >= 18
    assert 31 < apart.mean() < 33


def test_labelled_groups_of_one_photo_in_many_codecs(shared_data, decoder):
    folder = shared_data / "near-duplicates"
    with open(folder / "groups.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    decoded = decoder.decode([(folder / row["file"]).read_bytes() for row in rows])
    assert len(decoded.rows) == 110
    hashes = phash(decoded.thumbs)
    groups = np.array([row["group"] for row in rows])
    apart = bits_apart(hashes[:, None], hashes[None, :])
    same = groups[:, None] == groups[None, :]
    # turned and mirrored copies, and four takes of one scene (pdq), are not one picture to a perceptual hash
    other_pictures = np.isin(groups, ["ukb:ukbench00120", "pdq:exif-rotn"])
    assert apart[same & ~other_pictures[:, None]].max() <= 8
    assert apart[~same].min() >= 20
