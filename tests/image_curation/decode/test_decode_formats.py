"""Formats, colour modes and orientations: each as a user would expect to see it."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_curation.decode.codec import PARAMS, CpuCodec
from image_curation.decode.orientation import upright
from image_curation.shards.header import read_header


@pytest.fixture(scope="module")
def photo(photos) -> Image.Image:
    return Image.open(io.BytesIO(photos[0])).convert("RGB").resize((150, 110))


def encoded(image: Image.Image, name: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def full_size(image: bytes) -> tuple[np.ndarray, str]:
    """The decoded image before it is resized, and the decoder's name."""
    with ThreadPoolExecutor(1) as pool:
        (picture,) = CpuCodec(pool, 10_000).decode([image], [read_header(image)], lambda _, picture: picture)
    assert not isinstance(picture, Exception), picture
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.flags.writeable
    return picture.pixels, picture.facts.decoder


LOSSLESS = {
    "png": ("PNG", {}, "nvimgcodec"),
    "webp": ("WEBP", {"lossless": True}, "nvimgcodec"),
    "bmp": ("BMP", {}, "pillow"),
    "ppm": ("PPM", {}, "pillow"),
    "tiff": ("TIFF", {}, "pillow"),
    "tiff_deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}, "pillow"),
    "jpeg2000": ("JPEG2000", {}, "pillow"),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_format_gives_the_exact_pixels(photo, name):
    form, options, decoder = LOSSLESS[name]
    pixels, used = full_size(encoded(photo, form, **options))
    assert np.array_equal(pixels, np.asarray(photo))
    assert used == decoder


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_lossy_format_gives_the_pixels_that_pillow_gives(photo, form):
    image = encoded(photo, form)
    pixels, _ = full_size(image)
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(image)).convert("RGB")))
    assert np.abs(pixels.astype(int) - np.asarray(photo)).mean() < 12


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped_and_not_blended(photo, form):
    transparent = photo.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(photo.size))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    assert np.array_equal(full_size(encoded(transparent, form, **options))[0], np.asarray(photo))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_gray(photo, form):
    gray = photo.convert("L")
    assert np.array_equal(full_size(encoded(gray, form))[0], np.asarray(gray.convert("RGB")))


def test_gray_jpeg(photo):
    image = encoded(photo.convert("L"), "JPEG")
    pixels, decoder = full_size(image)
    assert decoder == "simplejpeg"
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(image)).convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["1", "P", "LA"])
def test_black_and_white_palette_and_gray_with_alpha(photo, form, mode):
    image = photo.convert("L").convert(mode) if mode == "LA" else photo.convert(mode)
    assert np.array_equal(full_size(encoded(image, form))[0], np.asarray(image.convert("RGB")))


def test_palette_with_transparent_colours(photo):
    image = photo.quantize(16)
    pixels, _ = full_size(encoded(image, "PNG", transparency=bytes(range(16))))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000"])
def test_16_bit_gray_is_scaled_where_pillow_alone_would_turn_white(photo, form):
    gray = np.asarray(photo.convert("L"))
    image = encoded(Image.fromarray(gray.astype(np.uint16) * 257), form)
    assert np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).mean() > 250
    assert np.array_equal(full_size(image)[0], np.repeat(gray[:, :, None], 3, axis=2))


def test_pnm_with_another_largest_value():
    gray = b"P5 2 1 15\n" + bytes([15, 0])
    wide = b"P5 2 1 65535\n" + bytes([255, 255, 128, 128])
    colour = b"P6 1 1 1023\n" + bytes([3, 255, 0, 0, 2, 0])
    assert full_size(gray)[0][0].tolist() == [[255] * 3, [0] * 3]
    assert full_size(wide)[0][0].tolist() == [[255] * 3, [128] * 3]
    assert full_size(colour)[0][0].tolist() == [[255, 0, 128]]


def test_white_of_a_16_bit_bmp():
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0)
    image = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + header + struct.pack("<HH", 0x7FFF, 0x0000)
    assert full_size(image)[0][0].tolist() == [[255] * 3, [0] * 3]


def test_float_tiff_from_0_to_1(photo):
    gray = np.asarray(photo.convert("L"))
    pixels, _ = full_size(encoded(Image.fromarray(gray.astype(np.float32) / 255), "TIFF"))
    assert np.array_equal(pixels[:, :, 1], gray)


