"""fp16 vectors -> cosines that are equal on every machine: a matrix product proposes pairs, an exact product decides.

Every fp16 value is a multiple of 2^-24, so a product of two is a multiple of 2^-48, and so is each partial sum of a dot
product. By Cauchy and Schwarz these sums stay within |x| |y|: up to a norm of 4 they fit the 53 bits of an fp64 number.
An fp64 dot product of such rows is therefore exact, whatever the order of summation, the tile, the BLAS or the device.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from image_curation.duplicates.edges import Rows
from image_curation.errors import ArtifactError, ConfigError

Float64s = npt.NDArray[np.float64]
Float16s = npt.NDArray[np.float16]
MAX_NORM = 4.0
TILE_ROWS = 2_048  # rows a side of a tile: 16 MB of fp32 scores
CHUNK_VALUES = 1 << 22  # numbers converted to fp64 at a time: 32 MB a side


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors with what is needed to compare them exactly.

    Attributes:
        values: fp16 [n, d], C-contiguous.
        squares: float64 [n], exact squared norms; NaN where the row is not finite.
        rows: int64 [m], ascending: the rows that hold a vector, neither zero nor NaN.
    """

    values: Float16s
    squares: Float64s
    rows: Rows

    @classmethod
    def measure(cls, vectors: Float16s) -> Self:
        """Look at every row once.

        Raises:
            ArtifactError: a row is far longer than a unit vector, so that its products would not be exact.
        """
        if vectors.ndim != 2 or vectors.dtype != np.float16:
            raise ValueError(f"vectors should be fp16 [n, d], not {vectors.dtype} {list(vectors.shape)}")
        values = np.ascontiguousarray(vectors)
        squares = np.empty(len(values))
        for part in chunks(len(values), values.shape[1]):
            wide = values[part].astype(np.float64)
            squares[part] = np.einsum("ij,ij->i", wide, wide)
        squares[~np.isfinite(squares)] = np.nan
        check_norms(squares)
        return cls(values, squares, np.flatnonzero(squares > 0))

    def cosine(self, x: Rows, y: Rows) -> Float64s:
        """Cosine of row x[i] with row y[i]; NaN where either holds no vector."""
        dots = np.empty(len(x))
        with np.errstate(invalid="ignore"):
            for part in chunks(len(x), self.values.shape[1]):
                dots[part] = np.einsum("ij,ij->i", self._wide(x[part]), self._wide(y[part]))
        return cosine_of_dots(dots, self.squares[x], self.squares[y])

    def close_pairs(self, x: Rows, y: Rows, threshold: float) -> tuple[Rows, Rows, Float64s]:
        """All pairs of a row of `x` and a row of `y` with a cosine of at least `threshold`, and that cosine.

        Memory is that of one tile: call it with at most `TILE_ROWS` rows a side. All rows must hold a vector.
        """
        i, j, cosine = self.close_places(x, y, threshold)
        return x[i], y[j], cosine

    def close_places(self, x: Rows, y: Rows, threshold: float) -> tuple[Rows, Rows, Float64s]:
        """As `close_pairs`, with places in `x` and in `y` for row numbers."""
        proposed = self._unit32(x) @ self._unit32(y).T >= threshold - _band(self.values.shape[1])
        i, j = np.nonzero(proposed)
        if len(i) * 64 > proposed.size:  # so many that one product of the tile is cheaper; the numbers are the same
            dots = (self._wide(x) @ self._wide(y).T)[i, j]
            cosine = cosine_of_dots(dots, self.squares[x[i]], self.squares[y[j]])
        else:
            cosine = self.cosine(x[i], y[j])
        close = cosine >= threshold
        return i[close], j[close], cosine[close]

    def _wide(self, rows: Rows) -> Float64s:
        wide: Float64s = self.values[rows].astype(np.float64)
        return wide

    def _unit32(self, rows: Rows) -> npt.NDArray[np.float32]:
        norms = np.sqrt(self.squares[rows]).astype(np.float32)
        return self.values[rows].astype(np.float32) / norms[:, None]


def row_bytes(rows: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """The bytes of each row of numbers [n, k] as one value that sorts and compares, [n]."""
    width = rows.itemsize * rows.shape[1]
    whole: npt.NDArray[np.void] = np.ascontiguousarray(rows).view(np.dtype((np.void, width))).ravel()
    return whole


def cosine_of_dots(dots: Float64s, x_squares: Float64s, y_squares: Float64s) -> Float64s:
    """Dot products and squared norms -> cosines, by three roundings of exact numbers (product, root, quotient), each
    defined by IEEE 754 to the last bit."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine: Float64s = np.minimum(dots / np.sqrt(x_squares * y_squares), 1.0)
    return cosine


def check_norms(squares: Float64s) -> None:
    """Raises ArtifactError where a row of these squared norms is so long that its products would not be exact."""
    long = np.flatnonzero(np.isfinite(squares) & (squares > MAX_NORM**2))
    if len(long):
        norm = squares[long[0]] ** 0.5
        raise ArtifactError(f"vector {long[0]} has norm {norm:.4g} and should have 1. Make the embeddings again.")


def check_threshold(threshold: float) -> None:
    """Raises ConfigError where `threshold` is not a cosine that duplicates can have."""
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold} should be a cosine above 0 and at most 1.")


def _band(d: int) -> float:
    """How far an fp32 product of unit rows may be from the true cosine: twice the worst case d 2^-24, at least 1e-4."""
    return max(1e-4, d * 2.0**-23)


def chunks(n: int, d: int, values: int | None = None) -> list[slice]:
    """n rows of d numbers in slices of at most so many numbers, by default `CHUNK_VALUES`, but one row at least."""
    step = max(1, (values or CHUNK_VALUES) // max(1, d))
    return [slice(start, start + step) for start in range(0, n, step)]
