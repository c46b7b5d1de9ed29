"""Encoded image -> RGB array by Pillow: the second chance for what faster decoders do not read or refuse."""

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

from image_curation.errors import ImageError
from image_curation.shards.header import Header

# What Pillow's plugins raise on damaged bytes. They have no error type of their own.
_PILLOW_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    SyntaxError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_LARGEST_UINT16 = 65535


def read_with_pillow(data: bytes, header: Header) -> npt.NDArray[np.uint8]:
    """Decode the first frame of an image to uint8 [h, w, 3], as stored (a TIFF, though, as shown: Pillow turns it).

    Only the plugin for the format of `header` is tried, so that a file cannot choose another, less safe one.
    Pillow's own limit against decompression bombs holds, and truncated files are refused (`LOAD_TRUNCATED_IMAGES` is
    left off).

    Raises:
        ImageError: with the code `decode_failed`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[header.format]) as image:
            image.load()
            return _to_rgb(image)
    except _PILLOW_ERRORS as error:
        raise ImageError(
            "decode_failed",
            f"{header.format} image of {header.width} x {header.height} cannot be decoded: "
            f"{error or type(error).__name__}",
        ) from error


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """8-bit RGB [h, w, 3] of an image in any of Pillow's modes; alpha is dropped, as CLIP's `convert("RGB")` does."""
    if image.mode.startswith("I;16"):
        return _gray(_scale_uint16(np.asarray(image)))
    if image.mode in ("I", "F"):
        return _gray(_scale_wide(np.asarray(image)))
    if image.mode == "P" and "transparency" in image.info:  # by RGBA, as Pillow warns otherwise; the colours are equal
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))  # a copy that can be written to: torch takes no other without a warning


def _gray(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(values[:, :, None], 3, axis=2)


def _scale_uint16(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """0..65535 to 0..255. Pillow's own conversion cuts off at 255 and leaves white."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _scale_wide(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """32-bit integers or floats to 0..255: integers that fit in 16 bits as such, floats within 0..1 as such, all else
    from its smallest to its largest value, since nothing in the file says what is black and what is white."""
    numbers = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    white = 1.0 if values.dtype.kind == "f" else float(_LARGEST_UINT16)
    if low < 0 or high > white:
        numbers, white = numbers - low, (high - low) or 1.0
    return np.rint(numbers * (255 / white)).astype(np.uint8)
