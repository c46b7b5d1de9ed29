"""Content hashes -> edges between samples whose image is the same bytes."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from image_curation.duplicates.edges import Edges, Kind, Rows, collapse
from image_curation.duplicates.vectors import row_bytes

Hashes: TypeAlias = Sequence[str | None] | pa.Array | pa.ChunkedArray
Packed: TypeAlias = npt.NDArray[np.uint64]
_DIGITS = 32  # of a hash that are looked at: 128 bits, equal by chance for one pair of 3e38
_SLOTS = 24  # bits of a hash by which nearly all that equal none of a few are left out at once


def packed_hashes(sha256: Hashes) -> Packed:
    """uint64 [n, 2]: the first half of each of n hashes in hexadecimal digits; zeros for null."""
    column = sha256 if isinstance(sha256, (pa.Array, pa.ChunkedArray)) else pa.array(sha256, pa.string())
    digits = pc.utf8_rpad(pc.utf8_slice_codeunits(pc.fill_null(column, ""), 0, _DIGITS), _DIGITS, "0")
    whole = digits.combine_chunks() if isinstance(digits, pa.ChunkedArray) else digits
    text = (whole.buffers()[2] or pa.py_buffer(b"")).to_pybytes()[: len(whole) * _DIGITS]
    return np.frombuffer(bytes.fromhex(text.decode()), np.uint64).reshape(-1, 2)


def hash_digits(hashes: Packed) -> pa.Array:
    """What `packed_hashes` was made from, as far as it goes: n strings."""
    digits = hashes.tobytes().hex()
    return pa.array([digits[start : start + _DIGITS] for start in range(0, len(digits), _DIGITS)], pa.string())


def exact_edges(hashes: Packed, touched: npt.NDArray[np.bool_] | None = None) -> Edges:
    """Tie all rows of equal hash to the first of them, so that 300,000 copies cost 299,999 edges.

    Args:
        hashes: uint64 [n, 2] from `packed_hashes`; zeros for a row that should have no duplicates, such as one without
            a usable image.
        touched: bool [n]: only rows that equal such a row are wanted; the cost is nearly that of these.
    """
    rows = _repeated(hashes) if touched is None else _equal_to(hashes, touched)
    rows = rows[hashes[rows].any(1)]
    whole = row_bytes(hashes[rows])
    wanted = slice(None) if touched is None else np.isin(whole, whole[touched[rows]])
    return collapse(whole[wanted], rows[wanted], Kind.EXACT)[1]


def _equal_to(hashes: Packed, touched: npt.NDArray[np.bool_]) -> Rows:
    """The rows whose hash begins as that of a row that is touched."""
    wanted = np.unique(hashes[touched, 0])
    slots = np.zeros(1 << _SLOTS, np.bool_)
    slots[wanted >> np.uint64(64 - _SLOTS)] = True
    rows = np.flatnonzero(slots[hashes[:, 0] >> np.uint64(64 - _SLOTS)])
    return rows[np.isin(hashes[rows, 0], wanted)]


def _repeated(hashes: Packed) -> Rows:
    """The rows whose hash begins as that of another row, rising."""
    order = np.argsort(hashes[:, 0])
    twice = np.flatnonzero(np.diff(hashes[order, 0]) == 0)
    return np.unique(np.concatenate([order[twice], order[twice + 1]]))


def content_codes(sha256: Hashes) -> Rows:
    """int64 [n]: equal numbers for equal hashes, -1 for null."""
    column = sha256 if isinstance(sha256, (pa.Array, pa.ChunkedArray)) else pa.array(sha256, pa.string())
    column = column.cast(pa.large_string())  # the offsets of one array of strings end at 2 GB: 33 million hashes
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    indices = column.dictionary_encode().indices.cast(pa.int64()).fill_null(-1)
    codes: Rows = indices.to_numpy(zero_copy_only=False)
    return codes
