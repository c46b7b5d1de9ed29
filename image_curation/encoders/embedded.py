"""Turns pixels into a classical descriptor that needs no weights: spatial envelope (GIST), luminance and colour layout.

Near vectors mean that two pictures have the same edges, light and colours in the same places. They do not mean that
the pictures show the same things: this is no CLIP. It finds re-encoded, resized, brightened and slightly cropped
copies, and lets the whole graph run where there are no weights and no network.

A vector has three parts and a rest, 610 numbers:

- 512, half of the squared length: GIST. Gabor energies in 4 scales x 8 orientations, averaged over a 4 x 4 grid, of the
  luminance after a logarithm and local contrast normalisation (A. Oliva and A. Torralba, "Modeling the shape of the
  scene", IJCV 2001, and the filter shapes of their LMgist code, with octave-spaced scales).
- 64, 35 %: mean luminance on an 8 x 8 grid, less the image's mean.
- 32, 15 %: mean blue-minus-luminance and red-minus-luminance on a 4 x 4 grid.
- 2: what is missing to length 1, little for photos and nearly all for blank pictures, turned by the mean luminance. So
  no vector is zero; two blank pages are duplicates, a black and a white one are not.

Energies are positive, so that the cosine of any two raw GIST vectors is near 1. Their square root, which evens out
strong and weak edges, is centred on the mean over all 512 of the same image: no constant from any data set is needed,
and the cosine of two unrelated photos is 0.12 on average with a deviation of 0.16.
"""

import hashlib
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from image_curation.encoders.base import GEOMETRY, Pixels, Profile, check_pixels, to_host, unit_rows

Planes: TypeAlias = npt.NDArray[np.float32]

# Stands for the weights: whoever changes what a vector holds changes this too. A test compares golden values.
VERSION = "gist-4x8x4x4 + luminance-8x8 + chroma-4x4, version 1"
SIZE = 224
DIM = 512 + 64 + 32 + 2
_WORK = 112  # side at which everything is computed: exact 2 x 2 means of the input
_PAD = 8  # mirrored border, so that filters do not see the frame; 112 + 2 * 8 = 128 is quick to transform
_SIDE = _WORK + 2 * _PAD
_ORIENTATIONS = 8
# Centre frequency of each scale in cycles per pixel of the 128 px plane, and the side of the plane on which its
# response is computed: a filter's band ends at twice its centre, so coarse scales need fewer samples.
_SCALES = ((1 / 4, 128), (1 / 8, 64), (1 / 16, 32), (1 / 32, 32))
# (share of the squared length, length below which a part fades out because it holds only noise)
_GIST_WEIGHT, _LUMINANCE_WEIGHT, _CHROMA_WEIGHT = (0.50, 0.3), (0.35, 0.03), (0.15, 0.02)


class EmbeddedEncoder:
    """The classical descriptor. Runs on the CPU, whatever the device, in about 3 ms an image on one core.

    Images are computed one by one: a sum over a batch may round otherwise, and vectors must not depend on neighbours.
    """

    batch = 32

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.dim = DIM
        self.weights_sha256 = hashlib.sha256(VERSION.encode()).hexdigest()
        self.preprocessing = f"{GEOMETRY.format(size=SIZE)}; {VERSION}"

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float16]:
        """See `Encoder.encode`. No row is ever NaN."""
        check_pixels(pixels, SIZE)
        rows = np.empty((len(pixels), DIM), np.float32)
        for row, image in zip(rows, to_host(pixels), strict=True):
            row[:] = _describe(image)
        return unit_rows(rows, self.profile.name)


def _describe(pixels: npt.NDArray[np.uint8]) -> Planes:
    """uint8 [224, 224, 3] -> float32 [610], of length 1."""
    red, green, blue = _halve(pixels)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    layout = _grid_means(luminance, 8)
    known = np.concatenate(
        [
            _weighted(_gist(luminance), *_GIST_WEIGHT),
            _weighted(layout - layout.mean(), *_LUMINANCE_WEIGHT),
            _weighted(np.stack([_grid_means(blue - luminance, 4), _grid_means(red - luminance, 4)]), *_CHROMA_WEIGHT),
        ]
    )
    rest = np.sqrt(max(0.0, 1 - float((known * known).sum())))
    turn = np.pi / 2 * float(luminance.mean())  # black and white are at right angles
    return np.append(known, [rest * np.cos(turn), rest * np.sin(turn)]).astype(np.float32)


