"""Luminance -> classical quality measures, which need no model: sharpness, exposure and contrast.

All are of the luminance (Rec. 601: 0.299 R + 0.587 G + 0.114 B, gamma-encoded as stored), from 0 (black) to 1 (white).
"""

import numpy as np
import numpy.typing as npt

from image_curation.decode.luminance import WHITE, moments

Measured = npt.NDArray[np.float32]


def sharpness(luma: npt.NDArray[np.float32]) -> Measured:
    """Variance of the Laplacian of CLIP crops' luminance, float32 [n, s, s] in thousandths -> float32 [n].

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
    return sharpness_of_variance(moments(laplacian.reshape(n, side - 2, side)[:, :, 1:-1])[1])


def sharpness_of_variance(variance: npt.NDArray[np.float64]) -> Measured:
    """Of the Laplacian in thousandths of a grey level, float64 [n]."""
    return (variance / WHITE**2).astype(np.float32)


def exposure_and_contrast(luma: npt.NDArray[np.float32]) -> tuple[Measured, Measured]:
    """Of whole images' luminance, float32 [n, 64, 64] in thousandths: float32 [n] both.

    Exposure is the mean, from 0 (black) to 1 (white). Contrast is the standard deviation, from 0 (one colour) to 0.5
    (half black, half white): E. Peli, "Contrast in complex images", JOSA A 7, 1990.
    """
    mean, variance = moments(luma)
    return (mean / WHITE).astype(np.float32), (variance.clip(0) ** 0.5 / WHITE).astype(np.float32)
