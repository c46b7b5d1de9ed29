"""Thumbnails -> 64-bit perceptual hashes: the same photo re-encoded, resized or brightened differs in a few bits.

The method is pHash's (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): the 8 x 8
lowest frequencies of the luminance's DCT, without the first row and column, and for each a bit that tells whether it
lies above their median. In place of pHash's mean filter and 32 x 32 pixels there is a whole-image thumbnail of 64 x 64,
as in PDQ (Meta, 2019). The DCT is computed in integers, so that a hash is the same on every machine and device.
"""

import numpy as np
import numpy.typing as npt

from image_curation.decode.luminance import Array, namespace, on_host

_SIDE = 64
_FREQUENCIES = 8
_BITS = _FREQUENCIES**2
_BASIS_SCALE = 2**14  # sums stay below 2**53, where float64 holds integers exactly


def phash(luma: Array) -> npt.NDArray[np.uint64]:
    """Hash the luminance of thumbnails, float32 [n, 64, 64] in thousandths, to uint64 [n] on the host.

    The highest bit is the lowest frequency; rows first. Two hashes are compared by the number of bits that differ;
    unrelated photos differ in about 32. An image of one colour has no structure to hash and gets 0: do not match images
    of nearly no contrast by it.
    """
    xp = namespace(luma)
    basis, bit_values = (xp.asarray(constant, device=luma.device) for constant in (_BASIS, _BIT_VALUES))
    coefficients = (basis @ _grey_levels(luma) @ basis.T).reshape(-1, _BITS)
    # Above the median are those that at least half of them are smaller than.
    smaller = (coefficients[:, None, :] < coefficients[:, :, None]).sum(2)
    return on_host(((smaller >= _BITS // 2) * bit_values).sum(1), np.int64).view(np.uint64)


def _grey_levels(luma: Array) -> Array:
    """Luminance in whole grey levels, less the mean in whole grey levels, float64 [n, 64, 64]."""
    xp = namespace(luma)
    # Halves go up. No whole number of thousandths comes so close to a step that the product's rounding could matter.
    levels = xp.floor((xp.asarray(luma, dtype=xp.float64) + 500.5) * 0.001)
    means = levels.sum((1, 2)) / _SIDE**2
    return levels - xp.round(means)[:, None, None]


def _basis() -> npt.NDArray[np.float64]:
    """Rows 1 to 8 of the DCT-II matrix for 64 points, [8, 64], in whole multiples of 1 / 2**14."""
    frequency = np.arange(1, _FREQUENCIES + 1)[:, None]
    position = np.arange(_SIDE)[None, :]
    basis: npt.NDArray[np.float64] = np.rint(
        _BASIS_SCALE * np.cos(np.pi * frequency * (2 * position + 1) / (2 * _SIDE))
    )
    return basis


_BASIS = _basis()
_BIT_VALUES = (np.uint64(1) << np.arange(_BITS - 1, -1, -1, dtype=np.uint64)).view(np.int64)
