"""How far the pixels lie from those of open_clip's own transform, in grey levels of 255, measured and held."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_curation.decode.decoder import ImageDecoder
from image_curation.decode.geometry import crop_region
from image_curation.decode.jpeg import decode_plain, jpeg_reduction
from image_curation.decode.resize import crop_and_thumb
from image_curation.encoders.torchvision_cpu import ensure_torchvision
from image_curation.shards.header import read_header

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(scope="module")
def open_clip_pixels() -> Callable[[bytes, int], np.ndarray]:
    """open_clip's evaluation transform, stopped before it makes floats; EXIF orientation is applied first."""
    ensure_torchvision()
    import open_clip

    def transform(image: bytes, size: int) -> np.ndarray:
        pixels = ImageOps.exif_transpose(Image.open(io.BytesIO(image)))
        for step in open_clip.image_transform(size, is_train=False).transforms[:-2]:
            pixels = step(pixels)
        return np.asarray(pixels)

    return transform


def distances(images: list[bytes], decoder: ImageDecoder, size: int, reference) -> tuple[np.ndarray, list[int]]:
    """Mean absolute difference of each image's pixels to open_clip's, and by how much its JPEG was reduced."""
    decoded = decoder.decode(images)
    assert len(decoded.rows) == len(images)
    expected = np.array([reference(image, size) for image in images])
    difference = np.abs(decoded.pixels.astype(int) - expected)
    reductions = []
    for image in images:
        header = read_header(image)
        reductions.append(jpeg_reduction(header.width, header.height, 2 * size))
    return difference.mean(axis=(1, 2, 3)), reductions


def test_distance_to_open_clip_on_photos_that_are_decoded_in_full(photos, decoder, open_clip_pixels):
    images = [image for image in photos if min(read_header(image).shown_size) < 895][::3]
    distance, reductions = distances(images, decoder, 224, open_clip_pixels)
    print(f"{len(images)} photos in full: mean {distance.mean():.3f}, worst photo {distance.max():.3f} of 255")
    assert len(images) == 120
    assert set(reductions) == {1}
    assert distance.mean() < 0.01  # measured 0.003
    assert distance.max() < 0.02  # measured 0.006


def test_distance_to_open_clip_on_photos_that_libjpeg_reduces(photos, decoder, open_clip_pixels):
    images = [image for image in photos if min(read_header(image).shown_size) >= 895]
    distance, reductions = distances(images, decoder, 224, open_clip_pixels)
    print(f"{len(images)} photos reduced: mean {distance.mean():.3f}, worst photo {distance.max():.3f} of 255")
    assert len(images) == 28
    assert set(reductions) == {2}
    assert distance.mean() < 0.36  # measured 0.338
    assert distance.max() < 0.76  # measured 0.707


def test_distance_to_open_clip_of_small_crops_by_factors_of_2_4_and_8(photos, open_clip_pixels):
    with ImageDecoder(56, threads=1) as small:
        distance, reductions = distances(photos[::3], small, 56, open_clip_pixels)
    by_factor = {factor: distance[np.array(reductions) == factor] for factor in (2, 4, 8)}
    print({factor: f"{len(part)} photos, mean {part.mean():.3f}" for factor, part in by_factor.items()})
    assert [len(part) for part in by_factor.values()] == [23, 97, 9]
    assert by_factor[2].mean() < 0.31  # measured 0.282
    assert by_factor[4].mean() < 0.61  # measured 0.576
    assert by_factor[8].mean() < 0.63  # measured 0.597


def test_distance_at_336_pixels(photos, open_clip_pixels):
    with ImageDecoder(336, threads=1) as large:
        distance, _ = distances(photos[:60], large, 336, open_clip_pixels)
    assert distance.mean() < 0.015  # measured 0.007


def test_reference_tensors_of_clip(shared_data: Path, decoder):
    folder = shared_data / "clip-b32-reference"
    tensors = np.load(folder / "clip_vitb32_emb_and_tensors.npz")
    files = sorted(folder.glob("tests/test_clip_inference/test_images/*.jpg"))
    decoded = decoder.decode([file.read_bytes() for file in files])
    assert len(decoded.rows) == 7
    for file, pixels in zip(files, decoded.pixels, strict=True):
        normalised = (pixels / 255 - MEAN) / STD
        reference = tensors[f"tensor_{file.stem}"].transpose(1, 2, 0)
        difference = np.abs(normalised - reference) * STD * 255
        print(f"{file.stem}: mean {difference.mean():.3f}, most {difference.max():.2f} of 255")
        assert difference.mean() < 0.02  # measured 0.002 to 0.008
        assert difference.max() < 2.5  # measured 1 to 2


