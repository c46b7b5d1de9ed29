"""Preparing images on a GPU: nvImageCodec decodes them, DALI crops them, torch measures them; the host says what."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from nvidia.dali.plugin.pytorch.torch_utils import to_torch_tensor
from nvidia.dali.tensors import TensorGPU

from image_curation.decode.codec import CpuCodec
from image_curation.decode.cuda_codec import CudaCodec
from image_curation.decode.measures import measure
from image_curation.decode.picture import Picture, Prepared
from image_curation.decode.pipeline import PixelPipeline
from image_curation.decode.resize import THUMB_SIZE
from image_curation.errors import ImageError
from image_curation.shards.header import Header


class CudaPreparer:
    """Prepares images on one GPU. See `picture.Preparer`.

    All that torch does here is on a stream of its own, of high priority: an encoder may be at work beside it. The crops
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
        self._device_id = device_id
        # Of high priority: its few short kernels go first where an encoder's long ones are waiting.
        self._stream = torch.cuda.Stream(device_id, priority=-1)  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._codec = CudaCodec(device_id, threads, CpuCodec(self._pool, short_side))
        self._pipeline = PixelPipeline(size, batch_size, threads, device_id)

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
        """Crops and thumbnails, as copies that outlive DALI's buffers."""
        images = [TensorGPU(picture.pixels, "HWC", self._device_id) for picture in pictures]
        self._stream.synchronize()  # DALI reads the images in place, on its own stream
        crops, thumbs = self._pipeline.run(images, pictures, self._stream)
        return _copy(crops), _copy(thumbs)

    def _empty(self, side: int) -> torch.Tensor:
        return torch.empty((0, side, side, 3), dtype=torch.uint8, device=torch.device("cuda", self._device_id))


def _copy(images: Any) -> torch.Tensor:
    tensor: torch.Tensor = to_torch_tensor(images, copy=True)  # type: ignore[no-untyped-call]
    return tensor
