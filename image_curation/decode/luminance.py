"""RGB -> luminance in whole numbers, on which all measures are taken.

Sums of whole numbers are exact in any order, so a measure is the same on every machine, for one image and for many.
numpy arrays and tensors go through the same formulas; `namespace` gives the library that computes them.
"""

from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from image_curation.decode.orientation import Pixels

# A numpy array or a tensor, of float32 or float64; there is no common type to name.
Array: TypeAlias = Any

WHITE = 255_000
_RED, _GREEN, _BLUE = 299, 587, 114  # Rec. 601, of gamma-encoded values as stored


def luminance(rgb: Pixels) -> Array:
    """uint8 [n, h, w, 3] -> float32 [n, h, w]: whole thousandths of a grey level, from 0 to `WHITE`."""
    if isinstance(rgb, np.ndarray):
        return rgb.astype(np.float32) @ np.array([_RED, _GREEN, _BLUE], np.float32)
    red, green, blue = rgb.unbind(-1)
    return (red * float(_RED)).add_(green, alpha=_GREEN).add_(blue, alpha=_BLUE)


def namespace(array: Array) -> ModuleType:
    """numpy or torch, whose functions of the same name are used alike."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def moments(values: Array) -> tuple[Array, Array]:
    """Mean and variance of each of float32 [n, h, w] whole numbers: float64 [n] both."""
    xp = namespace(values)
    n, height, width = values.shape
    count = height * width
    numbers = xp.asarray(values, dtype=xp.float64).reshape(n, count)
    total = numbers.sum(1)
    numbers *= numbers
    return total / count, (numbers.sum(1) - total * total / count) / count


def on_host(values: Array, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    """The same as a numpy array of `dtype`."""
    host = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    return host.astype(dtype)
