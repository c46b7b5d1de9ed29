"""One door to local disks and object stores: list, read by range, and write whole files or nothing.

A place is a local path or any URL that fsspec knows (`s3://`, `gs://`, `az://`, `memory://`). Credentials never pass
through here: each file system takes them from its usual environment variables or files.
"""

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

import fsspec
import numpy as np
import numpy.typing as npt
from fsspec.implementations.local import LocalFileSystem

from image_curation.errors import StorageError

# A gap between two ranges that is read along with them takes less time than a request of its own. Runs are short enough
# for a store to serve several of one batch at a time, and long enough that its latency does not count.
GAP_BYTES, _RUN_BYTES = 256 << 10, 4 << 20


@dataclass(frozen=True)
class FileInfo:
    """A file in storage: its URL, its path below the listed folder, its bytes, and what changes when it does."""

    url: str
    name: str
    size: int
    fingerprint: str


def join(root: str, *parts: str) -> str:
    """Append path parts to a local path or URL with single slashes."""
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = _filesystem(url)
    with _renamed(url, "look for"):
        return bool(fs.exists(path))


def list_files(root: str) -> list[FileInfo]:
    """All files below `root`, by name. A missing folder on disk is an error; an object store has no empty folders.

    Raises:
        StorageError: the place cannot be listed.
    """
    fs, path = _filesystem(root)
    with _renamed(root, "list"):
        fs.invalidate_cache()
        if isinstance(fs, LocalFileSystem) and not fs.isdir(path):
            raise FileNotFoundError(f"there is no folder {path}")
        found: dict[str, dict[str, Any]] = fs.find(path, detail=True)
    base = path.rstrip("/") + "/"
    names = {name.removeprefix(base): info for name, info in found.items() if _is_file(info)}
    return [
        FileInfo(join(root, name), name, int(info["size"]), _fingerprint(info)) for name, info in sorted(names.items())
    ]


def file_info(url: str) -> FileInfo | None:
    """What is known of one file; None where there is no file, or only a folder."""
    fs, path = _filesystem(url)
    with _renamed(url, "look at"):
        fs.invalidate_cache()  # what a listing said before may have changed
        if not fs.isfile(path):
            return None
        info = fs.info(path)
    return FileInfo(url, url.rpartition("/")[2], int(info["size"]), _fingerprint(info))


def read_bytes(url: str) -> bytes:
    """The whole content of a file."""
    fs, path = _filesystem(url)
    with _renamed(url, "read"):
        return cast(bytes, fs.cat_file(path))


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of each (offset, size) of a file, in the order given; shorter where the file ends before.

    Ranges that lie near each other are read as one run of some MB. A disk reads one run after the other; a store is
    asked for all of them at a time, so that beside the ranges their runs are in memory for a moment.
    """
    runs = _runs(ranges)
    spans = [(ranges[run[0]][0], max(sum(ranges[i]) for i in run)) for run in runs]
    found = [b""] * len(ranges)
    for run, (start, _), block in zip(runs, spans, _read_spans(url, spans), strict=True):
        view = memoryview(block)
        for i in run:
            offset, size = ranges[i][0] - start, ranges[i][1]
            found[i] = block if len(run) == 1 else bytes(view[offset : offset + size])
    return found


def open_read(url: str) -> BinaryIO:
    """A seekable, buffered binary file."""
    fs, path = _filesystem(url)
    with _renamed(url, "open"):
        return cast(BinaryIO, fs.open(path, "rb", block_size=8 << 20))


def mapped(file: BinaryIO) -> npt.NDArray[np.uint8] | None:
    """The bytes of a file on disk opened by `open_read`, of which only those are read that are looked at; else None."""
    if not _is_local(file):
        return None
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def read_into(file: BinaryIO, pieces: Sequence[tuple[int, memoryview]]) -> None:
    """Fill each buffer of (offset, buffer) from a file opened by `open_read`, whose position is not used or changed.

    Threads may read from one file at a time. A store is asked for all pieces at once, in parts of some MB.

    Raises:
        StorageError: the file cannot be read, or ends before a piece does.
    """
    with _renamed(cast(Any, file).path, "read"):
        (_read_local if _is_local(file) else _read_remote)(file, pieces)


@contextmanager
def write_atomic(url: str) -> Iterator[BinaryIO]:
    """A binary file to write to, which appears at `url` when the body ends, or not at all when it raises.

    On disk: written beside its place, synced, then renamed over it. On an object store: written to a local temporary
    file, then put as one object, which stores make visible only once it is complete.
    """
    fs, path = _filesystem(url)
    local = isinstance(fs, LocalFileSystem)
    with _renamed(url, "write"):
        if local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=os.path.dirname(path) if local else None)
    try:
        with _full_disk_renamed(url), os.fdopen(handle, "w+b") as file:
            yield cast(BinaryIO, file)
            file.flush()
            if local:
                os.fsync(file.fileno())
        with _renamed(url, "write"):
            if local:
                os.chmod(temporary, 0o666 & ~_umask())
                os.replace(temporary, path)
            else:
                fs.put_file(temporary, path)
                fs.invalidate_cache(fs._parent(path))
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def write_bytes(url: str, content: bytes) -> None:
    """Write `content` as a whole file or not at all."""
    with write_atomic(url) as file:
        file.write(content)


def remove(url: str) -> None:
    """Remove a file, or a folder with all that is in it. What is not there needs no removing."""
    fs, path = _filesystem(url)
    with _renamed(url, "remove"):
        if isinstance(fs, LocalFileSystem) and os.path.isdir(path):
            shutil.rmtree(path)
        elif fs.exists(path):
            fs.rm(path, recursive=True)


def _runs(ranges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Positions of the ranges that hold anything, by offset, in runs that are worth one read each."""
    runs: list[list[int]] = []
    start = end = 0
    for i in sorted((i for i, (_, size) in enumerate(ranges) if size), key=lambda i: ranges[i][0]):
        offset, size = ranges[i]
        if runs and offset - end <= GAP_BYTES and offset + size - start <= _RUN_BYTES:
            runs[-1].append(i)
            end = max(end, offset + size)
        else:
            runs.append([i])
            start, end = offset, offset + size
    return runs


