"""Turn a photo into each case that curation must meet: near-duplicates, damaged files, odd formats and names."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter

Make = Callable[[Image.Image, bytes], bytes]
"""(pixels, the JPEG made of them) -> the bytes of the image member."""

ORIENTATION = 0x0112
"""EXIF tag; 6 tells a viewer to turn the stored image by 90 degrees clockwise."""

BOMB_SIDE = 60_000
"""Pixels. 3.6 gigapixels, 10.8 GB once decoded, in a file of a few hundred bytes."""


@dataclass(frozen=True)
class Case:
    """How the image member is made (None: there is none), and what is written after the key in its name."""

    make: Make | None
    suffix: str = ".jpg"
    folder: str = ""


def jpeg(image: Image.Image, quality: int = 90, **options: object) -> bytes:
    """Encode as JPEG. Gray, RGB and CMYK stay what they are."""
    return _encode(image, "JPEG", quality=quality, **options)


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _reencoded(image: Image.Image, data: bytes) -> bytes:
    return jpeg(image, quality=40)


def _resized(image: Image.Image, data: bytes) -> bytes:
    return jpeg(image.resize((image.width * 7 // 10, image.height * 7 // 10), Image.Resampling.LANCZOS))


def _cropped(image: Image.Image, data: bytes) -> bytes:
    across, down = image.width // 50, image.height // 50
    return jpeg(image.crop((across, down, image.width - across, image.height - down)))


def _brightened(image: Image.Image, data: bytes) -> bytes:
    return jpeg(ImageEnhance.Brightness(image).enhance(1.2))


def _rotated(image: Image.Image, data: bytes) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    # Pillow turns counter-clockwise, so that a viewer's clockwise turn shows the original again.
    return jpeg(image.transpose(Image.Transpose.ROTATE_90), exif=exif)


def _blurred(image: Image.Image, data: bytes) -> bytes:
    return jpeg(image.filter(ImageFilter.GaussianBlur(min(image.size) / 20)))


def _bomb(image: Image.Image, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _unchanged(image: Image.Image, data: bytes) -> bytes:
    return data


NEAR_DUPLICATES: dict[str, Make] = {
    "exact": _unchanged,
    "reencoded": _reencoded,
    "resized": _resized,
    "cropped": _cropped,
    "brightened": _brightened,
    "exif_rotated": _rotated,
}
"""kind -> how it is made of an original that is there too."""

ODDITIES: dict[str, Case] = {
    # damaged, or no image at all: these fail
    "truncated": Case(lambda image, data: data[: len(data) * 6 // 10]),
    "text_as_image": Case(lambda image, data: b"Sorry, this photo is no longer available.\n"),
    "empty": Case(lambda image, data: b""),
    "no_image": Case(None),
    "bomb": Case(_bomb, ".png"),
    # pictures that a policy may not want
    "blurred": Case(_blurred),
    "tiny": Case(lambda image, data: jpeg(image.resize((24, 18)))),
    "dark": Case(lambda image, data: jpeg(ImageEnhance.Brightness(image).enhance(0.02))),
    # good pictures in other formats
    "png": Case(lambda image, data: _encode(image, "PNG"), ".png"),
    "webp": Case(lambda image, data: _encode(image, "WEBP", quality=85), ".webp"),
    "cmyk": Case(lambda image, data: jpeg(image.convert("RGB").convert("CMYK"))),
    # good pictures with odd names or sidecars
    "invalid_json": Case(_unchanged),
    "dotted_key": Case(_unchanged, ".final.jpg"),
    "upper_case": Case(_unchanged, ".JPG"),
    "nested_key": Case(_unchanged, folder="album/"),
}
"""kind -> how it is made of a photo that is nowhere else."""
