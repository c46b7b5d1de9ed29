"""Decoded images of any size on a GPU -> CLIP's square crops and thumbnails of the whole images, by one DALI pipeline.

It stands in for the kernels of `cuda_resize` where Triton does not run: DALI takes four times as long on the GPU.

The crop is resized straight out of the image as a region of interest, so that a strip of 2000 x 1 costs no more than a
square. With the exact geometry this is 0.1 to 0.2 grey levels from torchvision on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali import types as dali_types
from nvidia.dali.pipeline import pipeline_def
from nvidia.dali.plugin.pytorch.torch_utils import to_torch_tensor
from nvidia.dali.tensors import TensorGPU

from image_curation.decode.geometry import crop_region
from image_curation.decode.picture import Picture
from image_curation.decode.resize import THUMB_SIZE

types: Any = dali_types  # its members are made while it is imported


@pipeline_def
def _crops_and_thumbs(size: int, device: str) -> tuple[Any, Any]:
    images = fn.external_source(name="images", device=device, layout="HWC", dtype=types.UINT8, ndim=3, no_copy=True)
    start = fn.external_source(name="start", dtype=types.FLOAT, ndim=1)
    end = fn.external_source(name="end", dtype=types.FLOAT, ndim=1)
    whole = fn.external_source(name="whole", dtype=types.FLOAT, ndim=1)
    exact = {"antialias": True, "subpixel_scale": False, "dtype": types.UINT8}
    pixels = fn.resize(
        images, size=[float(size)] * 2, roi_start=start, roi_end=end, interp_type=types.INTERP_CUBIC, **exact
    )
    thumbs = fn.resize(
        images,
        size=[float(THUMB_SIZE)] * 2,
        roi_start=[0.0, 0.0],
        roi_end=whole,
        interp_type=types.INTERP_LINEAR,
        **exact,
    )
    return pixels, thumbs


class PixelPipeline:
    """One built DALI pipeline for up to `batch_size` images at once.

    `device_id` is a GPU, or None for the CPU, where only tests run it.
    """

    def __init__(self, size: int, batch_size: int, threads: int, device_id: int | None) -> None:
        self._pipeline: Any = _crops_and_thumbs(
            size,
            "cpu" if device_id is None else "gpu",
            batch_size=batch_size,
            num_threads=threads,
            device_id=device_id,
            prefetch_queue_depth=1,  # nothing is made ahead of what is fed
        )
        self._pipeline.build()  # type: ignore[no-untyped-call]
        self._size = size
        self._device_id = device_id or 0

    def run_on_gpu(self, pictures: Sequence[Picture], stream: torch.cuda.Stream) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops and thumbnails of pictures on the GPU that are ready on `stream`, as tensors of their own."""
        images = [TensorGPU(picture.pixels, "HWC", self._device_id) for picture in pictures]
        stream.synchronize()  # DALI reads the images in place, on a stream of its own
        crops, thumbs = self.run(images, pictures, stream)
        return _copy(crops), _copy(thumbs)

    def run(self, images: Sequence[Any], pictures: Sequence[Picture], stream: Any = None) -> tuple[Any, Any]:
        """DALI tensors of the crops, uint8 [n, size, size, 3], and the thumbnails, uint8 [n, 64, 64, 3].

        They are complete, and stay as they are until the next run.

        Args:
            images: pixels of n images as DALI takes them, uint8 [h, w, 3]. They are read in place.
            pictures: what they show. The last pixel of a reduced image can reach beyond the image; regions are in
                fractions of a pixel so that it is not stretched.
            stream: of CUDA, on which the images are complete.
        """
        sizes = [(picture.facts.width, picture.facts.height) for picture in pictures]
        regions = np.array([crop_region(width, height, self._size) for width, height in sizes])
        ends = np.array(sizes)[:, ::-1]
        scale = np.array([[picture.reduction] for picture in pictures])
        self._pipeline.feed_input("images", images, cuda_stream=stream)
        self._pipeline.feed_input("start", (regions[:, :2] / scale).astype(np.float32))
        self._pipeline.feed_input("end", (regions[:, 2:] / scale).astype(np.float32))
        self._pipeline.feed_input("whole", (ends / scale).astype(np.float32))
        pixels, thumbs = self._pipeline.run()
        return pixels.as_tensor(), thumbs.as_tensor()


def _copy(images: Any) -> torch.Tensor:
    tensor: torch.Tensor = to_torch_tensor(images, copy=True)  # type: ignore[no-untyped-call]
    return tensor
