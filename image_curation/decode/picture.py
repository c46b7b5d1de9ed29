"""What decoding makes of one image: its pixels and the facts about it; and what a list of images is prepared to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from image_curation.decode.orientation import Pixels
from image_curation.errors import ImageError
from image_curation.shards.header import Header


@dataclass(frozen=True)
class ImageFacts:
    """What decoding showed about one image.

    Attributes:
        width, height: in pixels, as a viewer shows it.
        decoder: "simplejpeg", "nvimgcodec" or "pillow".
        damaged: strict JPEG decoding objects (missing, surplus or wrong data), though the image can be decoded. Of 369
            photos with 4 kilobytes set to zero it objected to 358: what the hole held may be as long by chance.
    """

    width: int
    height: int
    decoder: str
    damaged: bool


@dataclass(frozen=True)
class Picture:
    """One decoded image.

    Attributes:
        pixels: uint8 [h, w, 3], RGB, upright: a contiguous numpy array, or on a GPU anything that has
            `__cuda_array_interface__`.
        reduction: 1, or 2, 4 or 8 for a JPEG whose every pixel stands for that many squared.
        facts: what is known of it.
    """

    pixels: Any
    reduction: int
    facts: ImageFacts


@dataclass(frozen=True)
class Prepared:
    """What became of a list of images, n_ok of which could be decoded.

    Attributes:
        pixels: uint8 [n_ok, size, size, 3], RGB in CLIP's geometry; numpy on the CPU, a CUDA tensor on a GPU.
        measures: name -> [n_ok], see `measures.measure`.
        outcomes: for each image its facts, or why it could not be decoded.
    """

    pixels: Pixels
    measures: dict[str, npt.NDArray[np.generic]]
    outcomes: list[ImageFacts | ImageError]


class Preparer(Protocol):
    """Prepares lists of images on one device. Not to be used by two threads at once."""

    held_bytes: int
    """Decoded pixels that may be held at once, so that a list of 100-megapixel images does not take all memory."""

    def prepare(self, images: Sequence[bytes], headers: Sequence[Header]) -> Prepared:
        """Decode, crop and measure. Nothing that an image holds raises."""

    def decoded_bytes(self, image: bytes, header: Header) -> int:
        """How much memory an image takes once it is decoded."""

    def close(self) -> None:
        """Stop the threads."""


def joined_pixels(parts: Sequence[Pixels]) -> Pixels:
    """Arrays [m, side, side, 3] of one kind, one at least, as one."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat([torch.as_tensor(part) for part in parts])
