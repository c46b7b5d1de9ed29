"""A list of encoded images -> upright RGB arrays, each from the decoder that suits it; a bad image costs only itself.

| format | on a CPU | on a GPU |
|---|---|---|
| JPEG, one or three channels | simplejpeg (libjpeg-turbo), strict, reduced where harmless | nvImageCodec (nvJPEG) |
| CMYK JPEG, PNG, WebP | nvImageCodec's CPU decoders | as on a CPU, then uploaded |
| GIF, TIFF, AVIF, BMP, PNM, JPEG 2000, animated PNG; what is refused above | Pillow | as on a CPU, then uploaded |

nvImageCodec 0.9 reads most of the last row too but is not asked to. A damaged JPEG 2000 or TIFF ends the process in a
segmentation fault (in its OpenCV and libtiff parts); an animated PNG comes in wrong colours, a PNM as if its largest
value were 255, and a 16-bit BMP with a white of 248.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import simplejpeg

from image_curation.decode.jpeg import check_cmyk, decode_plain, is_cmyk, is_plain, is_whole, jpeg_reduction
from image_curation.decode.orientation import upright
from image_curation.decode.pillow_reader import read_with_pillow
from image_curation.errors import ConfigError, ImageError
from image_curation.shards.header import Header, pillow_quiet

if TYPE_CHECKING:
    import torch

    from image_curation.decode.orientation import Pixels

# Both libraries print several lines for each image that they refuse. Here a refusal is a value.
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

from nvidia import nvimgcodec  # type: ignore[attr-defined]  # it reads its verbosity while it is imported

_LISTED_FORMATS = frozenset({"JPEG", "PNG", "WEBP"})
_PARAMS = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)


@dataclass(frozen=True)
class Picture:
    """One decoded image.

    Attributes:
        pixels: contiguous uint8 [h, w, 3], RGB, upright; a CUDA tensor from a codec for a GPU, else numpy.
        reduction: 1, or 2, 4 or 8 for a JPEG whose every pixel stands for that many squared.
        decoder: "simplejpeg", "nvimgcodec" or "pillow".
        damaged: strict JPEG decoding objects (missing, surplus or wrong data), though the image can be decoded. Of 369
            photos with 4 kilobytes set to zero it objected to 358: what the hole held may be as long by chance.
    """

    pixels: Pixels
    reduction: int
    decoder: str
    damaged: bool


class Codec(Protocol):
    """Decodes lists of images for one device. Not to be used by two threads at once."""

    def decode(self, images: Sequence[bytes], headers: Sequence[Header], short_side: int) -> list[Picture | ImageError]:
        """One outcome an image, in order. A JPEG may come reduced if its short side keeps `short_side` pixels."""

    def decoded_bytes(self, image: bytes, header: Header, short_side: int) -> int:
        """How much memory the picture of an image will take."""

    def close(self) -> None:
        """Stop the threads."""


class CpuCodec:
    """Decodes on `threads` threads of the host."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._listed = nvimgcodec.Decoder(
            device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            max_num_cpu_threads=threads,
            backends=[nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)],  # without it, every image is refused
        )
        _check_decoder(self._listed, "on the CPU")

    def decode(self, images: Sequence[bytes], headers: Sequence[Header], short_side: int) -> list[Picture | ImageError]:
        """First simplejpeg, then nvImageCodec for what is left, then Pillow for what is still left."""
        outcomes: dict[int, Picture | ImageError] = {}
        damaged: set[int] = set()
        strict = self._pool.map(_decode_strictly, images, headers, [short_side] * len(images))
        for i, (picture, objected) in enumerate(strict):
            if objected:
                damaged.add(i)
                picture = self._decode_damaged(images[i], headers[i], short_side)
            if picture is not None:
                outcomes[i] = picture

        tried = damaged | outcomes.keys()
        listed = [i for i, data in enumerate(images) if i not in tried and _is_listed(data, headers[i])]
        for i, image in _decode_list(self._listed, images, listed):
            picture = _picture(np.asarray(image), headers[i], 1, "nvimgcodec", damaged=False)
            if picture is not None:
                outcomes[i] = picture

        rest = [i for i in range(len(images)) if i not in outcomes]
        if rest:
            with pillow_quiet():
                second = list(self._pool.map(lambda i: _second_chance(images[i], headers[i], i in damaged), rest))
            outcomes.update(zip(rest, second, strict=True))
        return [outcomes[i] for i in range(len(images))]

    def decoded_bytes(self, image: bytes, header: Header, short_side: int) -> int:
        """How much memory the picture of an image will take."""
        reduced = header.format == "JPEG" and is_plain(image)
        reduction = jpeg_reduction(header.width, header.height, short_side) if reduced else 1
        return 3 * header.width * header.height // reduction**2

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _decode_damaged(self, data: bytes, header: Header, short_side: int) -> Picture | None:
        """A JPEG that strict decoding objects to, if nvImageCodec would have it: with holes, but not without its end.

        One at a time, and decoded again by simplejpeg: nvImageCodec does not reduce, and many in full may be too much.
        """
        (image,) = self._listed.decode([data], params=_PARAMS)
        if image is None:
            return None
        if not is_plain(data):
            return _picture(np.asarray(image), header, 1, "nvimgcodec", damaged=True)
        reduction = jpeg_reduction(header.width, header.height, short_side)
        try:
            pixels = decode_plain(data, header, reduction, strict=False)
        except ValueError:
            return None
        return _picture(pixels, header, reduction, "simplejpeg", damaged=True)


