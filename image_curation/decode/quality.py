"""Decoded pixels -> classical quality measures, which need no model: sharpness, exposure and contrast.

All are of the luminance (Rec. 601: 0.299 R + 0.587 G + 0.114 B, gamma-encoded as stored), from 0 (black) to 1 (white).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from image_curation.decode.orientation import Pixels

_LUMA = (0.299 / 255, 0.587 / 255, 0.114 / 255)
_BLOCK = 8  # crops at once on the host: their float copies stay in the processor's cache


def sharpness(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Variance of the Laplacian of CLIP crops, uint8 [n, s, s, 3] (numpy or a tensor) -> float32 [n] on the host.

    From J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000,
    with the Laplacian of four neighbours, on the (s - 2) x (s - 2) inner pixels. Since it is taken of the crop, and in
    luminance from 0 to 1, it does not grow with the resolution of the photo; only values of equal `s` compare. A flat
    image has 0, a checkerboard of single pixels 16, the most there is.
    """
    if not isinstance(pixels, np.ndarray):
        return _tensor_sharpness(pixels)
    result = np.empty(len(pixels), np.float32)
    for start in range(0, len(pixels), _BLOCK):
        luma = _luminance(pixels[start : start + _BLOCK])
        around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
        result[start : start + _BLOCK] = (around - 4 * luma[:, 1:-1, 1:-1]).var(axis=(1, 2))
    return result


def exposure(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean luminance of whole images, uint8 [n, 64, 64, 3] -> float32 [n], 0 (black) to 1 (white)."""
    return np.asarray(_luminance(thumbs).mean(axis=(1, 2)))


def contrast(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """RMS contrast of whole images, uint8 [n, 64, 64, 3] -> float32 [n], 0 (one colour) to 0.5 (half black).

    The standard deviation of the luminance: E. Peli, "Contrast in complex images", JOSA A 7, 1990.
    """
    return np.asarray(_luminance(thumbs).std(axis=(1, 2)))


def _luminance(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """float32 [n, h, w] in 0..1 of uint8 [n, h, w, 3]."""
    return np.asarray(rgb.astype(np.float32) @ np.array(_LUMA, np.float32))


def _tensor_sharpness(pixels: torch.Tensor) -> npt.NDArray[np.float32]:
    """The same, computed where the tensor is."""
    red, green, blue = pixels.float().unbind(-1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    variance = (around - 4 * luma[:, 1:-1, 1:-1]).flatten(1).var(dim=1, correction=0)
    return variance.cpu().numpy()
