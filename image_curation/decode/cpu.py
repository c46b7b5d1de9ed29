"""Preparing images on the host: each is decoded, cropped and measured by the threads of one pool."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from image_curation.decode.codec import CpuCodec
from image_curation.decode.measures import joined, measure
from image_curation.decode.picture import ImageFacts, Picture, Prepared
from image_curation.decode.resize import THUMB_SIZE, crop_and_thumb
from image_curation.errors import ImageError
from image_curation.shards.header import Header

_MEASURED = 2  # crops that are measured at once: their float copies stay in the processor's cache


class CpuPreparer:
    """Prepares images on `threads` threads. See `picture.Preparer`.

    Args:
        size: side of the crops.
        short_side: pixels that the short side of a JPEG keeps where it is reduced while it is decoded.
        threads: how many images are at work at once.
    """

    held_bytes = 2**28

    def __init__(self, size: int, short_side: int, threads: int) -> None:
        self._size = size
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._codec = CpuCodec(self._pool, short_side)

    def prepare(self, images: Sequence[bytes], headers: Sequence[Header]) -> Prepared:
        """See `picture.Preparer.prepare`."""
        crops = np.empty((len(images), self._size, self._size, 3), np.uint8)
        thumbs = np.empty((len(images), THUMB_SIZE, THUMB_SIZE, 3), np.uint8)

        def resize(position: int, picture: Picture) -> ImageFacts:
            facts = picture.facts
            crop, thumb = crop_and_thumb(picture.pixels, picture.reduction, (facts.width, facts.height), self._size)
            crops[position], thumbs[position] = crop, thumb
            return facts

        outcomes = self._codec.decode(images, headers, resize)
        good = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, ImageError)]
        if len(good) < len(images):
            crops, thumbs = crops[good], thumbs[good]
        starts = range(0, max(1, len(good)), _MEASURED)
        blocks = ([array[i : i + _MEASURED] for i in starts] for array in (crops, thumbs))
        parts = self._pool.map(measure, *blocks)
        return Prepared(crops, joined(list(parts)), outcomes)

    def decoded_bytes(self, image: bytes, header: Header) -> int:
        """See `picture.Preparer.decoded_bytes`."""
        return self._codec.decoded_bytes(image, header)

    def close(self) -> None:
        """See `picture.Preparer.close`."""
        self._pool.shutdown()
