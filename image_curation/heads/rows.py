"""Turns a table of vectors into one score a row, in blocks: the part that all heads share."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from image_curation.errors import ConfigError

BLOCK_ROWS = 4096

AnyFloat = npt.NDArray[np.float16] | npt.NDArray[np.float32] | npt.NDArray[np.float64]


def score_rows(
    head: str, dim: int, vectors: AnyFloat, score: Callable[[AnyFloat], npt.NDArray[np.float64]]
) -> npt.NDArray[np.float32]:
    """Score rows [n, dim] -> float32 [n]; a row that holds a NaN or an infinity gets NaN.

    `score` takes finite rows [b, dim] and returns [b] in float64. Rounded to float32 only here, so that a row's score
    does not depend on its neighbours or on how a matrix product is split.

    Raises:
        ConfigError: the vectors do not have `dim` numbers each, so they come from another encoder.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ConfigError(
            f"The head {head} was made for vectors of {dim} numbers, [n, {dim}], and got {list(vectors.shape)}. "
            "Use the head of the encoder that made these vectors."
        )
    scores = np.full(len(vectors), np.nan, dtype=np.float32)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        finite = np.isfinite(block).all(axis=1)
        scores[start : start + BLOCK_ROWS][finite] = score(block if finite.all() else block[finite])
    return scores
