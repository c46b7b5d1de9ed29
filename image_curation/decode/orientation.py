"""An image as stored and its EXIF orientation -> the image as a viewer shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = "npt.NDArray[np.uint8] | torch.Tensor"

# Orientation (EXIF 2.3, tag 0x0112) -> are rows and columns exchanged, and which axes are reversed after that.
_TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    1: (False, ()),
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn uint8 [h, w, 3] by EXIF orientation 1 to 8, to a contiguous array, or a tensor where a tensor is given.

    Every decoder's output goes through here and none turns images by itself, so that PNG, WebP, TIFF and AVIF with an
    orientation come out as a JPEG does.
    """
    exchanged, reversed_axes = _TURNS[orientation]
    if isinstance(pixels, np.ndarray):
        turned = pixels.swapaxes(0, 1) if exchanged else pixels
        return np.ascontiguousarray(np.flip(turned, reversed_axes))
    tensor = pixels.transpose(0, 1) if exchanged else pixels
    return (tensor.flip(reversed_axes) if reversed_axes else tensor).contiguous()