def _read_spans(url: str, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of each half-open (start, end) of a file."""
    fs, path = _filesystem(url)
    with _renamed(url, "read"):
        if isinstance(fs, LocalFileSystem):
            with open(path, "rb") as file:
                for start, end in spans:
                    yield os.pread(file.fileno(), end - start, start)
        else:
            starts, ends = [start for start, _ in spans], [end for _, end in spans]
            yield from fs.cat_ranges([path] * len(spans), starts, ends, on_error="raise")


def _is_local(file: BinaryIO) -> bool:
    return isinstance(cast(Any, file).fs, LocalFileSystem)


def _read_local(file: BinaryIO, pieces: Sequence[tuple[int, memoryview]]) -> None:
    descriptor = file.fileno()
    for offset, buffer in pieces:
        done = 0
        while done < len(buffer):  # one call reads no more than 2 GB
            n = os.preadv(descriptor, [buffer[done:]], offset + done)
            if not n:
                raise EOFError(f"the file ends before byte {offset + len(buffer):,}")
            done += n


def _read_remote(file: BinaryIO, pieces: Sequence[tuple[int, memoryview]]) -> None:
    fs, path = cast(Any, file).fs, cast(Any, file).path
    parts = [
        (offset + i, buffer[i : i + _RUN_BYTES]) for offset, buffer in pieces for i in range(0, len(buffer), _RUN_BYTES)
    ]
    starts, ends = [offset for offset, _ in parts], [offset + len(buffer) for offset, buffer in parts]
    blocks = fs.cat_ranges([path] * len(parts), starts, ends, on_error="raise")
    for end, (_, buffer), block in zip(ends, parts, blocks, strict=True):
        if len(block) < len(buffer):
            raise EOFError(f"the file ends before byte {end:,}")
        buffer[:] = block


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise StorageError(f"cannot use {url!r} as a place in storage: {error}") from error
    return fs, str(path)


@contextmanager
def _renamed(url: str, verb: str) -> Iterator[None]:
    """Give a foreign error the place and the next step. botocore's errors are no OSErrors, hence their base's name."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(
            f"cannot {verb} {url}: {type(error).__name__}: {error}. "
            "Check that the place exists and that the credentials in the environment allow it."
        ) from error


@contextmanager
def _full_disk_renamed(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {url}: {error}. Check the space that is left there.") from error


def _is_file(info: dict[str, Any]) -> bool:
    """A link counts as what it leads to; one that leads nowhere is a file that cannot be read."""
    return info.get("type") == "file" or (bool(info.get("islink")) and not os.path.isdir(info["name"]))


def _fingerprint(info: dict[str, Any]) -> str:
    """What changes with the content: a store's hash of it, or its size and when it was written."""
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if not tag and "mtime" in info and os.path.exists(info["name"]):
        status = os.stat(info["name"])  # of what a link leads to: `info` has the times of the link
        return f"{status.st_size}-{status.st_mtime_ns}"
    changed = tag or info.get("LastModified") or info.get("created")
    if isinstance(changed, datetime):  # some file systems give a number when listed and a date when asked
        changed = changed.timestamp()
    return f"{info['size']}-{str(changed).strip(chr(34))}"


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