def test_float_tiff_with_any_range_is_stretched():
    values = np.array([[-3.0, 0.0], [3.0, np.nan]], np.float32)
    pixels, _ = full_size(encoded(Image.fromarray(values), "TIFF"))
    assert pixels[:, :, 0].tolist() == [[0, 128], [255, 128]]  # -3 is black, 3 is white, 127.5 rounds to even


def test_float_tiff_of_one_value_is_black():
    assert not full_size(encoded(Image.fromarray(np.full((2, 2), -3, np.float32)), "TIFF"))[0].any()


def test_32_bit_tiff_that_holds_16_bits():
    values = np.array([[0, 257], [32896, 65535]], np.int32)
    assert full_size(encoded(Image.fromarray(values), "TIFF"))[0][:, :, 2].tolist() == [[0, 1], [128, 255]]


def test_lab_tiff_becomes_srgb():
    lab = Image.frombytes("LAB", (1, 2), bytes([255, 0, 0, 0, 0, 0]))  # L = 100 and L = 0, without colour
    pixels, _ = full_size(encoded(lab, "TIFF"))
    assert pixels[0].min() >= 253
    assert pixels[1].max() <= 2


def test_cmyk_jpeg_agrees_with_pillow(photo):
    image = encoded(photo.convert("CMYK"), "JPEG")
    pixels, decoder = full_size(image)
    expected = np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)
    assert decoder == "nvimgcodec"
    assert np.abs(pixels - expected).max() <= 2


def test_only_the_first_frame_of_an_animation(photo):
    black = Image.new("RGB", photo.size)
    for form, options in {"GIF": {}, "PNG": {}, "WEBP": {"lossless": True}}.items():
        pixels, _ = full_size(encoded(photo, form, save_all=True, append_images=[black, black], **options))
        assert np.abs(pixels.astype(int) - np.asarray(photo)).mean() < 12, form


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_orientation_of_lossless_formats_gives_the_upright_photo(photo, form, orientation):
    options = {"lossless": True} if form == "WEBP" else {}
    image = encoded(stored_for(photo, orientation), form, exif=exif(orientation), **options)
    assert np.array_equal(full_size(image)[0], np.asarray(photo))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_jpeg_and_avif_is_as_in_pillow(photo, orientation):
    for form in ("JPEG", "AVIF"):
        image = encoded(stored_for(photo, orientation), form, exif=exif(orientation))
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(image))))
        assert np.array_equal(full_size(image)[0], expected), form
        assert np.abs(expected.astype(int) - np.asarray(photo)).mean() < 6, form


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_agrees_with_that_of_nvimgcodec(photo, orientation):
    from nvidia import nvimgcodec

    only_cpu = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
    decoder = nvimgcodec.Decoder(nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY, 1, only_cpu)
    for form in ("JPEG", "PNG"):
        image = encoded(stored_for(photo, orientation), form, exif=exif(orientation))
        (as_stored,) = decoder.decode([image], params=PARAMS)
        (turned,) = decoder.decode([image], params=nvimgcodec.DecodeParams(apply_exif_orientation=True))
        assert np.array_equal(upright(np.asarray(as_stored), orientation), np.asarray(turned)), form


def test_orientation_of_a_tensor_is_as_of_an_array():
    import torch

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for orientation in range(1, 9):
        turned = upright(torch.from_numpy(pixels), orientation)
        assert turned.is_contiguous()
        assert np.array_equal(turned.numpy(), upright(pixels, orientation))


def test_eight_orientations_of_one_photo_decode_alike(shared_data, decoder):
    files = sorted((shared_data / "near-duplicates" / "files").glob("*_Landscape_[1-8].jpg"))
    assert len(files) == 16  # two sets, each photo re-encoded after turning
    decoded = decoder.decode([file.read_bytes() for file in files])
    first, second = (
        decoded.pixels[1:8].astype(int),
        decoded.pixels[8:].astype(int),
    )  # the very first is framed otherwise
    for pixels, most in ((first, 4), (second, 2)):
        assert np.abs(pixels - pixels[0]).mean(axis=(1, 2, 3)).max() < most
        assert np.abs(pixels - pixels[0, :, ::-1]).mean(axis=(1, 2, 3)).min() > 50  # a mirrored one is far
    assert {(fact.width, fact.height) for fact in decoded.facts} == {(600, 450), (1800, 1200)}


def stored_for(photo: Image.Image, orientation: int) -> Image.Image:
    """The image that a viewer which obeys `orientation` shows as `photo`, by Pillow's names for the inverse turns."""
    inverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return photo.transpose(inverse[orientation]) if orientation in inverse else photo


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block
