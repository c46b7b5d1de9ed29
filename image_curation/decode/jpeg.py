"""JPEG files -> RGB arrays by libjpeg-turbo (simplejpeg), strictly, and as small as is harmless."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import simplejpeg

from image_curation.shards.header import Header

_PLAIN_COLOURS = frozenset({"YCbCr", "RGB", "Gray"})
_PRINT_COLOURS = frozenset({"CMYK", "YCCK"})
_REDUCTIONS = (8, 4, 2, 1)
_END_OF_IMAGE = b"\xff\xd9"
_TRAILER_BYTES = 1024


def is_plain(jpeg: bytes) -> bool:
    """Whether a JPEG is stored in one or three channels, in a way that simplejpeg turns to RGB."""
    return _colours(jpeg) in _PLAIN_COLOURS


def is_cmyk(jpeg: bytes) -> bool:
    """Whether a JPEG is stored in CMYK or YCCK, which simplejpeg decodes but does not turn to RGB."""
    return _colours(jpeg) in _PRINT_COLOURS


def is_whole(jpeg: bytes) -> bool:
    """Whether a JPEG ends in its end-of-image marker, but for a little that some writers put behind it.

    A GPU decodes a truncated JPEG and fills the rest with grey, without a word; the marker is what it lacks. Within
    picture data these two bytes do not occur.
    """
    return _END_OF_IMAGE in jpeg[-_TRAILER_BYTES:]


def jpeg_reduction(width: int, height: int, short_side: int) -> int:
    """The largest of 8, 4, 2 and 1 by which libjpeg can reduce while it decodes that keeps `short_side` pixels.

    Halves only: libjpeg's other scales (3/8, 5/8, ...) have no SIMD code and saved no time on 1 to 3 megapixels.
    """
    shorter = min(width, height)
    return next((r for r in _REDUCTIONS if -(-shorter // r) >= short_side), 1)


def decode_plain(
    jpeg: bytes, header: Header, reduction: int, strict: bool, into: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """Decode to uint8 RGB [ceil(height / reduction), ceil(width / reduction), 3], as stored.

    With `into`, uint8 [m] of at least that size, the pixels lie there.

    Raises:
        ValueError: it cannot be decoded, or it is `strict` and libjpeg has a warning.
    """
    return _decode(jpeg, header, reduction, "RGB", strict, into)


def check_cmyk(jpeg: bytes, header: Header) -> None:
    """Raise ValueError where libjpeg has a warning on a CMYK or YCCK JPEG, decoded for that as small as can be."""
    _decode(jpeg, header, _REDUCTIONS[0], "CMYK", strict=True)


def is_damaged(jpeg: bytes, header: Header) -> bool:
    """Whether libjpeg has a warning on a plain JPEG or cannot decode it. Decoded as small as can be, that takes 0.7 of
    the time, and the warnings are the same: they are about the codes, all of which are read."""
    try:
        _decode(jpeg, header, _REDUCTIONS[0], "RGB", strict=True)
    except ValueError:
        return True
    return False


def looked_into(header: Header, data: bytes) -> Header:
    """The header of an image with whether it is damaged inside, where it is a plain JPEG.

    A CPU finds that out anyway while it decodes; a GPU fills damage with grey, without a word, and has to be told.
    """
    if header.format != "JPEG" or not is_plain(data):
        return header
    return replace(header, damaged=is_damaged(data, header))


def _colours(jpeg: bytes) -> str | None:
    """The colour space that a JPEG is stored in; None where libjpeg or simplejpeg cannot tell."""
    try:
        return str(simplejpeg.decode_jpeg_header(jpeg, strict=False)[2])
    except (ValueError, KeyError):  # KeyError: a chroma subsampling for which simplejpeg has no name
        return None


def _decode(
    jpeg: bytes,
    header: Header,
    reduction: int,
    colours: str,
    strict: bool,
    into: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
        jpeg,
        colours,
        min_height=-(-header.height // reduction),
        min_width=-(-header.width // reduction),
        min_factor=reduction,
        strict=strict,
        buffer=into,
    )
    return pixels
