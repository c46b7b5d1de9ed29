"""A release in storage -> proof that it holds what its manifest says, read with plain tar and Parquet readers."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from image_curation import storage
from image_curation.errors import ReleaseError, StorageError
from image_curation.release.manifest import FileEntries, FileEntry, Manifest, read_manifest

_PIECE_BYTES = 4 << 20


@dataclass(frozen=True)
class ReleaseCheck:
    """What was read back and found to be as the manifest says."""

    shards: int
    samples: int
    bytes: int


@dataclass
class _Sample:
    """A sample as it stands in a tar: `members` is one (field, offset, size, name) each, in order."""

    key: str
    members: list[tuple[str, int, int, str]]
    hashes: dict[str, str]
    json: bytes | None = None


def verify_release(folder_url: str) -> ReleaseCheck:
    """Read a whole release back and compare it with its manifest.

    Raises:
        ReleaseError: there is no release, or the first file that is not as it should be, and why.
    """
    manifest = read_manifest(folder_url)
    if manifest is None:
        raise ReleaseError(
            f"there is no whole release in {folder_url}: it has no manifest. Materialize curated_shards."
        )
    keys: dict[str, str] = {}
    for shard in manifest.shards:
        for key in verify_shard(folder_url, shard):
            if key in keys:
                raise _wrong(folder_url, shard.tar, f"the key {key} is in {keys[key]} too")
            keys[key] = shard.name
    if len(keys) != manifest.samples:
        raise ReleaseError(f"{folder_url} holds {len(keys)} samples, its manifest says {manifest.samples}")
    return ReleaseCheck(len(manifest.shards), len(keys), _total(manifest))


def verify_shard(folder_url: str, shard: FileEntries) -> list[str]:
    """Read one shard of a release back and give the keys of its samples.

    Raises:
        ReleaseError: a file is missing or damaged, or tar, Parquet and index disagree.
    """
    rows = _read_parquet(folder_url, shard)
    samples = _read_tar(folder_url, shard.tar)
    if not len(samples) == len(rows) == shard.samples:
        counts = (
            f"the tar holds {len(samples)} samples, the Parquet {len(rows)} rows, the manifest says {shard.samples}"
        )
        raise _wrong(folder_url, shard.tar, counts)
    for sample, row in zip(samples, rows, strict=True):
        fault = _fault(sample, row)
        if fault:
            raise _wrong(folder_url, shard.tar, f"sample {sample.key}: {fault}")
    lines = [" ".join(" ".join(map(str, member)) for member in sample.members) for sample in samples]
    if _read_whole(folder_url, shard.index).decode().splitlines() != [f"v1.2 {len(lines)}", *lines]:
        raise _wrong(folder_url, shard.index, "it does not point at the members of the tar")
    return [sample.key for sample in samples]


def _fault(sample: _Sample, row: dict[str, Any]) -> str | None:
    """What is wrong with a sample, by its Parquet row."""
    image = sample.members[0]
    if len({field for field, *_ in sample.members}) < len(sample.members):
        return "a field comes twice"
    if sample.json is None:
        return "it has no json member"
    if (sample.key, *image[1:]) != tuple(
        row[name] for name in ("release_key", "image_offset", "image_size", "release_name")
    ):
        return f"the Parquet has {row['release_key']} with its image {row['release_name']} at {row['image_offset']}"
    if sample.hashes[image[0]] != row["sha256"]:
        return f"the SHA-256 of its image is {sample.hashes[image[0]]}, the Parquet says {row['sha256']}"
    try:
        curation = json.loads(sample.json)["curation"]
        named = [curation[name] for name in ("shard", "key", "sha256")]
    except (ValueError, TypeError, KeyError) as error:
        return f"its json member has no curation entry with shard, key and sha256: {type(error).__name__}: {error}"
    if named != [row[name] for name in ("shard", "key", "sha256")]:
        return f"its json member names {named}, the Parquet {row['shard']}, {row['key']}, {row['sha256']}"
    return None


def _read_parquet(folder_url: str, shard: FileEntries) -> list[dict[str, Any]]:
    columns = ["release_key", "shard", "key", "sha256", "release_name", "image_offset", "image_size"]
    content = _read_whole(folder_url, shard.parquet)
    try:
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content), columns=columns).to_pylist()
    except (pa.ArrowException, KeyError) as error:
        raise _wrong(folder_url, shard.parquet, str(error)) from error
    return rows


def _read_whole(folder_url: str, entry: FileEntry) -> bytes:
    try:
        content = storage.read_bytes(storage.join(folder_url, entry.name))
    except StorageError as error:
        raise _wrong(folder_url, entry, str(error)) from error
    _compare(folder_url, entry, len(content), hashlib.sha256(content).hexdigest())
    return content


def _read_tar(folder_url: str, entry: FileEntry) -> list[_Sample]:
    """Read a tar as any reader would, from its first byte to its last, and hash all of it on the way."""
    try:
        with storage.open_read(storage.join(folder_url, entry.name)) as file:
            hashed = _Hashed(file)
            with tarfile.open(fileobj=hashed, mode="r|") as tar:  # type: ignore[call-overload]
                samples = list(_samples(tar))
            while hashed.read(_PIECE_BYTES):
                pass
    except (StorageError, tarfile.TarError, OSError) as error:
        raise _wrong(folder_url, entry, f"{type(error).__name__}: {error}") from error
    _compare(folder_url, entry, hashed.bytes, hashed.hash.hexdigest())
    return samples


def _samples(tar: tarfile.TarFile) -> Iterator[_Sample]:
    """Neighbouring members with the same key, as webdataset groups them."""
    current: _Sample | None = None
    for member in tar:
        folder, slash, base = member.name.rpartition("/")
        name, _, field = base.partition(".")
        if current is None or current.key != folder + slash + name:
            if current is not None:
                yield current
            current = _Sample(folder + slash + name, [], {})
        current.members.append((field, member.offset_data, member.size, member.name))
        content = tar.extractfile(member)
        if content is not None:
            _take(current, field, content)
    if current is not None:
        yield current


def _take(sample: _Sample, field: str, content: IO[bytes]) -> None:
    """Hash a member, and keep it if it is the JSON sidecar."""
    if field == "json":
        sample.json = content.read()
        return
    hasher = hashlib.sha256()
    while piece := content.read(_PIECE_BYTES):
        hasher.update(piece)
    sample.hashes[field] = hasher.hexdigest()


class _Hashed:
    """A file that is read once, from start to end, and hashed while it is."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.hash.update(content)
        self.bytes += len(content)
        return content


def _compare(folder_url: str, entry: FileEntry, size: int, sha256: str) -> None:
    if size != entry.bytes:
        raise _wrong(folder_url, entry, f"it has {size} bytes, the manifest says {entry.bytes}")
    if sha256 != entry.sha256:
        raise _wrong(folder_url, entry, f"its SHA-256 is {sha256}, the manifest says {entry.sha256}")


def _total(manifest: Manifest) -> int:
    return sum(file.bytes for file in manifest.files())


def _wrong(folder_url: str, entry: FileEntry, reason: str) -> ReleaseError:
    url = storage.join(folder_url, entry.name)
    return ReleaseError(f"{url}: {reason}. Delete it and make the release again: only what is missing is written.")