def _halve(pixels: npt.NDArray[np.uint8]) -> list[Planes]:
    """uint8 [2h, 2w, 3] -> three float32 [h, w] in 0..1: means of 2 x 2 pixels, exact."""
    wide = pixels.astype(np.uint16)
    sums = wide[0::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 0::2] + wide[1::2, 1::2]
    return [sums[..., channel].astype(np.float32) / np.float32(4 * 255) for channel in range(3)]


def _gist(luminance: Planes) -> Planes:
    """[112, 112] in 0..1 -> [4, 8, 4, 4]: roots of Gabor energies by scale, orientation and place, less their mean."""
    spectrum = np.fft.fft2(_normalise_contrast(luminance)).astype(np.complex64, copy=False)  # [128, 128]
    energies = []
    for (_, side), filters in zip(_SCALES, _gabor_filters(), strict=True):
        border = _PAD * side // _SIDE
        response = np.abs(np.fft.ifft2(_low_frequencies(spectrum, side) * filters))  # [8, side, side]
        inner = response[:, border : side - border, border : side - border]
        energies.append(_grid_means(inner, 4) * np.float32((side / _SIDE) ** 2))
    roots: Planes = np.sqrt(np.stack(energies))
    roots -= roots.mean()
    return roots


def _normalise_contrast(luminance: Planes) -> Planes:
    """[112, 112] -> [128, 128], mirrored at the border, with local mean 0 and local contrast about 1.

    LMgist's prefilter: a Gaussian of 4 cycles per image takes away slow changes of light; 0.2 keeps noise small.
    """
    logarithm = np.pad(np.log1p(luminance * np.float32(255)), _PAD, mode="symmetric")
    high: Planes = logarithm - _blur(logarithm)
    high /= np.float32(0.2) + np.sqrt(np.abs(_blur(high * high)))
    return high


def _blur(plane: Planes) -> Planes:
    blurred = np.fft.irfft2(np.fft.rfft2(plane) * _blur_filter(), s=plane.shape)
    return blurred.astype(np.float32, copy=False)


def _low_frequencies(spectrum: npt.NDArray[np.complex64], side: int) -> npt.NDArray[np.complex64]:
    """The corner blocks of a [128, 128] spectrum that make that of a plane with fewer samples [side, side]."""
    if side == _SIDE:
        return spectrum
    keep = np.r_[0 : side // 2, _SIDE - side // 2 : _SIDE]
    corners: npt.NDArray[np.complex64] = spectrum[np.ix_(keep, keep)]
    return corners


def _grid_means(planes: Planes, cells: int) -> Planes:
    """[..., side, side] -> [..., cells, cells]; side is a multiple of cells."""
    side = planes.shape[-1] // cells
    means: Planes = planes.reshape(*planes.shape[:-2], cells, side, cells, side).mean(axis=(-3, -1))
    return means


def _weighted(part: Planes, share: float, fade: float) -> Planes:
    """Any shape -> [d] of squared length `share`, or less where the part's own length is not far above `fade`."""
    squared = float((part * part).sum())
    return part.reshape(-1) * np.float32(np.sqrt(share / (squared + fade * fade)))


@cache
def _blur_filter() -> Planes:
    """[128, 65]: a Gaussian that is 1/2 at 4 cycles per plane, for rfft2."""
    rows, columns = np.fft.fftfreq(_SIDE) * _SIDE, np.fft.rfftfreq(_SIDE) * _SIDE
    squared = rows[:, None] ** 2 + columns[None, :] ** 2
    blur: Planes = np.exp(-squared * np.log(2) / 4**2).astype(np.float32)
    return blur


@cache
def _gabor_filters() -> list[Planes]:
    """For each scale [8, side, side]: Gabor filters of one half plane each, whose responses' size is the envelope."""
    return [np.stack([_gabor(centre, side, turn) for turn in range(_ORIENTATIONS)]) for centre, side in _SCALES]


def _gabor(centre: float, side: int, turn: int) -> Planes:
    frequency = np.fft.fftfreq(side) * side / _SIDE  # in cycles per pixel of the 128 px plane
    radius = np.hypot(frequency[:, None], frequency[None, :])
    angle = np.arctan2(frequency[:, None], frequency[None, :]) - np.pi * turn / _ORIENTATIONS
    angle = (angle + np.pi) % (2 * np.pi) - np.pi
    across = 16 * (_ORIENTATIONS / 32) ** 2
    gabor: Planes = np.exp(-3.5 * (radius / centre - 1) ** 2 - 2 * np.pi * across * angle**2).astype(np.float32)
    return gabor
