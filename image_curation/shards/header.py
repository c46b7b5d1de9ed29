"""The first bytes of an image -> its format, stored size and EXIF orientation, without decoding a pixel.

Pillow's plugins for a white list of formats do the parsing. They are called one by one instead of through `Image.open`,
because that refuses images above a process-wide pixel limit; ours is `check_limits`, and differs from call to call.
Left out are formats that start other programs (EPS, WMF), documents (PDF, PSD) and icons.
"""

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from image_curation.decode.limits import DecodeLimits
from image_curation.errors import ImageError

# Format -> Pillow's reader. JPEG without Pillow's search for further pictures (MPO): the first one is the image.
_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
FORMATS = tuple(_READERS)

# Offset and first bytes of pictures that people do put into shards and that are not read here -> their name.
_KNOWN_BUT_UNREAD: dict[tuple[int, bytes], str] = {
    (0, b"%PDF"): "PDF",
    (0, b"%!PS"): "EPS",
    (0, b"8BPS"): "PSD",
    (0, b"\xff\x0a"): "JPEG XL",
    (4, b"JXL \r\n"): "JPEG XL",
    (4, b"ftypheic"): "HEIC",
    (4, b"ftypheix"): "HEIC",
    (4, b"ftyphevc"): "HEIC",
    (4, b"ftypmif1"): "HEIF",
    (4, b"ftypmsf1"): "HEIF",
    (0, b"\x00\x00\x01\x00"): "ICO",
    (0, b"<svg"): "SVG",
    (0, b"v/1\x01"): "OpenEXR",
    (0, b"#?RADIANCE"): "Radiance HDR",
    (0, b"DDS "): "DDS",
    (0, b"qoif"): "QOI",
    (0, b"gimp xcf"): "XCF",
    (0, b"\xd7\xcd\xc6\x9a"): "WMF",
}

# These have their header in front. Pillow walks through it byte by byte or piece by piece in Python (0.1 to 0.4 s/MB),
# so that a file which is all header would hold up its shard for a minute. Metadata of real photos may take some MB.
_HEADER_IN_FRONT = frozenset(("JPEG", "PNG", "GIF", "BMP", "JPEG2000", "PPM"))
LARGEST_HEADER_BYTES = 8 << 20
_ORIENTATION = 0x0112
_LARGEST_SIDE = 2**31 - 1
_filters = threading.Lock()


@dataclass(frozen=True)
class Header:
    """What an image says of itself: format (one of `FORMATS`), size in pixels as stored, EXIF orientation (1 to 8)."""

    format: str
    width: int
    height: int
    orientation: int
    damaged: bool | None = None
    """Whether there is damage inside, as `decode.jpeg.looked_into` sees it; None where nobody has looked."""

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height as a viewer shows it, which turns orientations 5 to 8 by 90 degrees."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes) -> Header:
    """Read what an image says of itself. `data` is the whole file; no pixel is decoded and any bytes are safe.

    The orientation is that of the EXIF block (or of the TIFF tags, or of an AVIF's rotation boxes), as browsers apply
    it; XMP is not asked. A damaged EXIF block means orientation 1. Of formats that have their header in front only the
    first `LARGEST_HEADER_BYTES` are looked at.

    Raises:
        ImageError: with the code `not_an_image` (unknown bytes, or a damaged header), `unsupported_format` (a known
            format that is not read here, or an odd variety of one that is), or `too_many_pixels` (a WebP, or a GIF
            frame, above the 179 megapixels that Pillow itself allows: it refuses these while reading the header).
    """
    readers = [name for name in FORMATS if _accepts(name, data[:16])]
    if not readers:
        raise _unknown(data)
    try:
        with pillow_quiet():
            return _parse(readers[0], data)
    except Image.DecompressionBombError as error:
        raise ImageError("too_many_pixels", f"too many pixels for the {readers[0]} reader: {error}") from error
    except Exception as error:  # on hostile bytes Pillow's parsers raise nearly every built-in exception
        raise _unreadable(readers[0], data, error) from error


