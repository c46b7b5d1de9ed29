"""Image bytes -> pixels for an encoder, thumbnails, facts and errors: the decode stage as one object."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from image_curation.decode.codec import Codec, CpuCodec, CudaCodec, Picture
from image_curation.decode.limits import DecodeLimits
from image_curation.decode.pipeline import THUMB_SIZE, PixelPipeline
from image_curation.errors import ConfigError, ImageError
from image_curation.shards.header import Header, check_limits, read_header

if TYPE_CHECKING:
    from image_curation.decode.orientation import Pixels

# Decoded pixels that are held at once, so that a batch of 100-megapixel images does not take all memory.
_HELD_BYTES = {"cpu": 2**28, "cuda": 2**31}
# A JPEG may be reduced while it is decoded to no less than this multiple of the crop's size: below, errors get visible.
_REDUCED_OVER_SIZE = 2
_DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True)
class ImageFacts:
    """What decoding showed about one image: its size as a viewer shows it, which decoder read it, is it damaged."""

    width: int
    height: int
    decoder: str
    damaged: bool


@dataclass(frozen=True)
class Decoded:
    """The outcome for one list of images; n_ok of them could be decoded, every other has an entry in `errors`.

    Attributes:
        pixels: uint8 [n_ok, size, size, 3], RGB in CLIP's geometry; numpy on the CPU, a CUDA tensor on a GPU.
        thumbs: uint8 [n_ok, 64, 64, 3], RGB, the whole image squashed to a square; numpy on either device.
        rows: int64 [n_ok], rising: the position of each in the input list.
        facts: n_ok of them.
        errors: position in the input list -> (status code, sentence).
    """

    pixels: Pixels
    thumbs: npt.NDArray[np.uint8]
    rows: npt.NDArray[np.int64]
    facts: list[ImageFacts]
    errors: dict[int, tuple[str, str]]


class ImageDecoder:
    """Turns encoded images into uint8 crops; made once and used for many lists. Not to be used by two threads at once.

    Alpha is dropped, not blended with a background, and only the first frame of an animation is read: CLIP's training
    did the same (`convert("RGB")`). EXIF orientation is applied, which open_clip does not do. What an image decodes to
    depends on its bytes, the size and the device alone, never on the images around it.

    Args:
        size: side of the crop in pixels.
        device: "cpu", or "cuda" or "cuda:N" for a GPU. See `codec.CudaCodec` for what differs there.
        threads: of the host; 0 means as many as there are cores for this process.
        batch_size: the most images that go through DALI at once; lists may be longer.
        limits: checked on the header, before anything is decoded.

    Raises:
        ConfigError: the device does not exist, or its decoder does not work.
    """

    def __init__(
        self,
        size: int,
        device: str = "cpu",
        threads: int = 0,
        batch_size: int = 64,
        limits: DecodeLimits = _DEFAULT_LIMITS,
    ) -> None:
        device_id = _device_id(device)
        threads = threads or len(os.sched_getaffinity(0))
        self._size = size
        self._short_side = _REDUCED_OVER_SIZE * size
        self._limits = limits
        self._batch_size = batch_size
        self._device_id = device_id
        self._codec: Codec = CpuCodec(threads) if device_id is None else CudaCodec(device_id, threads)
        self._pipeline = PixelPipeline(size, batch_size, threads, device_id)

    def __enter__(self) -> ImageDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decoding threads. The object cannot be used afterwards."""
        self._codec.close()

    def decode(self, images: Sequence[bytes]) -> Decoded:
        """Decode whole image files. Nothing that an image holds raises: what is wrong with it is in `errors`."""
        headers, errors = self._read_headers(images)
        pixels: list[Pixels] = []
        thumbs: list[npt.NDArray[np.uint8]] = []
        facts: dict[int, ImageFacts] = {}
        for rows in self._chunks(images, headers):
            good = self._decode_chunk({row: images[row] for row in rows}, headers, errors)
            if good:
                crops, squares = self._pipeline.run(list(good.values()), [headers[row].shown_size for row in good])
                pixels.append(crops)
                thumbs.append(squares)
            facts.update({row: _facts(headers[row], picture) for row, picture in good.items()})
        return Decoded(
            pixels=self._joined(pixels),
            thumbs=np.concatenate([np.empty((0, THUMB_SIZE, THUMB_SIZE, 3), np.uint8), *thumbs]),
            rows=np.array(list(facts), dtype=np.int64),
            facts=list(facts.values()),
            errors=dict(sorted(errors.items())),
        )

    def _read_headers(self, images: Sequence[bytes]) -> tuple[dict[int, Header], dict[int, tuple[str, str]]]:
        """By position: the headers of images that may be decoded, and why the others may not."""
        headers: dict[int, Header] = {}
        errors: dict[int, tuple[str, str]] = {}
        for row, data in enumerate(images):
            try:
                header = read_header(data)
                check_limits(header, len(data), self._limits)
            except ImageError as error:
                errors[row] = (error.code, str(error))
            else:
                headers[row] = header
        return headers, errors

    def _chunks(self, images: Sequence[bytes], headers: dict[int, Header]) -> Iterator[list[int]]:
        """Rows, in order, in runs that fit into one batch and into the memory for decoded pixels."""
        room = _HELD_BYTES["cpu" if self._device_id is None else "cuda"]
        rows: list[int] = []
        held = 0
        for row, header in headers.items():
            size_bytes = self._codec.decoded_bytes(images[row], header, self._short_side)
            if rows and (len(rows) == self._batch_size or held + size_bytes > room):
                yield rows
                rows, held = [], 0
            rows.append(row)
            held += size_bytes
        if rows:
            yield rows

    def _decode_chunk(
        self, images: dict[int, bytes], headers: dict[int, Header], errors: dict[int, tuple[str, str]]
    ) -> dict[int, Picture]:
        """The pictures by row; an error is added to `errors`."""
        outcomes = self._codec.decode(list(images.values()), [headers[row] for row in images], self._short_side)
        good: dict[int, Picture] = {}
        for row, outcome in zip(images, outcomes, strict=True):
            if isinstance(outcome, ImageError):
                errors[row] = (outcome.code, str(outcome))
            else:
                good[row] = outcome
        return good

    def _joined(self, pixels: list[Pixels]) -> Pixels:
        if self._device_id is None:
            return np.concatenate([np.empty((0, self._size, self._size, 3), np.uint8), *pixels])
        import torch

        device = torch.device("cuda", self._device_id)
        empty = torch.empty((0, self._size, self._size, 3), dtype=torch.uint8, device=device)
        return torch.cat([empty, *(torch.as_tensor(part) for part in pixels)])


def _facts(header: Header, picture: Picture) -> ImageFacts:
    return ImageFacts(*header.shown_size, picture.decoder, picture.damaged)


def _device_id(device: str) -> int | None:
    """None for "cpu", else the number of the GPU; ConfigError where there is no such thing."""
    if device == "cpu":
        return None
    name, _, number = device.partition(":")
    if name != "cuda" or not (number or "0").isdecimal():
        raise ConfigError(f"device {device!r} should be 'cpu', 'cuda' or 'cuda:N'")
    import torch

    device_id = int(number or 0)
    if device_id >= torch.cuda.device_count():
        raise ConfigError(
            f"device {device!r} needs a GPU that torch sees; it sees {torch.cuda.device_count()}. Use 'cpu'."
        )
    return device_id