def test_distance_to_open_clip_of_strips(photos, open_clip_pixels, decoder):
    """Pillow resizes these, and the crop alone."""
    images = []
    for photo, size in zip(photos, [(1601, 401), (400, 1600), (3000, 130), (97, 2001)], strict=False):
        file = io.BytesIO()
        Image.open(io.BytesIO(photo)).convert("RGB").resize(size).save(file, "BMP")
        images.append(file.getvalue())
    decoded = decoder.decode(images)
    expected = np.array([open_clip_pixels(image, 224) for image in images])
    distance = np.abs(decoded.pixels.astype(int) - expected)
    print(f"strips: mean {distance.mean():.4f}, most {distance.max()} of 255")
    assert distance.mean() < 0.02  # measured 0.011
    assert distance.max() <= 2


def test_region_of_photos_by_hand():
    # 500 x 375 -> 298 x 224 (298.67 truncated); offset (298 - 224) / 2 = 37
    assert crop_region(500, 375, 224) == pytest.approx((0, 37 * 500 / 298, 375, 261 * 500 / 298))
    # 375 x 500 -> the same, upright
    assert crop_region(375, 500, 224) == pytest.approx((37 * 500 / 298, 0, 261 * 500 / 298, 375))
    # 227 x 224 -> offset 1.5, to the even 2; 229 x 224 -> 2.5, to the even 2
    assert crop_region(227, 224, 224) == pytest.approx((0, 2, 224, 226))
    assert crop_region(229, 224, 224) == pytest.approx((0, 2, 224, 226))
    assert crop_region(1, 1, 224) == pytest.approx((0, 0, 1, 1))
    # 2000 x 1 -> 448000 x 224; the crop shows one pixel's width, around the middle
    assert crop_region(2000, 1, 224) == pytest.approx((0, 999.5, 1, 1000.5))


def test_reduction_keeps_the_short_side():
    assert jpeg_reduction(895, 2000, 448) == 2  # 447.5, and libjpeg rounds up
    assert jpeg_reduction(894, 2000, 448) == 1
    assert jpeg_reduction(4000, 3584, 448) == 8
    assert jpeg_reduction(4000, 3576, 448) == 4
    assert jpeg_reduction(100, 100, 448) == 1


def test_region_of_a_reduced_image_is_measured_in_the_whole_one(open_clip_pixels):
    """1793 columns become 225 that stand for 1800. Taken for all of the image, stripes land half a pixel off."""
    stripes = np.rint(127.5 + 100 * np.sin(2 * np.pi * np.arange(1793) / 64)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.repeat(stripes[None], 513, axis=0)).convert("RGB").save(file, "JPEG", quality=98, subsampling=0)
    image = file.getvalue()
    expected = open_clip_pixels(image, 32).astype(int)
    with ImageDecoder(32, threads=1) as small:
        assert np.abs(small.decode([image]).pixels[0] - expected).mean() < 1.8  # measured 1.57; contrast is 66

    reduced = decode_plain(image, read_header(image), 8, strict=True)
    assert reduced.shape == (65, 225, 3)
    as_if_whole, _ = crop_and_thumb(reduced, 1, (225, 65), 32)
    assert np.abs(as_if_whole.astype(int) - expected).mean() > 20  # so the test can tell


def test_thumbnails_show_the_whole_image(photos):
    distance = []
    for image in photos[:40]:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).convert("RGB")
        _, thumb = crop_and_thumb(np.array(picture), 1, picture.size, 224)
        assert thumb.dtype == np.uint8
        distance.append(np.abs(thumb.astype(int) - picture.resize((64, 64), Image.Resampling.BILINEAR)).mean())
    print(f"mean {np.mean(distance):.3f}, worst photo {max(distance):.3f} of 255")
    assert np.mean(distance) < 0.17  # measured 0.15
    assert max(distance) < 0.4
