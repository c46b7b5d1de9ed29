"""Content hashes -> edges between samples whose image is the same bytes."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from image_curation.duplicates.edges import Edges, Kind, Rows, collapse

Hashes: TypeAlias = Sequence[str | None] | pa.Array | pa.ChunkedArray


def exact_edges(sha256: Hashes) -> Edges:
    """Tie all rows of equal hash to the first of them, so that 300,000 copies cost 299,999 edges.

    Args:
        sha256: n content hashes; null for a row that should have no duplicates, such as one without a usable image.
    """
    codes = content_codes(sha256)
    rows = np.flatnonzero(codes >= 0)
    return collapse(codes[rows], rows, Kind.EXACT)[1]


def content_codes(sha256: Hashes) -> Rows:
    """int64 [n]: equal numbers for equal hashes, -1 for null."""
    column = sha256 if isinstance(sha256, (pa.Array, pa.ChunkedArray)) else pa.array(sha256, pa.string())
    column = column.cast(pa.large_string())  # the offsets of one array of strings end at 2 GB: 33 million hashes
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    indices = column.dictionary_encode().indices.cast(pa.int64()).fill_null(-1)
    codes: Rows = indices.to_numpy(zero_copy_only=False)
    return codes