class CudaCodec:
    """Decodes JPEGs on a GPU, in its JPEG engine or else on its cores; all else, and what both refuse, by `CpuCodec`.

    The engine and the other cores get a decoder each. One decoder for both would share a list out between them by its
    length, and they differ by up to 3 of 255: an image's pixels would depend on its neighbours. Measured on an H200,
    the engine is within 1e-4 of libjpeg-turbo on average, the other cores within 0.05.

    Every outcome's pixels are a CUDA tensor. JPEGs are neither reduced nor checked for damage here: both belong to
    libjpeg-turbo, whose speed the GPU is there to beat. One without its end marker is cut off, which the GPU would not
    say: the host decides on it. `damaged` is True only for those that go to the host and strict decoding objects to.
    """

    def __init__(self, device_id: int, threads: int) -> None:
        import torch

        self._device = torch.device("cuda", device_id)
        self._host = CpuCodec(threads)
        engine, cores = (
            nvimgcodec.Decoder(
                device_id=device_id,
                max_num_cpu_threads=threads,
                backends=[nvimgcodec.Backend(kind)],
                options=":fancy_upsampling=1",  # chroma as libjpeg-turbo, and so CLIP's training, interpolates it
            )
            for kind in (nvimgcodec.BackendKind.HW_GPU_ONLY, nvimgcodec.BackendKind.HYBRID_CPU_GPU)
        )
        _check_decoder(cores, f"on GPU {device_id}")
        self._decoders = [engine, cores] if _decodes_gray(engine) else [cores]  # not every GPU has an engine

    def decode(self, images: Sequence[bytes], headers: Sequence[Header], short_side: int) -> list[Picture | ImageError]:
        """First the GPU for plain JPEGs, then the host for what is left."""
        outcomes: dict[int, Picture | ImageError] = {}
        plain = [i for i, data in enumerate(images) if _is_for_gpu(data, headers[i])]
        for decoder in self._decoders:
            left = [i for i in plain if i not in outcomes]
            for i, image in _decode_list(decoder, images, left):
                picture = _picture(self._tensor(image), headers[i], 1, "nvimgcodec", damaged=False)
                if picture is not None:
                    outcomes[i] = picture

        rest = [i for i in range(len(images)) if i not in outcomes]
        second = self._host.decode([images[i] for i in rest], [headers[i] for i in rest], short_side)
        outcomes.update(zip(rest, map(self._upload, second), strict=True))
        return [outcomes[i] for i in range(len(images))]

    def close(self) -> None:
        """Stop the threads."""
        self._host.close()

    def decoded_bytes(self, image: bytes, header: Header, short_side: int) -> int:
        """How much memory the picture of an image will take."""
        return 3 * header.width * header.height

    def _tensor(self, image: nvimgcodec.Image) -> torch.Tensor:
        import torch

        return torch.utils.dlpack.from_dlpack(image)

    def _upload(self, outcome: Picture | ImageError) -> Picture | ImageError:
        import torch

        if isinstance(outcome, ImageError):
            return outcome
        return replace(outcome, pixels=torch.tensor(outcome.pixels, device=self._device))


