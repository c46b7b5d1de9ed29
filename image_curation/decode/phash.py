"""Thumbnails -> 64-bit perceptual hashes: the same photo re-encoded, resized or brightened differs in a few bits.

The method is pHash's (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the 8 x 8
lowest frequencies of the luminance's DCT, without the first row and column, and for each a bit that tells whether it
lies above their median. In place of pHash's mean filter and 32 x 32 pixels there is a whole-image thumbnail of 64 x 64,
as in PDQ (Meta, 2019). The DCT is computed in integers, so that a hash is the same on every machine.
"""

import numpy as np
import numpy.typing as npt

_SIDE = 64
_FREQUENCIES = 8
_BASIS_SCALE = 2**14  # sums stay below 2**53, where float64 holds integers exactly


def phash(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Hash uint8 [n, 64, 64, 3] RGB to uint64 [n]. The highest bit is the lowest frequency; rows first.

    Two hashes are compared by the number of bits that differ; unrelated photos differ in about 32. An image of one
    colour has no structure to hash and gets 0: do not match images of nearly no contrast by it.
    """
    coefficients = _low_frequencies(_integer_luma(thumbs))
    flat = coefficients.reshape(len(thumbs), _FREQUENCIES**2)
    bits = flat > np.median(flat, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").reshape(len(thumbs)).astype(np.uint64)


def _integer_luma(thumbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Rec. 601 luminance, [n, 64, 64], rounded to whole grey levels and without its mean."""
    red, green, blue = np.moveaxis(thumbs.astype(np.int32), -1, 0)
    luma = ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(np.float64)
    centred: npt.NDArray[np.float64] = luma - np.rint(luma.mean(axis=(1, 2), keepdims=True))
    return centred


def _low_frequencies(luma: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """DCT-II coefficients 1 to 8 of both axes, [n, 8, 8], times a constant; whole numbers."""
    basis = _basis()
    coefficients: npt.NDArray[np.float64] = basis @ luma @ basis.T
    return coefficients


def _basis() -> npt.NDArray[np.float64]:
    """Rows 1 to 8 of the DCT-II matrix for 64 points, [8, 64], in whole multiples of 1 / 2**14."""
    frequency = np.arange(1, _FREQUENCIES + 1)[:, None]
    position = np.arange(_SIDE)[None, :]
    basis: npt.NDArray[np.float64] = np.rint(
        _BASIS_SCALE * np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE))
    )
    return basis
