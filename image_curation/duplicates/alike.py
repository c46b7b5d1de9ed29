"""What is known of each row, and thresholds -> which rows are duplicates of each other directly, and how."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from image_curation.duplicates.edges import Rows
from image_curation.duplicates.exact import Hashes, content_codes
from image_curation.duplicates.perceptual import hamming
from image_curation.duplicates.vectors import Float16s, Float64s, Vectors

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Alike:
    """n rows and what makes two of them duplicates: the same bytes, near hashes or near vectors.

    Attributes:
        vectors: of n rows.
        codes: int64 [n] from `content_codes`.
        phash, usable: uint64 [n] and bool [n], as for `perceptual_edges`.
        min_similarity, max_distance, exact: as for `filter_edges`.
    """

    vectors: Vectors
    codes: Rows
    phash: npt.NDArray[np.uint64]
    usable: Bools
    min_similarity: float | None
    max_distance: int | None
    exact: bool

    @classmethod
    def measure(
        cls,
        vectors: Float16s,
        sha256: Hashes,
        phash: npt.NDArray[np.uint64],
        min_similarity: float | None,
        max_distance: int | None,
        exact: bool = True,
        usable: Bools | None = None,
    ) -> Self:
        """Of vectors fp16 [n, d], zeros or NaN where there is none, and n content hashes, null where there is none."""
        usable = np.ones(len(phash), np.bool_) if usable is None else usable
        measured, codes = Vectors.measure(vectors), content_codes(sha256)
        return cls(measured, codes, phash, usable, min_similarity, max_distance, exact)

    def of_pairs(self, x: Rows, y: Rows) -> tuple[Bools, Bools, Bools, Float64s]:
        """Whether row x[i] and row y[i] are exact, perceptual and semantic duplicates, and their cosine."""
        cosine = self.vectors.cosine(x, y)
        same = (self.codes[x] == self.codes[y]) & (self.codes[x] >= 0) & self.exact
        near = hamming(self.phash[x], self.phash[y]) <= (-1 if self.max_distance is None else self.max_distance)
        close = cosine >= (np.inf if self.min_similarity is None else self.min_similarity)
        return same, near & self.usable[x] & self.usable[y], close, cosine

    def all_pairs(self, x: Rows, y: Rows) -> Bools:
        """bool [len(x), len(y)]: whether row x[i] and row y[j] are duplicates. At most `TILE_ROWS` rows a side."""
        found = np.zeros((len(x), len(y)), np.bool_)
        if self.exact:
            found |= (self.codes[x][:, None] == self.codes[y]) & (self.codes[y] >= 0)
        if self.max_distance is not None:
            near = hamming(self.phash[x][:, None], self.phash[y]) <= self.max_distance
            found |= near & self.usable[x][:, None] & self.usable[y]
        if self.min_similarity is not None:
            in_x, in_y = (np.flatnonzero(self.vectors.squares[rows] > 0) for rows in (x, y))
            i, j, _ = self.vectors.close_places(x[in_x], y[in_y], self.min_similarity)
            found[in_x[i], in_y[j]] = True
        return found
