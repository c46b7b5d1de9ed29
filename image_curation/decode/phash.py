"""Thumbnails -> 64-bit perceptual hashes: the same photo re-encoded, resized or brightened differs in a few bits.

The method is pHash's (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the 8 x 8
lowest frequencies of the luminance's DCT, without the first row and column, and for each a bit that tells whether it
lies above their median. In place of pHash's mean filter and 32 x 32 pixels there is a whole-image thumbnail of 64 x 64,
as in PDQ (Meta, 2019). The DCT is computed in integers, so that a hash is the same on every machine and device.
"""

import numpy as np
import numpy.typing as npt

_SIDE = 64
_FREQUENCIES = 8
_BITS = _FREQUENCIES**2
_BASIS_SCALE = 2**14  # sums stay below 2**53, where float64 holds integers exactly


def phash(luma: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Hash the luminance of thumbnails, float32 [n, 64, 64] in thousandths, to uint64 [n].

    The highest bit is the lowest frequency; rows first. Two hashes are compared by the number of bits that differ;
    unrelated photos differ in about 32. An image of one colour has no structure to hash and gets 0: do not match images
    of nearly no contrast by it.
    """
    coefficients = (_BASIS @ _grey_levels(luma) @ _BASIS.T).reshape(-1, _BITS)
    # Above the median are those that at least half of them are smaller than.
    median = np.partition(coefficients, _BITS // 2 - 1, 1)[:, [_BITS // 2 - 1]]
    bits = np.packbits(coefficients > median, axis=1)
    return bits.view(">u8")[:, 0].astype(np.uint64)


def _grey_levels(luma: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Luminance in whole grey levels, less the mean in whole grey levels, float64 [n, 64, 64]."""
    # Halves go up. No whole number of thousandths comes so close to a step that the product's rounding could matter.
    levels: npt.NDArray[np.float64] = np.floor((luma.astype(np.float64) + 500.5) * 0.001)
    means = levels.sum((1, 2)) / _SIDE**2
    centred: npt.NDArray[np.float64] = levels - np.round(means)[:, None, None]
    return centred


def _basis() -> npt.NDArray[np.float64]:
    """Rows 1 to 8 of the DCT-II matrix for 64 points, [8, 64], in whole multiples of 1 / 2**14."""
    frequency = np.arange(1, _FREQUENCIES + 1)[:, None]
    position = np.arange(_SIDE)[None, :]
    basis: npt.NDArray[np.float64] = np.rint(
        _BASIS_SCALE * np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE))
    )
    return basis


_BASIS = _basis()
