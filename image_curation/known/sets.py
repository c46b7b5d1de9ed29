"""A known set's place -> what changes when it does, and its images in blocks of bounded size.

A set is a Parquet file, or a folder of them, with a row an image: `vector`, a unit vector as fixed-size list of fp16 or
fp32, and, if there are any, `key` (with `shard`), `sha256` and `phash` (with `contrast`). The root of another curation
counts by all images that it has embedded, its release by those that it kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from image_curation import storage
from image_curation.artifacts import digest, read_artifact
from image_curation.duplicates.perceptual import Hashes, usable_hashes
from image_curation.duplicates.vectors import Float16s
from image_curation.embedding import vectors_of
from image_curation.errors import ArtifactError, ConfigError
from image_curation.known.hash_lists import hash_columns
from image_curation.project import REMEMBERED
from image_curation.release.manifest import MANIFEST, read_manifest

BLOCK_ROWS = 32_768  # 50 MB of 768-d vectors
NORM_TOLERANCE = 0.01

_COLUMNS = ("shard", "key", "sha256", "phash", "contrast", "vector")


@dataclass(frozen=True, eq=False)
class Images:
    """What n images are recognized by.

    Attributes:
        names: of each, to tell people.
        sha256: string [n], null where it is not known.
        phash, usable: uint64 [n] and bool [n], as for `perceptual_edges`.
        vectors: fp16 [n, d], zeros where there is none.
    """

    names: list[str]
    sha256: pa.Array
    phash: Hashes
    usable: npt.NDArray[np.bool_]
    vectors: Float16s

    @classmethod
    def of(cls, table: pa.Table, where: str, first_row: int = 0) -> "Images":
        """The images of a table's rows; what a column that is absent would tell is not known.

        Raises:
            ConfigError: a hash is none.
        """
        sha256, phash = hash_columns(table, where)
        told = {"phash": phash} | ({"contrast": table["contrast"]} if "contrast" in table.column_names else {})
        vectors = vectors_of(table).astype(np.float16)
        return cls(_names(table, first_row), sha256, *usable_hashes(pa.table(told)), vectors)


@dataclass(frozen=True)
class KnownSet:
    """A set as it is now.

    Attributes:
        name: as the settings and the policy have it.
        files: the Parquet files that hold it.
        content: what changes when an image of it does.
        dim: length of its vectors.
        weights: SHA-256 of the weights that it was embedded with, as far as its files tell; more than one is odd.
    """

    name: str
    files: tuple[str, ...]
    content: str
    dim: int
    weights: frozenset[str]

    def blocks(self) -> Iterator[Images]:
        """All images, some ten thousand at a time.

        Raises:
            ConfigError: a hash is none, or a vector is not of length 1.
        """
        for url in self.files:
            where, row = f"known set {self.name}: {url}", 0
            with _opened(url) as parquet:
                columns = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(BLOCK_ROWS, columns=columns, use_threads=False):
                    table = pa.Table.from_batches([batch])
                    images = Images.of(table, where, row)
                    _check_norms(images, table["vector"], where)
                    yield images
                    row += len(table)


def open_set(name: str, url: str, encoder_folder: str) -> KnownSet:
    """Find the set's files and look at them, without reading their vectors.

    Args:
        encoder_folder: below `embeddings/` in a root, for its vectors of the encoder that ours are of.

    Raises:
        ConfigError: there is no such set, or a file of it has no vectors.
    """
    told: list[str | None] = []
    if storage.exists(storage.join(url, MANIFEST)):
        manifest = read_manifest(url)
        told.append(manifest.encoder.get("weights_sha256") if manifest else None)
    files = _files(name, url, encoder_folder)
    facts = [_facts(file.url, file.fingerprint) for file in files]
    dims = {_dim(name, file.url, fact.vector) for file, fact in zip(files, facts, strict=True)}
    if len(dims) > 1:
        raise ConfigError(f"known set {name}: the files below {url} have vectors of different lengths: {sorted(dims)}.")
    return KnownSet(
        name=name,
        files=tuple(file.url for file in files),
        content=digest([fact.content for fact in facts]),
        dim=dims.pop(),
        weights=frozenset(weights for weights in (*told, *(fact.weights for fact in facts)) if weights),
    )


def _files(name: str, url: str, encoder_folder: str) -> list[storage.FileInfo]:
    """The set's Parquet files, by name."""
    if file := storage.file_info(url):
        return [file]
    folder = url
    if storage.exists(storage.join(url, REMEMBERED)):
        folder = storage.join(url, "embeddings", encoder_folder)
    files = storage.list_files(folder) if storage.exists(folder) else []
    if found := [file for file in files if file.name.endswith(".parquet")]:
        return found
    if folder != url:
        raise ConfigError(
            f"known set {name}: the curation {url} has no vectors of the encoder {encoder_folder}. Curate it with that "
            "encoder too, or leave it out."
        )
    raise ConfigError(
        f"known set {name}: at {url} there is no Parquet file. It should be one, or a folder of them, such as the "
        "release of another curation, or the root of one."
    )


@dataclass(frozen=True)
class _Facts:
    content: str
    vector: pa.DataType | None
    weights: str | None


@lru_cache(maxsize=100_000)
def _facts(url: str, _fingerprint: str) -> _Facts:
    """Look at a file once, as long as it does not change."""
    with _opened(url) as parquet:
        schema = parquet.schema_arrow
    vector = schema.field("vector").type if "vector" in schema.names else None
    try:
        artifact = read_artifact(url)
    except ArtifactError:  # somebody else's
        with storage.open_read(url) as file:
            return _Facts(file_digest(cast(Any, file), "sha256").hexdigest(), vector, None)
    return _Facts(artifact.content, vector, artifact.facts.get("weights_sha256"))


def _dim(name: str, url: str, kind: pa.DataType | None) -> int:
    """The length of the vectors of a file, from the type of their column."""
    if kind is None:
        raise ConfigError(
            f"known set {name}: {url} has no column `vector`. A release has one if its policy sets release.vectors: "
            "name the root of that curation, or change its policy and curate it again, which runs no model."
        )
    if not pa.types.is_fixed_size_list(kind) or kind.value_type not in (pa.float16(), pa.float32()):
        raise ConfigError(
            f"known set {name}: in {url} the column `vector` is {kind}. It should be a fixed-size list of fp16 or "
            "fp32, such as pyarrow.list_(pyarrow.float16(), 768)."
        )
    return int(kind.list_size)


def _check_norms(images: Images, vectors: pa.ChunkedArray, where: str) -> None:
    norms = np.linalg.norm(images.vectors.astype(np.float32), axis=1)
    wrong = np.flatnonzero(vectors.is_valid().to_numpy() & ~(np.abs(norms - 1) <= NORM_TOLERANCE))
    if len(wrong):
        raise ConfigError(
            f"{where}: the vector of {images.names[wrong[0]]} has length {norms[wrong[0]]:.4g}, and should have 1 "
            f"within {NORM_TOLERANCE}. Divide each vector by its length; one that is not known is null."
        )


def _names(table: pa.Table, first_row: int) -> list[str]:
    """Shard and key, or the key alone, or the number of the row."""
    columns = [table[name].to_pylist() for name in ("shard", "key") if name in table.column_names]
    if "key" not in table.column_names:
        return [f"row {first_row + i}" for i in range(len(table))]
    return ["/".join(map(str, parts)) for parts in zip(*columns, strict=True)]


@contextmanager
def _opened(url: str) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open_read(url) as file:
            yield pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"known set: {url} cannot be read as Parquet: {' '.join(str(error).split())}.") from error
