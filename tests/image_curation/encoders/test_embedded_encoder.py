"""The classical descriptor: what it measures, that near-duplicates are near, and that different photos are not."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from image_curation.encoders import load_encoder, profile

THRESHOLD = profile("embedded").duplicate_similarity


GOLDEN_SHA256 = "ae8432772afef912eee5694c4dd86150d6887730b3b938b76e92ec07233c6dbe"  # sha256 of VERSION
GOLDEN = {
    0: 0.0919, 100: -0.0293, 200: 0.0077, 300: -0.0302, 400: 0.0312, 500: -0.0245, 511: -0.0115, 512: -0.1675,
    540: -0.0786, 575: -0.0095, 576: -0.1229, 590: 0.0251, 607: 0.0613, 608: 0.0884, 609: 0.0864,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(profile("embedded"))


def _jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _crop(image, share):
    dx, dy = (int(side * (1 - share) / 2) for side in image.size)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


COPIES = {
    "JPEG quality 30": lambda image: _jpeg(image, 30),
    "160 px thumbnail": lambda image: image.resize((160, max(1, 160 * image.height // image.width))),
    "a quarter brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "cropped by 4 %": lambda image: _crop(image, 0.96),
}


@pytest.mark.parametrize("edit", COPIES)
def test_edited_copies_of_real_photos_are_duplicates(encoder, photos, photo_pixels, prepare, edit):
    copies = encoder.encode(np.stack([prepare(COPIES[edit](photo)) for photo in photos])).astype(np.float32)
    cosines = copies @ encoder.encode(photo_pixels).astype(np.float32).T
    assert (np.diag(cosines) >= THRESHOLD).mean() >= 0.98
    assert (cosines.argmax(axis=1) == np.arange(100)).all()


def test_different_photos_stay_below_the_threshold(encoder, photo_pixels):
    vectors = encoder.encode(photo_pixels).astype(np.float32)
    cosines = (vectors @ vectors.T)[np.triu_indices(100, 1)]
    assert cosines.max() < THRESHOLD - 0.05
    assert np.percentile(cosines, 99) < 0.6
    assert abs(cosines.mean()) < 0.2


def test_labelled_near_duplicates_without_a_false_pair(encoder, shared_data: Path, prepare):
    folder = shared_data / "near-duplicates"
    rows = list(csv.DictReader((folder / "groups.csv").open()))
    vectors = encoder.encode(np.stack([prepare(Image.open(folder / row["file"])) for row in rows])).astype(np.float32)
    same = np.array([[a["group"] == b["group"] for b in rows] for a in rows])
    pairs = np.triu_indices(len(rows), 1)
    found, true = (vectors @ vectors.T)[pairs] >= THRESHOLD, same[pairs]
    assert true.sum() > 500
    assert not (found & ~true).any()
    assert (found & true).sum() / true.sum() > 0.9


def test_vectors_are_fp16_of_length_one_and_do_not_depend_on_the_batch(encoder, photo_pixels):
    vectors = encoder.encode(photo_pixels[:37])
    assert (vectors.shape, vectors.dtype) == ((37, profile("embedded").dim), np.float16)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-3
    alone = np.concatenate([encoder.encode(photo_pixels[row : row + 1]) for row in (0, 17, 36)])
    assert np.array_equal(vectors[[0, 17, 36]], alone)
    assert encoder.encode(photo_pixels[:0]).shape == (0, profile("embedded").dim)


def _blank(colour):
    return np.full((224, 224, 3), colour, np.uint8)


def test_blank_pictures_have_vectors_and_only_equal_ones_are_duplicates(encoder, photo_pixels):
    blanks = [_blank(colour) for colour in (0, 128, 255)] + [_blank((200, 30, 30)), _blank((30, 30, 200))]
    vectors = encoder.encode(np.stack([*blanks, blanks[1] + 1])).astype(np.float32)
    cosines = vectors @ vectors.T
    assert np.abs(np.diag(cosines) - 1).max() < 2e-3
    assert cosines[1, 5] > 0.99
    assert cosines[:5, :5][np.triu_indices(5, 1)].max() < THRESHOLD
    assert (vectors @ encoder.encode(photo_pixels).astype(np.float32).T).max() < THRESHOLD


@pytest.mark.parametrize(("scale", "period"), [(0, 8), (1, 16), (2, 32), (3, 64)])
@pytest.mark.parametrize("turn", [0, 2, 4])
def test_a_grating_answers_in_its_own_scale_and_orientation(encoder, scale, period, turn):
    """A wave of `period` px of 224 is one of period / 2 px of 112: frequency 2 / period in cycles per pixel there."""
    angle = np.pi * turn / 8
    y, x = np.mgrid[:224, :224]
    wave = 128 + 60 * np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)))
    pixels = np.repeat(wave.astype(np.uint8)[None, :, :, None], 3, axis=3)
    energies = encoder.encode(pixels)[0, :512].astype(np.float32).reshape(4, 8, 16).mean(axis=2)
    assert np.unravel_index(energies.argmax(), (4, 8)) == (scale, turn)


def test_luminance_and_colour_parts_hold_the_layout(encoder):
    """Left half blue, right half grey of the same luminance: the layout of light is flat, that of colour is not."""
    pixels = _blank(100)
    pixels[:, :112] = [80, 89, 213]  # 0.299 * 80 + 0.587 * 89 + 0.114 * 213 = 100.4
    vector = encoder.encode(pixels[None])[0].astype(np.float32)
    luminance, chroma = vector[512:576].reshape(8, 8), vector[576:608].reshape(2, 4, 4)
    assert np.abs(luminance).max() < 0.05
    assert chroma[0, :, :2].min() > 0.1  # blue minus luminance
    assert np.abs(chroma[:, :, 2:]).max() < 0.01
    assert (np.abs(chroma[:, 0] - chroma[:, 3]) < 1e-3).all()


def test_golden_values_change_only_with_the_version(encoder):
    """If this fails because the descriptor was changed on purpose, change VERSION too: old vectors are then redone."""
    y, x = np.mgrid[:224, :224]
    pixels = np.stack([(x * x // 3 + y) % 256, (x + 2 * y) % 256, (x * y // 50) % 256], axis=2).astype(np.uint8)[None]
    vector = encoder.encode(pixels)[0].astype(np.float32)
    assert encoder.weights_sha256 == GOLDEN_SHA256
    assert {place: pytest.approx(vector[place], abs=1e-3) for place in GOLDEN} == GOLDEN


def test_it_says_what_it_is_not():
    caution = profile("embedded").caution
    assert caution is not None
    assert "not CLIP" in caution
    assert "clip-vit-l-14" in caution
    assert profile("clip-vit-l-14").caution is None


def test_it_runs_on_the_cpu_whatever_the_device():
    assert load_encoder(profile("embedded"), device="cuda").dim == 610
