"""An open tar -> its members with the offsets of their data, in one forward pass, as far as the tar is intact.

Python's `tarfile` parses the headers (V7, USTAR, GNU and PAX, long and non-ASCII names). It is driven header by header,
because its own iteration ends in silence at damage that it meets after the first member.
"""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from image_curation.errors import ShardError

Kind = Literal["file", "dir", "link", "other"]

_BLOCK = tarfile.BLOCKSIZE
_LARGEST_EXTENDED_HEADER = 16 << 20
_LARGEST_SIZE = 1 << 60  # headers may state up to 2^88, which fits no file and no column
_CHUNK = 1 << 20
# First bytes -> what people name .tar by mistake.
_NOT_TARS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
}


@dataclass(frozen=True)
class Member:
    """One entry of a tar. `offset` and `size` are those of its data, in bytes; `cut` where the file ends before it."""

    name: str
    offset: int
    size: int
    kind: Kind
    cut: bool


class TarScan:
    """Iterates once over the members of a tar; after that `problem` says what is wrong with the tar, or is None.

    Whoever iterates may read and seek in `file` between two members. Archives that were concatenated are read through,
    as `tar --ignore-zeros` does, but only where a block with the USTAR magic follows the zeros. After a damaged header
    nothing more is read: looking for the next one could take up headers inside the data of a member.
    """

    def __init__(self, file: BinaryIO, size: int, url: str) -> None:
        self.problem: str | None = None
        self._file = file
        self._size = size
        self._url = url

    def __iter__(self) -> Iterator[Member]:
        """Yield the members in their order.

        Raises:
            ShardError: the file is empty, or no tar from its first byte on.
        """
        if self._size == 0:
            raise ShardError(f"{self._url} is an empty file. Fetch or write it again, or remove it.")
        archive = _archive(self._file)
        position, closed = 0, False
        while position < self._size:
            block = self._block(position)
            if not block.strip(b"\0"):
                position, closed = self._end_of_zeros(position), True
                if position < self._size and self._block(position)[257:262] != b"ustar":
                    self.problem = f"{self._size - position} bytes that are no tar follow its end, from byte {position}"
                    return
                continue
            info = self._header(archive, position)
            if info is None:
                return
            member = self._member(info, has_data=archive.offset > info.offset_data)
            yield member
            if member.cut:
                self.problem = (
                    f"cut off at byte {self._size}, inside the data of {member.name!r} (bytes {member.offset} to "
                    f"{member.offset + member.size})"
                )
                return
            position, closed = archive.offset, False
        if not closed:
            self.problem = (
                f"ends at byte {self._size} without the zero blocks that close a tar: cut off between two members, "
                "or never closed by its writer"
            )

    def _block(self, position: int) -> bytes:
        self._file.seek(position)
        return self._file.read(_BLOCK)

    def _end_of_zeros(self, position: int) -> int:
        """Where the first block that is not all zeros begins, from `position` on; the file's size if there is none."""
        self._file.seek(position)
        while chunk := self._file.read(_CHUNK):
            rest = chunk.lstrip(b"\0")
            if rest:
                position += len(chunk) - len(rest)
                return position - position % _BLOCK
            position += len(chunk)
        return self._size

    def _header(self, archive: tarfile.TarFile, position: int) -> tarfile.TarInfo | None:
        """Parse the header at `position` with what extends it; None, with the problem noted, where that fails."""
        self._file.seek(position)
        try:
            info = tarfile.TarInfo.fromtarfile(archive)
            if not 0 <= info.size <= _LARGEST_SIZE or archive.offset <= position:
                raise tarfile.HeaderError(f"it states a size of {info.size}")
        # tarfile lets through what int(), decode() and nested headers raise on hostile extended headers
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            if position == 0:
                raise ShardError(self._no_tar(error)) from error
            place = "cut off inside" if self._size - position < _BLOCK else "damaged in"
            self.problem = f"{place} the header at byte {position} ({error}); what follows it cannot be read"
            return None
        return info

    def _member(self, info: tarfile.TarInfo, has_data: bool) -> Member:
        end = info.offset_data + info.size if has_data else info.offset_data
        return Member(info.name, info.offset_data, info.size, _kind(info), cut=end > self._size)

    def _no_tar(self, error: Exception) -> str:
        start = self._block(0)
        for magic, name in _NOT_TARS.items():
            if start.startswith(magic):
                return (
                    f"{self._url} is no tar but {name} data. Unpack it to a plain .tar; only these can be read in part."
                )
        return (
            f"{self._url} is no tar: its first header cannot be read ({error}). Fetch or write it again, or remove it."
        )


class _HeaderReader:
    """The file as `tarfile` sees it: refuses the reads that only a hostile header asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_EXTENDED_HEADER:
            raise tarfile.HeaderError(f"an extended header states a size of {size}")
        return self._file.read(size)


def _archive(file: BinaryIO) -> tarfile.TarFile:
    """The state that `tarfile` keeps between headers. Opened on an empty tar, as opening parses the first header."""
    archive = tarfile.TarFile(fileobj=io.BytesIO(bytes(2 * _BLOCK)), encoding="utf-8", errors="backslashreplace")
    reader: Any = _HeaderReader(file)
    archive.fileobj = reader
    return archive


def _kind(info: tarfile.TarInfo) -> Kind:
    if info.isdir():
        return "dir"
    if info.issym() or info.islnk():
        return "link"
    return "file" if info.isreg() and not info.issparse() else "other"
