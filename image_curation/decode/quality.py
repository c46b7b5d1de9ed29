"""Luminance -> classical quality measures, which need no model: sharpness, exposure and contrast.

All are of the luminance (Rec. 601: 0.299 R + 0.587 G + 0.114 B, gamma-encoded as stored), from 0 (black) to 1 (white).
"""

import numpy as np
import numpy.typing as npt

from image_curation.decode.luminance import WHITE, Array, moments, on_host


def sharpness(luma: Array) -> npt.NDArray[np.float32]:
    """Variance of the Laplacian of CLIP crops' luminance, float32 [n, s, s] in thousandths -> float32 [n] on the host.

    From J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000,
    with the Laplacian of four neighbours, on the (s - 2) x (s - 2) inner pixels. Since it is taken of the crop, and in
    luminance from 0 to 1, it does not grow with the resolution of the photo; only values of equal `s` compare. A flat
    image has 0, a checkerboard of single pixels 16, the most there is.
    """
    n, _, side = luma.shape
    line = luma.reshape(
        n, side * side
    )  # neighbours are 1 and `side` apart; where that wraps around is the border, cut off below
    laplacian = line[:, : -2 * side] + line[:, 2 * side :]
    laplacian += line[:, side - 1 : -side - 1]
    laplacian += line[:, side + 1 : 1 - side]
    laplacian -= 4 * line[:, side:-side]
    inner = laplacian.reshape(n, side - 2, side)[:, :, 1:-1]
    return on_host(moments(inner)[1] / WHITE**2, np.float32)


def exposure(luma: Array) -> npt.NDArray[np.float32]:
    """Mean luminance of whole images, float32 [n, 64, 64] in thousandths -> float32 [n], 0 (black) to 1 (white)."""
    return on_host(moments(luma)[0] / WHITE, np.float32)


def contrast(luma: Array) -> npt.NDArray[np.float32]:
    """RMS contrast of whole images, float32 [n, 64, 64] in thousandths -> float32 [n].

    From 0 (one colour) to 0.5 (half black, half white): the standard deviation of the luminance. From E. Peli,
    "Contrast in complex images", JOSA A 7, 1990.
    """
    return on_host(moments(luma)[1].clip(0) ** 0.5 / WHITE, np.float32)
