"""Encoded images -> upright RGB arrays on the host, each from the decoder that suits it; a bad one costs only itself.

| format | decoder |
|---|---|
| JPEG, one or three channels | simplejpeg (libjpeg-turbo), strict, reduced where harmless |
| CMYK JPEG, PNG, WebP | nvImageCodec's CPU decoders |
| GIF, TIFF, AVIF, BMP, PNM, JPEG 2000, animated PNG; what is refused above | Pillow |

nvImageCodec 0.9 reads most of the last row too but is not asked to. A damaged JPEG 2000 or TIFF ends the process in a
segmentation fault (in its OpenCV and libtiff parts); an animated PNG comes in wrong colours, a PNM as if its largest
value were 255, and a 16-bit BMP with a white of 248.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg

from image_curation.decode.jpeg import check_cmyk, decode_plain, is_cmyk, is_plain, jpeg_reduction
from image_curation.decode.orientation import upright
from image_curation.decode.picture import ImageFacts, Picture
from image_curation.decode.pillow_reader import read_with_pillow
from image_curation.errors import ConfigError, ImageError
from image_curation.shards.header import Header, pillow_quiet

# Both libraries print several lines for each image that they refuse. Here a refusal is a value.
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

from nvidia import nvimgcodec  # type: ignore[attr-defined]  # it reads its verbosity while it is imported

_T = TypeVar("_T")
_KEPT_BYTES = 1 << 24  # for decoded pixels, by each thread
_LISTED_FORMATS = frozenset({"JPEG", "PNG", "WEBP"})
PARAMS = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)


@dataclass(frozen=True)
class _Refused:
    """The first decoders would not have an image; is it because it is damaged?"""

    damaged: bool


class CpuCodec:
    """Decodes lists of images on the threads of `pool`. Several threads may use it at once.

    A JPEG comes reduced where its short side keeps `short_side` pixels.
    """

    def __init__(self, pool: Executor, short_side: int) -> None:
        self._pool = pool
        self._short_side = short_side
        self._local = threading.local()
        self._one_damaged = threading.Lock()
        check_decoder(self._listed, "on the CPU")

    def decode(
        self, images: Sequence[bytes], headers: Sequence[Header], then: Callable[[int, Picture], _T]
    ) -> list[_T | ImageError]:
        """What `then` makes of each image's position and picture, or why there is no picture; in order.

        `then` runs on the thread that decoded the image, while its pixels are in the processor's cache. After it, they
        may be written over: memory that is used again is worth a fifth of a photo's decoding.
        """
        first = self._pool.map(partial(self._first_chance, then), range(len(images)), images, headers)
        outcomes: list[_T | ImageError | _Refused] = list(first)
        refused = {i: outcome.damaged for i, outcome in enumerate(outcomes) if isinstance(outcome, _Refused)}
        second: list[_T | ImageError] = []
        if refused:
            chance = partial(_second_chance, then)
            lists = ([images[i] for i in refused], [headers[i] for i in refused])
            with pillow_quiet():
                second = list(self._pool.map(chance, refused, *lists, refused.values()))
        by_position = dict(zip(refused, second, strict=True))
        return [by_position[i] if isinstance(outcome, _Refused) else outcome for i, outcome in enumerate(outcomes)]

    def decoded_bytes(self, image: bytes, header: Header) -> int:
        """How much memory the picture of an image will take."""
        reduced = header.format == "JPEG" and is_plain(image)
        reduction = self._reduction(header) if reduced else 1
        return 3 * header.width * header.height // reduction**2

    def _room(self, header: Header, reduction: int) -> npt.NDArray[np.uint8] | None:
        """The thread's own memory for decoded pixels; None where they need more than is worth keeping."""
        size_bytes = 3 * -(-header.width // reduction) * -(-header.height // reduction)
        if size_bytes > _KEPT_BYTES:
            return None
        if not hasattr(self._local, "room") or len(self._local.room) < size_bytes:
            self._local.room = np.empty(size_bytes, np.uint8)
        room: npt.NDArray[np.uint8] = self._local.room
        return room

    def _reduction(self, header: Header) -> int:
        return jpeg_reduction(header.width, header.height, self._short_side)

    @property
    def _listed(self) -> nvimgcodec.Decoder:
        """nvImageCodec's decoders, one set a thread."""
        if not hasattr(self._local, "decoder"):
            self._local.decoder = nvimgcodec.Decoder(
                device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
                max_num_cpu_threads=1,
                backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],  # without it, every image is refused
            )
        return self._local.decoder

    def _first_chance(
        self, then: Callable[[int, Picture], _T], position: int, data: bytes, header: Header
    ) -> _T | _Refused:
        """simplejpeg, or else nvImageCodec."""
        picture, damaged = self._decode_strictly(data, header)
        if damaged:
            picture = self._decode_damaged(data, header)
        elif picture is None and _is_listed(data, header):
            (image,) = self._listed.decode([data], params=PARAMS)
            picture = None if image is None else picture_of(np.asarray(image), header, 1, "nvimgcodec", damaged=False)
        return _Refused(damaged) if picture is None else then(position, picture)

    def _decode_strictly(self, data: bytes, header: Header) -> tuple[Picture | None, bool]:
        """A JPEG with every warning of libjpeg taken as an error: the picture or None, and whether it objected."""
        if header.format != "JPEG":
            return None, False
        try:
            if is_plain(data):
                reduction = self._reduction(header)
                pixels = decode_plain(data, header, reduction, strict=True, into=self._room(header, reduction))
                return picture_of(pixels, header, reduction, "simplejpeg", damaged=False), False
            if is_cmyk(data):
                check_cmyk(data, header)
        except ValueError:
            return None, True
        return None, False

    def _decode_damaged(self, data: bytes, header: Header) -> Picture | None:
        """A JPEG that strict decoding objects to, if nvImageCodec would have it: with holes, but not without its end.

        One at a time, and decoded again by simplejpeg: nvImageCodec does not reduce, and many in full may be too much.
        """
        with self._one_damaged:
            (image,) = self._listed.decode([data], params=PARAMS)
            if image is None:
                return None
            if not is_plain(data):
                return picture_of(np.asarray(image), header, 1, "nvimgcodec", damaged=True)
            del image
        reduction = self._reduction(header)
        try:
            pixels = decode_plain(data, header, reduction, strict=False)
        except ValueError:
            return None
        return picture_of(pixels, header, reduction, "simplejpeg", damaged=True)


