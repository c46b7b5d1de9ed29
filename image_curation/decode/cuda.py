"""Preparing images on a GPU: nvImageCodec decodes them, kernels crop them; the host says what, and measures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from image_curation.decode.codec import CpuCodec
from image_curation.decode.cuda_codec import CudaCodec
from image_curation.decode.measures import measure
from image_curation.decode.picture import Picture, Prepared
from image_curation.decode.resize import THUMB_SIZE, crop_and_thumb, is_strip
from image_curation.errors import ImageError
from image_curation.kernels import triton_runs
from image_curation.shards.header import Header

if TYPE_CHECKING:
    from image_curation.decode.pipeline import PixelPipeline


class CudaPreparer:
    """Prepares images on one GPU. See `picture.Preparer`.

    All of it on the GPU is on a stream of its own, of high priority: an encoder may be at work beside it. The crops
    are complete when `prepare` returns, for any stream.

    Args:
        size: side of the crops.
        short_side: pixels that the short side of a JPEG keeps where the host reduces it.
        device_id: the GPU.
        threads: of the host.
        batch_size: the most images at once.
    """

    held_bytes = 2**31

    def __init__(self, size: int, short_side: int, device_id: int, threads: int, batch_size: int) -> None:
        self._size = size
        self._device = torch.device("cuda", device_id)
        # Of high priority: its few short kernels go first where an encoder's long ones are waiting.
        self._stream = torch.cuda.Stream(device_id, priority=-1)  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._codec = CudaCodec(device_id, threads, CpuCodec(self._pool, short_side))
        self._dali = None if triton_runs() else _dali_pipeline(size, batch_size, threads, device_id)

    def prepare(self, images: Sequence[bytes], headers: Sequence[Header]) -> Prepared:
        """See `picture.Preparer.prepare`."""
        with torch.cuda.stream(self._stream):
            outcomes = self._codec.decode(images, headers)
            pictures = [outcome for outcome in outcomes if isinstance(outcome, Picture)]
            pixels, thumbs = self._cropped(pictures) if pictures else (self._empty(self._size), self._empty(THUMB_SIZE))
            measures = measure(pixels, thumbs)
            self._stream.synchronize()
        return Prepared(pixels, measures, [o if isinstance(o, ImageError) else o.facts for o in outcomes])

    def decoded_bytes(self, image: bytes, header: Header) -> int:
        """See `picture.Preparer.decoded_bytes`."""
        return 3 * header.width * header.height

    def close(self) -> None:
        """See `picture.Preparer.close`."""
        self._codec.close()
        self._pool.shutdown()

    def _cropped(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops and thumbnails of pictures, one at least; strips are resized by the host."""
        if self._dali is not None:
            return self._dali.run_on_gpu(pictures, self._stream)
        from image_curation.decode.cuda_resize import crops_and_thumbs

        strips = [i for i, picture in enumerate(pictures) if is_strip(picture.facts.width, picture.facts.height)]
        if not strips:
            return crops_and_thumbs(pictures, self._size, self._device)
        crops, thumbs = (self._empty(side, len(pictures)) for side in (self._size, THUMB_SIZE))
        photos = sorted(set(range(len(pictures))) - set(strips))
        if photos:
            crops[photos], thumbs[photos] = crops_and_thumbs([pictures[i] for i in photos], self._size, self._device)
        for i in strips:
            pixels, facts = torch.as_tensor(pictures[i].pixels, device=self._device).cpu().numpy(), pictures[i].facts
            made = crop_and_thumb(pixels, pictures[i].reduction, (facts.width, facts.height), self._size)
            crops[i], thumbs[i] = (torch.from_numpy(array.copy()).to(self._device) for array in made)
        return crops, thumbs

    def _empty(self, side: int, n: int = 0) -> torch.Tensor:
        return torch.empty((n, side, side, 3), dtype=torch.uint8, device=self._device)


def _dali_pipeline(size: int, batch_size: int, threads: int, device_id: int) -> PixelPipeline:
    from image_curation.decode.pipeline import PixelPipeline  # loads DALI, which takes seconds

    return PixelPipeline(size, batch_size, threads, device_id)