def check_limits(header: Header, size_bytes: int, limits: DecodeLimits) -> None:
    """Refuse an image that would cost too much to decode.

    Raises:
        ImageError: with the code `too_many_bytes`, `too_many_pixels` or `extreme_aspect`; the text has both numbers.
    """
    check_bytes(size_bytes, limits)
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        raise ImageError(
            "too_many_pixels",
            f"{header.width} x {header.height} = {pixels} pixels are more than max_pixels={limits.max_pixels}",
        )
    aspect = max(header.width, header.height) / min(header.width, header.height)
    if aspect > limits.max_aspect_ratio:
        raise ImageError(
            "extreme_aspect",
            f"{header.width} x {header.height} has an aspect ratio of {aspect:.1f}, "
            f"above max_aspect_ratio={limits.max_aspect_ratio:g}",
        )


def check_bytes(size_bytes: int, limits: DecodeLimits) -> None:
    """The part of `check_limits` that needs no header, for members that are too large to be read at all."""
    if size_bytes > limits.max_bytes:
        raise ImageError("too_many_bytes", f"{size_bytes} bytes are more than max_bytes={limits.max_bytes}")


def exif_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in an EXIF block, with or without its `Exif` prefix; 1 where it has none or is damaged.

    A reader of its own (TIFF 6.0, section 2): the tag must be a single SHORT, as browsers demand.
    """
    while exif.startswith(b"Exif\x00\x00"):
        exif = exif[6:]
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (entries,) = struct.unpack_from(order + "H", exif, start)
    fitting = min(entries, (len(exif) - start - 2) // 12)
    for place in range(start + 2, start + 2 + 12 * fitting, 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, place)
        if (tag, kind, count) == (_ORIENTATION, 3, 1):
            return _valid_orientation(value)
    return 1


def _accepts(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1]
    return accept is not None and accept(prefix) is True


def _parse(name: str, data: bytes) -> Header:
    front = data[:LARGEST_HEADER_BYTES] if name in _HEADER_IN_FRONT else data
    with _READERS[name](io.BytesIO(front)) as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # its `size` is turned already
            tags = image.tag_v2
            size = int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
            orientation = _valid_orientation(tags.get(_ORIENTATION))
        else:
            size = image.size
            exif = image.info.get("exif")
            orientation = exif_orientation(exif) if isinstance(exif, bytes) else 1
    if not all(0 < side <= _LARGEST_SIDE for side in size):
        raise ValueError(f"its size is given as {size[0]} x {size[1]}")
    return Header(name, *size, orientation)


def _valid_orientation(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextmanager
def pillow_quiet() -> Iterator[None]:
    """Without Pillow's remarks on odd metadata. Warning filters belong to the process, hence one thread at a time."""
    with _filters, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _unknown(data: bytes) -> ImageError:
    name = _unread_format(data)
    if name:
        return ImageError("unsupported_format", f"{name} is not read here; allowed are {', '.join(FORMATS)}")
    if not data:
        return ImageError("not_an_image", "there are no bytes")
    return ImageError("not_an_image", f"{len(data)} bytes that begin with {data[:16]!r} are no known image format")


def _unreadable(name: str, data: bytes, error: Exception) -> ImageError:
    unread = _unread_format(data)
    if unread:  # HEIF with AVIF's container brand
        return ImageError("unsupported_format", f"{unread} is not read here; allowed are {', '.join(FORMATS)}")
    reason = str(error) or type(error).__name__
    if reason == "not identified by this driver":
        reason = "it states no valid size or colour mode"
    # Pillow has no type of error for a valid but rare variety; its text is the only sign.
    rare = any(sign in reason.lower() for sign in ("unsupported", "cannot handle"))
    code = "unsupported_format" if rare else "not_an_image"
    return ImageError(code, f"it begins like {name}, but its header cannot be read: {reason}")


def _unread_format(data: bytes) -> str | None:
    start = data[:64].lstrip() if data[:1].isspace() else data[:64]
    for (offset, magic), name in _KNOWN_BUT_UNREAD.items():
        if start[offset : offset + len(magic)] == magic:
            return name
    return None
