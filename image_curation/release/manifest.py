"""Files of a release -> a manifest, written last: where one is, the release is whole, and it says what is in it."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from image_curation import storage
from image_curation.errors import ReleaseError
from image_curation.ledger import Ledger

MANIFEST = "manifest.json"
IMAGES = "images"

_OURS = re.compile(rf"{IMAGES}/shard-\d{{6,}}-[0-9a-f]{{8}}\.(tar|idx|parquet)|({IMAGES}/)?\.writing-[^/]*")


class FileEntry(BaseModel):
    """A file of a release: its path below the release's folder, its bytes and their SHA-256."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    sha256: str


class FileEntries(BaseModel):
    """One shard of a release: the tar, Parquet and DALI index beside it, and the plan that they were made by."""

    model_config = ConfigDict(frozen=True)

    name: str
    plan_hash: str
    samples: int
    tar: FileEntry
    parquet: FileEntry
    index: FileEntry

    def files(self) -> tuple[FileEntry, FileEntry, FileEntry]:
        """All files of the shard."""
        return (self.tar, self.parquet, self.index)


class ReleaseFacts(BaseModel):
    """What decided the release, for the manifest: the ledger, the policy and the selection by hash, and the encoder."""

    model_config = ConfigDict(frozen=True)

    ledger: Ledger
    policy_hash: str
    selection_hash: str
    encoder: dict[str, Any]


class Manifest(ReleaseFacts):
    """A whole release. It names no time and no machine, so that equal inputs give equal bytes."""

    layout: int = Field(default=1, ge=1, le=1)
    samples: int
    bytes: int
    shards: tuple[FileEntries, ...]

    def files(self) -> list[FileEntry]:
        """All files of the release but the manifest."""
        return [file for shard in self.shards for file in shard.files()]


def publish(folder_url: str, entries: Iterable[FileEntries], facts: ReleaseFacts) -> Manifest:
    """Make a release of shards that are written: check that they are there, write the manifest, remove what is old.

    Until the manifest is replaced readers see the release before, whole; from then on the new one. A manifest that
    would be equal is not written again. Only files with the name of a shard are removed, nothing else that lies there.

    Raises:
        ReleaseError: a file is missing or of another size, a shard comes twice, or the ledger does not add up.
    """
    shards = tuple(sorted(entries, key=lambda shard: shard.name))
    manifest = Manifest(
        **dict(facts),
        samples=sum(shard.samples for shard in shards),
        bytes=sum(file.bytes for shard in shards for file in shard.files()),
        shards=shards,
    )
    _check_ledger(manifest)
    present = _files_below(folder_url)
    _check_present(folder_url, shards, present)
    url, content = storage.join(folder_url, MANIFEST), manifest.model_dump_json(indent=2).encode() + b"\n"
    if MANIFEST not in present or storage.read_bytes(url) != content:
        storage.write_bytes(url, content)
    wanted = {file.name for file in manifest.files()}
    for name in present:
        if _OURS.fullmatch(name) and name not in wanted:
            storage.remove(storage.join(folder_url, name))
    return manifest


def read_manifest(folder_url: str) -> Manifest | None:
    """The manifest of the release in a folder, or None where there is no whole release.

    Raises:
        ReleaseError: there is a manifest that cannot be read.
    """
    url = storage.join(folder_url, MANIFEST)
    if not storage.exists(url):
        return None
    try:
        return Manifest.model_validate_json(storage.read_bytes(url))
    except ValidationError as error:
        raise ReleaseError(
            f"{url} is not the manifest of a release of this version: {error}. "
            "Release into another folder, or move it away and make the release again."
        ) from error


def _check_ledger(manifest: Manifest) -> None:
    ledger = manifest.ledger
    if not ledger.adds_up:
        raise ReleaseError(f"the ledger does not add up: {ledger.sentence()}. Materialize selection again.")
    if ledger.kept != manifest.samples:
        raise ReleaseError(f"the selection kept={ledger.kept} samples, but the shards hold {manifest.samples}")


def _files_below(folder_url: str) -> dict[str, int]:
    """Path below the folder -> bytes, of all files of a release or what is left of one."""
    if not storage.exists(folder_url):
        return {}
    return {file.name: file.size for file in storage.list_files(folder_url)}


def _check_present(folder_url: str, shards: Sequence[FileEntries], present: dict[str, int]) -> None:
    if len({shard.name for shard in shards}) < len(shards):
        raise ReleaseError(f"a shard comes twice among {', '.join(shard.name for shard in shards)}")
    for file in (file for shard in shards for file in shard.files()):
        if present.get(file.name) != file.bytes:
            found = f"has {present[file.name]} bytes" if file.name in present else "is missing"
            raise ReleaseError(
                f"{storage.join(folder_url, file.name)} {found}; it was written with {file.bytes}. "
                "Is another run releasing into this folder? Make the release again."
            )
