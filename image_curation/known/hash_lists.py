"""A file of SHA-256 or perceptual hashes -> what it lists, and a sentence for each sample that is on it.

Either text, one hash a line, or Parquet with the columns `sha256` and `phash` or one of them.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from image_curation import storage
from image_curation.artifacts import digest
from image_curation.duplicates.perceptual import Hashes, nearest_hashes, usable_hashes
from image_curation.errors import ConfigError

# `sha256sum` writes a name behind the hash: such lines are read as they are.
_SHA256_LINE = re.compile(r"([0-9a-f]{64})( [ *].*)?")
_PHASH_LINE = re.compile(r"[0-9a-f]{16}")
_PARQUET = b"PAR1"


@dataclass(frozen=True, eq=False)
class HashList:
    """What a list holds.

    Attributes:
        url: where it lies, as the policy names it.
        content: equal for lists of the same hashes, whatever their order and comments.
        sha256: string, lower case, distinct and sorted.
        phash: uint64, distinct and sorted.
    """

    url: str
    content: str
    sha256: pa.Array
    phash: Hashes


def read_hash_list(url: str) -> HashList:
    """Read a list once, as long as it does not change.

    Raises:
        ConfigError: it is not there, or something in it is no hash; the text says where and what is allowed.
    """
    found = storage.file_info(url)
    if found is None:
        raise ConfigError(f"there is no blocklist {url}, which the policy names under known.blocklists.")
    return _read(url, found.fingerprint)


def blocked(samples: pa.Table, lists: Sequence[HashList], max_phash_distance: int | None) -> list[str | None]:
    """For each sample the sentence that says on which list it is and by what; None where it is on none.

    Args:
        samples: n rows with `sha256`, `phash` and `contrast`.
        lists: in the order in which they are asked.
        max_phash_distance: bits of 64 that may differ; None leaves the perceptual hashes of the lists unused.
    """
    sentences: list[str | None] = [None] * len(samples)
    phash, usable = usable_hashes(samples)
    for one in reversed(lists):  # what an earlier list says overwrites what a later one did
        if max_phash_distance is not None:
            rows, distances = nearest_hashes(phash, one.phash, max_phash_distance, usable)
            for i in np.flatnonzero(rows >= 0):
                listed = f"{one.phash[rows[i]]:016x}"
                sentences[i] = f"on the blocklist {one.url}: {distances[i]} of 64 bits differ from {listed}"
        for i in np.flatnonzero(pc.is_in(samples["sha256"], value_set=one.sha256)):
            sentences[i] = f"on the blocklist {one.url}: equal bytes"
    return sentences


def hash_columns(table: pa.Table, where: str) -> tuple[pa.Array, pa.Array]:
    """The columns `sha256` (string, lower case) and `phash` (uint64) of a table; nulls where it does not have them.

    Raises:
        ConfigError: a column is of another type, or a value is no hash.
    """
    sha256, phash = (_column(table, name) for name in ("sha256", "phash"))
    sha256 = _hex(sha256, 64, f"{where}, column sha256")
    if not pa.types.is_uint64(phash.type):
        phash = _hex(phash, 16, f"{where}, column phash (which may also be uint64)")
        phash = pa.array([None if text is None else int(text, 16) for text in phash.to_pylist()], pa.uint64())
    return sha256, phash


@lru_cache(maxsize=16)
def _read(url: str, _fingerprint: str) -> HashList:
    content = storage.read_bytes(url)
    sha256, phash = _parquet(url, content) if content.startswith(_PARQUET) else _text(url, content)
    distinct, bits = sorted(set(sha256)), np.unique(np.array(phash, np.uint64))
    return HashList(url, digest([distinct, bits.tolist()]), pa.array(distinct, pa.string()), bits)


def _text(url: str, content: bytes) -> tuple[list[str], list[int]]:
    sha256, phash = [], []
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"blocklist {url} is neither Parquet nor UTF-8 text: {error}.") from error
    for number, line in enumerate(lines, start=1):
        entry = line.partition("#")[0].strip().lower()
        if match := _SHA256_LINE.fullmatch(entry):
            sha256.append(match[1])
        elif _PHASH_LINE.fullmatch(entry):
            phash.append(int(entry, 16))
        elif entry:
            raise ConfigError(
                f"blocklist {url}, line {number}: {entry[:80]!r} is no hash. Allowed on a line: a SHA-256 (64 "
                "hexadecimal digits), a perceptual hash (16), or a comment that begins with #."
            )
    return sha256, phash


def _parquet(url: str, content: bytes) -> tuple[list[str], list[int]]:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = [name for name in ("sha256", "phash") if name in file.schema_arrow.names]
        if not names:
            raise ConfigError(
                f"blocklist {url} should have a column sha256 or phash; it has {', '.join(file.schema_arrow.names)}."
            )
        table = file.read(columns=names, use_threads=False)
    except pa.ArrowException as error:
        raise ConfigError(f"blocklist {url} cannot be read as Parquet: {error}.") from error
    sha256, phash = hash_columns(table, f"blocklist {url}")
    return sha256.drop_null().to_pylist(), phash.drop_null().to_pylist()


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string())
    return table[name].combine_chunks()


def _hex(column: pa.Array, digits: int, where: str) -> pa.Array:
    """Lower-case text of so many hexadecimal digits."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_null(column.type)):
        raise ConfigError(f"{where}: it should hold text of {digits} hexadecimal digits, not {column.type}.")
    lower = pc.utf8_lower(column.cast(pa.string()))
    good: npt.NDArray[np.bool_] = pc.fill_null(
        pc.match_substring_regex(lower, f"^[0-9a-f]{{{digits}}}$"), True
    ).to_numpy(zero_copy_only=False)
    if not good.all():
        row = int(np.argmin(good))
        raise ConfigError(
            f"{where}, row {row}: {str(column[row].as_py())[:80]!r} should be {digits} hexadecimal digits."
        )
    return lower