def _is_listed(data: bytes, header: Header) -> bool:
    animated = header.format == "PNG" and b"acTL" in data  # in picture data by chance: then Pillow reads that PNG
    return header.format in _LISTED_FORMATS and not animated


def _second_chance(
    then: Callable[[int, Picture], _T], position: int, data: bytes, header: Header, damaged: bool
) -> _T | ImageError:
    """Pillow."""
    try:
        pixels = read_with_pillow(data, header)
    except ImageError as error:
        return error
    if header.format == "TIFF":  # which Pillow turns by itself
        width, height = header.shown_size
        header = Header(header.format, width, height, orientation=1)
    picture = picture_of(pixels, header, 1, "pillow", damaged)
    if picture is None:
        height, width = pixels.shape[:2]
        return ImageError(
            "decode_failed", f"{header.format} image decodes to {width} x {height}, not as its header says"
        )
    return then(position, picture)


def picture_of(stored: Any, header: Header, reduction: int, decoder: str, damaged: bool) -> Picture | None:
    """A picture of pixels as stored, or None where their number is not what the header says (a decoder went astray)."""
    expected = (-(-header.height // reduction), -(-header.width // reduction), 3)
    if tuple(stored.shape) != expected:
        return None
    pixels = stored if header.orientation == 1 else upright(stored, header.orientation)
    return Picture(pixels, reduction, ImageFacts(*header.shown_size, decoder, damaged))


def check_decoder(decoder: nvimgcodec.Decoder, where: str) -> None:
    """nvImageCodec refuses every image, with no error, where a part of it cannot be loaded. Find that out at once."""
    if not decodes_gray(decoder):
        raise ConfigError(
            f"nvImageCodec cannot decode a plain JPEG {where}. Set PYNVIMGCODEC_VERBOSITY=2 to see why; reinstall "
            "nvidia-nvimgcodec-cu12 (or -cu13) of the version that DALI asks for, or use device 'cpu'."
        )


def decodes_gray(decoder: nvimgcodec.Decoder) -> bool:
    """Whether a plain JPEG of one gray comes out as it should."""
    gray = np.full((256, 256, 3), 100, np.uint8)
    image = decoder.decode([simplejpeg.encode_jpeg(gray, quality=95)], params=PARAMS)[0]
    return image is not None and bool(np.abs(np.asarray(image.cpu()).astype(int) - 100).max() <= 4)
