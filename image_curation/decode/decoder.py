"""Image bytes -> pixels for an encoder, measures, facts and errors: the decode stage as one object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from image_curation.decode.limits import DecodeLimits
from image_curation.decode.measures import joined
from image_curation.decode.orientation import Pixels
from image_curation.decode.picture import ImageFacts, Prepared, Preparer, joined_pixels
from image_curation.errors import ConfigError, ImageError
from image_curation.shards.header import Header, check_limits, read_header

# A JPEG may be reduced while it is decoded to no less than this multiple of the crop's size: below, errors get visible.
REDUCED_OVER_SIZE = 2
_DEFAULT_LIMITS = DecodeLimits()


@dataclass(frozen=True)
class Decoded:
    """The outcome for one list of images; n_ok of them could be decoded, every other has an entry in `errors`.

    Attributes:
        pixels: uint8 [n_ok, size, size, 3], RGB in CLIP's geometry; numpy on the CPU, a CUDA tensor on a GPU, complete
            for any stream.
        rows: int64 [n_ok], rising: the position of each in the input list.
        facts: n_ok of them.
        measures: name -> [n_ok] on the host: `phash` uint64; `sharpness`, `exposure` and `contrast` float32.
        errors: position in the input list -> (status code, sentence).
    """

    pixels: Pixels
    rows: npt.NDArray[np.int64]
    facts: list[ImageFacts]
    measures: dict[str, npt.NDArray[np.generic]]
    errors: dict[int, tuple[str, str]]


class ImageDecoder:
    """Turns encoded images into uint8 crops; made once and used for many lists. Not to be used by two threads at once.

    Alpha is dropped, not blended with a background, and only the first frame of an animation is read: CLIP's training
    did the same (`convert("RGB")`). EXIF orientation is applied, which open_clip does not do. What an image decodes to
    depends on its bytes, the size and the device alone, never on the images around it.

    Args:
        size: side of the crop in pixels.
        device: "cpu", or "cuda" or "cuda:N" for a GPU. See `cuda_codec.CudaCodec` for what differs there.
        threads: of the host; 0 means as many as there are cores for this process.
        batch_size: the most images that are decoded at once; lists may be longer.
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
        self._limits = limits
        self._batch_size = batch_size
        self._preparer = _preparer(size, device_id, threads or len(os.sched_getaffinity(0)), batch_size)

    def __enter__(self) -> ImageDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decoding threads. The object cannot be used afterwards."""
        self._preparer.close()

    def decode(self, images: Sequence[bytes], headers: Sequence[Header | None] | None = None) -> Decoded:
        """Decode whole image files. Nothing that an image holds raises: what is wrong with it is in `errors`.

        Args:
            images: n of them.
            headers: what each says of itself, where that was read before; None reads it here. Damage inside a JPEG is
                found by a CPU anyway; a GPU has to be told of it here.
        """
        usable, errors = self._usable(images, headers)
        parts: list[Prepared] = []
        facts: dict[int, ImageFacts] = {}
        for rows in self._chunks(images, usable) or [[]]:
            part = self._preparer.prepare([images[row] for row in rows], [usable[row] for row in rows])
            for row, outcome in zip(rows, part.outcomes, strict=True):
                if isinstance(outcome, ImageError):
                    errors[row] = (outcome.code, str(outcome))
                else:
                    facts[row] = outcome
            parts.append(part)
        return Decoded(
            pixels=joined_pixels([part.pixels for part in parts]),
            rows=np.array(list(facts), dtype=np.int64),
            facts=list(facts.values()),
            measures=joined([part.measures for part in parts]),
            errors=dict(sorted(errors.items())),
        )

    def _usable(
        self, images: Sequence[bytes], headers: Sequence[Header | None] | None
    ) -> tuple[dict[int, Header], dict[int, tuple[str, str]]]:
        """By position: the headers of images that may be decoded, and why the others may not."""
        usable: dict[int, Header] = {}
        errors: dict[int, tuple[str, str]] = {}
        for row, data in enumerate(images):
            try:
                header = (headers[row] if headers else None) or read_header(data)
                check_limits(header, len(data), self._limits)
            except ImageError as error:
                errors[row] = (error.code, str(error))
            else:
                usable[row] = header
        return usable, errors

    def _chunks(self, images: Sequence[bytes], headers: dict[int, Header]) -> list[list[int]]:
        """Rows, in order, in runs that fit into one batch and into the memory for decoded pixels."""
        chunks: list[list[int]] = []
        held = 0
        for row, header in headers.items():
            size_bytes = self._preparer.decoded_bytes(images[row], header)
            if not chunks or len(chunks[-1]) == self._batch_size or held + size_bytes > self._preparer.held_bytes:
                chunks.append([])
                held = 0
            chunks[-1].append(row)
            held += size_bytes
        return chunks


def _preparer(size: int, device_id: int | None, threads: int, batch_size: int) -> Preparer:
    short_side = REDUCED_OVER_SIZE * size
    if device_id is None:
        from image_curation.decode.cpu import CpuPreparer

        return CpuPreparer(size, short_side, threads)
    from image_curation.decode.cuda import CudaPreparer  # loads DALI, which takes seconds

    return CudaPreparer(size, short_side, device_id, threads, batch_size)


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
