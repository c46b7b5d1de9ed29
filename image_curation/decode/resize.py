"""A decoded image on the host -> CLIP's square crop and a thumbnail of the whole image.

torch resizes the image as a whole, to the very size that torchvision gives it, and the crop is cut out of that. Of a
photo that wastes little, and the thumbnail, made of the resized image, costs a fraction of one made of the image itself
(0.15 of 255 apart on average). One small image keeps torch to the calling thread, and it frees the interpreter's lock.

Of a strip nearly all would be wasted: 2000 x 1 pixels would become 448000 x 224. Pillow resizes only the crop's part.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from image_curation.decode.geometry import crop_region, crop_start, resized_side

THUMB_SIZE = 64
_STRIP = 4  # ratio of the sides from which an image is a strip
# What `torch.nn.functional.interpolate(..., antialias=True)` calls. It would take sizes or scales, but not both.
_bicubic = torch.ops.aten._upsample_bicubic2d_aa.default
_bilinear = torch.ops.aten._upsample_bilinear2d_aa.default


def crop_and_thumb(
    pixels: npt.NDArray[np.uint8], reduction: int, shown_size: tuple[int, int], size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The crop uint8 [size, size, 3] and the thumbnail uint8 [64, 64, 3] of an image.

    Args:
        pixels: uint8 [h, w, 3], contiguous, upright.
        reduction: each pixel stands for so many squared. The last ones may reach beyond the image; that its size is
            known keeps it from being stretched.
        shown_size: (width, height) of the whole image, before any reduction.
        size: side of the crop.
    """
    return (_of_strip if is_strip(*shown_size) else _of_photo)(pixels, reduction, *shown_size, size)


def is_strip(width: int, height: int) -> bool:
    """Whether an image is so long that it should not be resized as a whole."""
    return max(width, height) >= _STRIP * min(width, height)


def _of_photo(
    pixels: npt.NDArray[np.uint8], reduction: int, width: int, height: int, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rows, columns = (resized_side(side, min(width, height), size) for side in (height, width))
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # [1, 3, h, w]; in memory it stays [h, w, 3]
    resized = _bicubic(image, [rows, columns], False, rows * reduction / height, columns * reduction / width)
    thumb = _bilinear(resized, [THUMB_SIZE, THUMB_SIZE], False, None, None)
    top, left = crop_start(rows, size), crop_start(columns, size)
    return _array(resized)[top : top + size, left : left + size], _array(thumb)


def _array(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The only one of [1, 3, h, w] as [h, w, 3], without a copy."""
    array: npt.NDArray[np.uint8] = images[0].permute(1, 2, 0).numpy()
    return array


def _of_strip(
    pixels: npt.NDArray[np.uint8], reduction: int, width: int, height: int, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    image = Image.fromarray(pixels)
    top, left, bottom, right = (edge / reduction for edge in crop_region(width, height, size))
    whole = (0, 0, width / reduction, height / reduction)
    crop = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    thumb = image.resize((THUMB_SIZE, THUMB_SIZE), Image.Resampling.BILINEAR, box=whole)
    return np.asarray(crop), np.asarray(thumb)
