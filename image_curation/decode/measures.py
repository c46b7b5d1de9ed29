"""Crops and thumbnails -> what is measured of each image without a model.

The host measures thumbnails, also those that a GPU made: they are small, and a GPU's many little kernels for them took
more from an encoder beside them than the copy does. The sharpness of crops is measured where they lie.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from image_curation.decode.luminance import luminance
from image_curation.decode.orientation import Pixels
from image_curation.decode.phash import phash
from image_curation.decode.quality import exposure_and_contrast, sharpness
from image_curation.kernels import triton_runs


def measure(pixels: Pixels, thumbs: Pixels) -> dict[str, npt.NDArray[np.generic]]:
    """Measure n images. Each is measured in whole numbers, so that its neighbours and their order change nothing.

    Args:
        pixels: crops, uint8 [n, s, s, 3].
        thumbs: whole images squashed to squares, uint8 [n, 64, 64, 3], where the crops are.

    Returns:
        Name -> [n] on the host: `phash` uint64; `sharpness`, `exposure` and `contrast` float32.
    """
    sharp = _sharpness(pixels)
    whole = luminance(_on_host(thumbs))
    exposure, contrast = exposure_and_contrast(whole)
    return {"phash": phash(whole), "sharpness": sharp, "exposure": exposure, "contrast": contrast}


def _sharpness(pixels: Pixels) -> npt.NDArray[np.float32]:
    if not isinstance(pixels, np.ndarray) and pixels.is_cuda and triton_runs():
        from image_curation.decode.cuda_sharpness import sharpness as fused

        return fused(pixels)
    return sharpness(luminance(_on_host(pixels)))


def _on_host(pixels: Pixels) -> npt.NDArray[np.uint8]:
    array: npt.NDArray[np.uint8] = pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy()
    return array


def joined(parts: Sequence[dict[str, npt.NDArray[np.generic]]]) -> dict[str, npt.NDArray[np.generic]]:
    """The measures of several lists of images, one at least, as those of one list."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
