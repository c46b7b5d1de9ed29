"""What an image says of itself: formats, sizes, orientation, refusals, and safety with any bytes."""

import csv
import io
import struct
import tarfile
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_curation.decode.limits import DecodeLimits
from image_curation.errors import ImageError
from image_curation.shards.header import FORMATS, Header, check_limits, exif_orientation, read_header


def code_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        read_header(data)
    return caught.value.code


def png_that_claims(width: int, height: int) -> bytes:
    """The signature and IHDR of an RGB PNG, then an IDAT chunk without data: all that a header parser sees."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def exif_with(orientation: int, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entry = struct.pack(order + "HHIHH", 0x0112, kind, count, orientation, 0)
    return magic + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("format", FORMATS)
def test_size_and_format(image_of: Callable[..., bytes], format: str) -> None:
    assert read_header(image_of(format, (40, 30))) == Header(format, 40, 30, 1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_every_format_that_has_one(
    image_of: Callable[..., bytes], format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    header = read_header(image_of(format, (40, 30), exif=exif))
    assert header == Header(format, 40, 30, orientation)
    assert header.shown_size == ((30, 40) if orientation in (5, 6, 7, 8) else (40, 30))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0", b"Exif\0\0Exif\0\0"])
def test_exif_block_by_hand(order: str, prefix: bytes) -> None:
    assert exif_orientation(prefix + exif_with(6, order)) == 6


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II*\0",
        b"II*\0" + struct.pack("<I", 2**32 - 1),
        exif_with(0),
        exif_with(9),
        exif_with(6, kind=2),
        exif_with(6, count=2),
        exif_with(6)[:18],
        b"garbage" * 10,
    ],
)
def test_hostile_exif_means_upright(image_of: Callable[..., bytes], exif: bytes) -> None:
    assert exif_orientation(exif) == 1
    assert read_header(image_of("JPEG", (40, 30), exif=b"Exif\0\0" + exif)) == Header("JPEG", 40, 30, 1)


def test_exif_that_counts_more_entries_than_it_has() -> None:
    exif = bytearray(exif_with(6))
    exif[8:10] = struct.pack("<H", 65535)
    assert exif_orientation(bytes(exif)) == 6


@given(st.binary(max_size=200))
def test_any_exif_gives_an_orientation(exif: bytes) -> None:
    assert 1 <= exif_orientation(exif) <= 8
    assert 1 <= exif_orientation(b"MM\0*" + exif) <= 8


def test_first_picture_of_an_mpo_is_a_jpeg(image_of: Callable[..., bytes]) -> None:
    mpo = image_of("MPO", (40, 30), save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert read_header(mpo) == Header("JPEG", 40, 30, 1)


@pytest.mark.parametrize("data", [b"", b"x", b"<!DOCTYPE html><html></html>", bytes(1000), b"P5 is a pencil", b"BM"])
def test_no_image(data: bytes) -> None:
    assert code_of(data) == "not_an_image"


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"%PDF-1.7\n",
        b"8BPS\0\1" + bytes(40),
        b"\0\0\0\x18ftypheic" + bytes(40),
        b"\0\0\0\x18ftypmif1" + bytes(40),
        b"\0\0\1\0\1\0" + bytes(40),
        b"\n <svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xff\x0a" + bytes(40),
    ],
)
def test_known_formats_that_are_not_read(data: bytes) -> None:
    assert code_of(data) == "unsupported_format"


def test_header_cut_short_says_which_format_it_began_like(image_of: Callable[..., bytes]) -> None:
    with pytest.raises(ImageError, match="begins like JPEG, but its header cannot be read"):
        read_header(image_of("JPEG")[:40])


@pytest.mark.parametrize(("megabytes", "expected"), [(7, Header("JPEG", 8, 6, 1)), (9, "not_an_image")])
def test_header_of_many_megabytes_is_read_up_to_a_bound(
    image_of: Callable[..., bytes], megabytes: int, expected: Header | str
) -> None:
    jpeg = image_of("JPEG")
    segment = b"\xff\xe5\xff\xff" + bytes(65533)
    assert outcome(jpeg[:2] + segment * (16 * megabytes) + jpeg[2:]) == expected


def test_twelve_bit_jpeg_is_unsupported(image_of: Callable[..., bytes]) -> None:
    jpeg = bytearray(image_of("JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 4] = 12
    assert code_of(bytes(jpeg)) == "unsupported_format"


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (2**31, 5)])
def test_impossible_size(width: int, height: int) -> None:
    assert code_of(png_that_claims(width, height)) == "not_an_image"


def test_bomb_is_read_without_a_warning_and_left_to_our_limits() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = read_header(png_that_claims(60_000, 60_000))
    assert (header.width, header.height) == (60_000, 60_000)
    assert Image.MAX_IMAGE_PIXELS == before is not None


def test_pillow_remarks_on_odd_metadata_do_not_come_out(image_of: Callable[..., bytes], shared_data: Path) -> None:
    odd = shared_data / "hostile-images" / "files" / "Pillow__apng__chunk_multi_actl.png"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_header(odd.read_bytes()).format == "PNG"
        assert caught == []
        with Image.open(odd):
            assert len(caught) == 1  # so there was something to silence


def test_threads_leave_the_warning_filters_as_they_were(image_of: Callable[..., bytes]) -> None:
    before = list(warnings.filters)
    data = image_of("PNG")
    threads = [threading.Thread(target=lambda: [read_header(data) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_limits_name_both_numbers() -> None:
    limits = DecodeLimits(max_pixels=1000, max_bytes=100, max_aspect_ratio=10)
    check_limits(Header("PNG", 100, 10, 1), 100, limits)
    cases = {
        "too_many_bytes": (Header("PNG", 10, 10, 1), 101, "101 bytes are more than max_bytes=100"),
        "too_many_pixels": (Header("PNG", 91, 11, 1), 9, "91 x 11 = 1001 pixels are more than max_pixels=1000"),
        "extreme_aspect": (Header("PNG", 9, 91, 1), 9, "9 x 91 has an aspect ratio of 10.1, above max_aspect_ratio=10"),
    }
    for code, (header, size, text) in cases.items():
        with pytest.raises(ImageError) as caught:
            check_limits(header, size, limits)
        assert (caught.value.code, str(caught.value)) == (code, text)


def test_real_and_hostile_images_agree_with_the_list_of_what_pillow_sees(shared_data: Path) -> None:
    """The manifest was made with `Image.open(...).size`, which turns TIFFs; those are turned back here."""
    seen = 0
    folder = shared_data / "hostile-images"
    for row in csv.DictReader(io.StringIO((folder / "manifest.csv").read_text())):
        if row["pillow13_outcome"] != "ok" or row["format"] == "PSD":
            continue
        header = read_header((folder / "files" / row["file"]).read_bytes())
        size = header.shown_size if header.format == "TIFF" else (header.width, header.height)
        assert (header.format, str(size)) == (row["format"].replace("MPO", "JPEG"), row["size"]), row["file"]
        seen += 1
    assert seen == 88


def test_orientations_of_real_photos_agree_with_pillow(shared_data: Path) -> None:
    counts: dict[int, int] = {}
    for path in sorted((shared_data / "photos").glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                if not info.name.endswith(".jpg"):
                    continue
                stored = tar.extractfile(info)
                assert stored is not None
                data = stored.read()
                orientation = read_header(data).orientation
                with Image.open(io.BytesIO(data)) as image:
                    assert image.getexif().get(0x0112, 1) in (orientation, 0)
                counts[orientation] = counts.get(orientation, 0) + 1
    assert counts == {1: 385, 6: 2}


def outcome(data: bytes) -> Header | str:
    """The header, or the code of the refusal; any other error goes through."""
    try:
        return read_header(data)
    except ImageError as error:
        return error.code if str(error) else "no text"


def is_sound(result: Header | str) -> bool:
    if isinstance(result, str):
        return result in ("not_an_image", "unsupported_format", "too_many_pixels")
    return min(result.width, result.height) > 0 and 1 <= result.orientation <= 8


MAGICS = [
    b"\xff\xd8\xff\xe0",
    b"\xff\xd8\xff\xe1\x00\x40Exif\0\0",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"RIFF\x40\0\0\0WEBPVP8X",
    b"\0\0\0\x20ftypavif",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
    b"P6 ",
    b"",
]


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(MAGICS), st.binary(max_size=300))
def test_random_bytes_behind_any_magic(magic: bytes, rest: bytes) -> None:
    assert is_sound(outcome(magic + rest))


@settings(deadline=None, max_examples=600)
@given(st.data())
def test_damaged_headers_of_real_images(real_images: list[bytes], data: st.DataObject) -> None:
    image = bytearray(data.draw(st.sampled_from(real_images)))
    changes = st.tuples(st.integers(0, min(len(image), 400) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, max_size=6)):
        image[place] = value
    assert is_sound(outcome(bytes(image[: data.draw(st.integers(0, len(image)))])))


@pytest.fixture(scope="module")
def real_images(image_of: Callable[..., bytes]) -> list[bytes]:
    """One small image of each format, those that can with EXIF."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    with_exif = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
    return [image_of(format, (40, 30), **({"exif": exif} if format in with_exif else {})) for format in FORMATS]
