"""A source (a folder, a bucket prefix or one tar) -> the tar shards in it, each with a key that never changes.

The key is the path of the tar below the source without `.tar`; characters outside `[A-Za-z0-9_./-]` are percent-quoted
(as UTF-8), so that it can be a file name, a URL part and a partition key. It can be turned back into the path.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from image_curation import storage
from image_curation.errors import ConfigError, StorageError
from image_curation.storage import FileInfo

# Files that hold samples somewhere else than in a plain tar: not read, but worth a warning.
_LOOK_LIKE_SHARDS = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z|part)|tgz|tbz2?|txz|tzst|zip|7z|rar)$", re.IGNORECASE)


@dataclass(frozen=True)
class Shard:
    """A tar in storage: its key, where it lies, its bytes, and what changes when its content does."""

    key: str
    url: str
    size: int
    fingerprint: str


def discover(source: str) -> tuple[list[Shard], list[str]]:
    """Find all tars below `source`, which may also be a single tar.

    Returns:
        The shards by key, and the names of files that are left out although they look like shards (compressed tars,
        zips). Hidden files and everything in hidden folders is passed over.

    Raises:
        ConfigError: there is no tar.
        StorageError: the place cannot be listed.
    """
    single = _single_tar(source)
    files = [single] if single else [file for file in storage.list_files(source) if not _is_hidden(file.name)]
    shards = [
        Shard(shard_key(file.name), file.url, file.size, file.fingerprint) for file in files if _is_tar(file.name)
    ]
    ignored = [file.name for file in files if _LOOK_LIKE_SHARDS.search(file.name)]
    if not shards:
        raise ConfigError(_nothing_found(source, len(files), ignored))
    return sorted(shards, key=lambda shard: shard.key), ignored


def largest_first(shards: Iterable[Shard]) -> list[Shard]:
    """The order in which to begin work on them, so that the longest task does not begin last."""
    return sorted(shards, key=lambda shard: (-shard.size, shard.key))


def shard_key(name: str) -> str:
    """The key of the tar `name` (a path below the source that ends in `.tar`, in any case).

    Only an unusual suffix stays in the key, with its dot quoted, which nothing else does: `a.tar` and `a.TAR` give `a`
    and `a%2ETAR`.
    """
    stem, suffix = name[:-4], name[-4:]
    return _quoted(stem) if suffix == ".tar" else f"{_quoted(stem)}%2E{suffix[1:]}"


def shard_name(key: str) -> str:
    """The path below the source of the tar with this key: the inverse of `shard_key`."""
    name = unquote(key, errors="surrogateescape")
    return name if re.search(r"%2E[tT][aA][rR]$", key) else f"{name}.tar"


def _quoted(text: str) -> str:
    # `quote` never quotes a tilde. File names that are no UTF-8 reach Python with surrogates, which stand for bytes.
    return quote(text, safe="/", errors="surrogateescape").replace("~", "%7E")


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _single_tar(source: str) -> FileInfo | None:
    """The file `source` itself, if it is one and is named like a tar; a folder may be named so too."""
    if not _is_tar(source):
        return None
    try:
        return storage.file_info(source)
    except StorageError:  # no access: listing says so
        return None


def _nothing_found(source: str, files: int, ignored: list[str]) -> str:
    found = f"there is no .tar file below {source} ({files} other files)"
    if not ignored:
        return f"{found}. Give the folder, bucket prefix or tar file that holds the shards."
    return (
        f"{found}, but {ignored[0]} looks like a packed one. Unpack it to a plain .tar; only these can be read in part."
    )