def _is_for_gpu(data: bytes, header: Header) -> bool:
    return header.format == "JPEG" and is_plain(data) and is_whole(data)


def _decode_strictly(data: bytes, header: Header, short_side: int) -> tuple[Picture | None, bool]:
    """Decode a JPEG with every warning of libjpeg taken as an error: the picture or None, and whether it objected."""
    if header.format != "JPEG":
        return None, False
    try:
        if is_plain(data):
            reduction = jpeg_reduction(header.width, header.height, short_side)
            pixels = decode_plain(data, header, reduction, strict=True)
            return _picture(pixels, header, reduction, "simplejpeg", damaged=False), False
        if is_cmyk(data):
            check_cmyk(data, header)
    except ValueError:
        return None, True
    return None, False


def _is_listed(data: bytes, header: Header) -> bool:
    animated = header.format == "PNG" and b"acTL" in data  # in picture data by chance: then Pillow reads that PNG
    return header.format in _LISTED_FORMATS and not animated


def _decode_list(
    decoder: nvimgcodec.Decoder, images: Sequence[bytes], chosen: Sequence[int]
) -> Iterable[tuple[int, Any]]:
    """The position and nvImageCodec image of each chosen one that can be decoded."""
    decoded = decoder.decode([images[i] for i in chosen], params=_PARAMS) if chosen else []
    return [(i, image) for i, image in zip(chosen, decoded, strict=True) if image is not None]


def _second_chance(data: bytes, header: Header, damaged: bool) -> Picture | ImageError:
    try:
        pixels = read_with_pillow(data, header)
    except ImageError as error:
        return error
    if header.format == "TIFF":  # which Pillow turns by itself
        width, height = header.shown_size
        header = Header(header.format, width, height, orientation=1)
    picture = _picture(pixels, header, 1, "pillow", damaged)
    if picture is None:
        height, width = pixels.shape[:2]
        return ImageError(
            "decode_failed", f"{header.format} image decodes to {width} x {height}, not as its header says"
        )
    return picture


def _picture(stored: Pixels, header: Header, reduction: int, decoder: str, damaged: bool) -> Picture | None:
    """A picture of pixels as stored, or None where their number is not what the header says (a decoder went astray)."""
    expected = (-(-header.height // reduction), -(-header.width // reduction), 3)
    if tuple(stored.shape) != expected:
        return None
    return Picture(upright(stored, header.orientation), reduction, decoder, damaged)


def _check_decoder(decoder: nvimgcodec.Decoder, where: str) -> None:
    """nvImageCodec refuses every image, with no error, where a part of it cannot be loaded. Find that out at once."""
    if not _decodes_gray(decoder):
        raise ConfigError(
            f"nvImageCodec cannot decode a plain JPEG {where}. Set PYNVIMGCODEC_VERBOSITY=2 to see why; reinstall "
            "nvidia-nvimgcodec-cu12 (or -cu13) of the version that DALI asks for, or use device 'cpu'."
        )


def _decodes_gray(decoder: nvimgcodec.Decoder) -> bool:
    """Whether a plain JPEG of one gray comes out as it should."""
    gray = np.full((256, 256, 3), 100, np.uint8)
    image = decoder.decode([simplejpeg.encode_jpeg(gray, quality=95)], params=_PARAMS)[0]
    return image is not None and bool(np.abs(np.asarray(image.cpu()).astype(int) - 100).max() <= 4)
