"""RGB -> luminance in whole numbers, on which all measures are taken.

Sums of whole numbers are exact in any order, so a measure is the same on every machine, for one image and for many.
"""

import numpy as np
import numpy.typing as npt

WHITE = 255_000
_REC_601 = np.array([299, 587, 114], np.float32)  # of gamma-encoded values as stored


def luminance(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 [n, h, w, 3] -> float32 [n, h, w]: whole thousandths of a grey level, from 0 to `WHITE`."""
    weighted: npt.NDArray[np.float32] = rgb.astype(np.float32) @ _REC_601
    return weighted


def moments(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of each of float32 [n, h, w] whole numbers: float64 [n] both."""
    n, height, width = values.shape
    count = height * width
    numbers = values.reshape(n, count).astype(np.float64)
    return moments_of_sums(numbers.sum(1), np.einsum("ij,ij->i", numbers, numbers), count)


def moments_of_sums(
    total: npt.NDArray[np.float64], squares: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of n times `count` numbers, of their sums and those of their squares."""
    return total / count, (squares - total * total / count) / count
