"""Members -> the bytes of a tar that are the same on every machine, hashed while they are written."""

import hashlib
import tarfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, Self

_END = 2 * tarfile.BLOCKSIZE
_CHUNK_BYTES = 4 << 20  # small members are written and hashed together
_HEADER = bytearray(tarfile.TarInfo().tobuf(tarfile.GNU_FORMAT))


class TarWriter:
    """Writes a GNU tar (plain USTAR but for names above 100 characters) without times, owners or machine in it.

    A thread of its own computes the SHA-256, so that it costs no time where there is a second core.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="release-hash")
        self._hashing: Future[None] | None = None
        self._waiting: list[bytes | memoryview] = []
        self._waiting_bytes = 0
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hasher.shutdown()

    def add(self, name: str, size: int, contents: Iterable[bytes | memoryview]) -> int:
        """Append a member of `size` bytes, given in pieces, and return the offset of its first byte."""
        self._append(_header(name, size))
        offset = self.bytes
        for content in contents:
            self._append(content)
        if self.bytes != offset + size:
            raise ValueError(f"{name}: {self.bytes - offset} bytes were given, size={size}")
        self._append(bytes(-size % tarfile.BLOCKSIZE))
        return offset

    def finish(self) -> str:
        """Write the end of the tar and return the SHA-256 of all of it."""
        self._append(bytes(_END + -(self.bytes + _END) % tarfile.RECORDSIZE))
        self._flush()
        if self._hashing is not None:
            self._hashing.result()
        return self._hash.hexdigest()

    def _append(self, content: bytes | memoryview) -> None:
        self._waiting.append(content)
        self._waiting_bytes += len(content)
        self.bytes += len(content)
        if self._waiting_bytes >= _CHUNK_BYTES:
            self._flush()

    def _flush(self) -> None:
        chunk = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        if self._hashing is not None:
            self._hashing.result()  # one chunk at a time: memory stays bounded where hashing is slower than writing
        self._hashing = self._hasher.submit(self._hash.update, chunk)
        self._file.write(chunk)


def _header(name: str, size: int) -> bytes:
    """What `tarfile` makes of a name and a size, several times faster where both fit a plain header."""
    if len(name) > tarfile.LENGTH_NAME or size >= 8**11:
        member = tarfile.TarInfo(name)
        member.size = size
        return member.tobuf(tarfile.GNU_FORMAT)
    header = _HEADER.copy()
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % size
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)
