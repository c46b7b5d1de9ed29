"""Turns the bytes of a LevelDB table (TensorFlow's `variables.index`) into its keys and values.

Layout, from LevelDB's doc/table_format.md: blocks of entries, then an index block with the place of each, then a footer
of 48 bytes. A key is stored as the length that it shares with the one before and the rest. Every block ends with a
compression byte and a masked CRC-32C. Malformed bytes raise ValueError; the module that knows the file's name makes a
WeightsError of it.
"""

from collections.abc import Iterator

from image_curation.heads.protobuf import read_bytes, read_varint

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # compression byte, CRC-32C
NO_COMPRESSION, SNAPPY = 0, 1
CRC_MASK_DELTA = 0xA282EAD8
MAX_KEY_BYTES = 4096  # names of variables; shared prefixes could make a small file hold long keys by the thousand


def read_table(data: bytes) -> dict[bytes, bytes]:
    """All entries of a table, in the order of their keys.

    Raises:
        ValueError: the bytes are truncated, damaged, compressed, or no table at all.
    """
    if len(data) < FOOTER_BYTES or int.from_bytes(data[-8:], "little") != MAGIC:
        raise ValueError("the table has no footer: it is cut short or no LevelDB table")
    footer = data[-FOOTER_BYTES:-8]
    _, position = _read_handle(footer, 0)  # the meta index: filters, which a bundle has not
    index, _ = _read_handle(footer, position)
    entries: dict[bytes, bytes] = {}
    last_key: bytes | None = None
    end = 0
    for _, raw_handle in _read_block(data, *index):
        (offset, size), _ = _read_handle(raw_handle, 0)
        if offset < end:  # else an index could name one block again and again, and reading would take for ever
            raise ValueError(f"the block at byte {offset} begins before the end of the one before, {end}")
        end = offset + size
        for key, value in _read_block(data, offset, size):
            if last_key is not None and key <= last_key:
                raise ValueError(f"key {key[:80]!r} does not come after {last_key[:80]!r}")
            entries[key] = value
            last_key = key
    return entries


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of bytes, about 15 MB a second."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The CRC as LevelDB and TensorFlow store it: rotated and shifted, so that a CRC over CRCs is still a good one."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + CRC_MASK_DELTA) & 0xFFFFFFFF


def _read_handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """A block's (offset, size), and the position after them."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return (offset, size), position


def _read_block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block, _ = read_bytes(data, offset, size + TRAILER_BYTES)
    compression, stored_crc = block[size], int.from_bytes(block[size + 1 :], "little")
    if masked_crc32c(block[: size + 1]) != stored_crc:
        raise ValueError(f"the block at byte {offset} does not match its checksum")
    if compression != NO_COMPRESSION:
        method = "Snappy" if compression == SNAPPY else f"method {compression}"
        raise ValueError(f"the block at byte {offset} is compressed with {method}, which is not supported")
    yield from _read_entries(block[:size])


def _read_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Entries, then an array of 32-bit restart points (for binary search, unused here), then its length."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise ValueError(f"{restarts} restart points do not fit in a block of {len(block)} bytes")
    entries = block[:end]
    position, key = 0, b""
    while position < end:
        shared, position = read_varint(entries, position)
        unshared, position = read_varint(entries, position)
        value_size, position = read_varint(entries, position)
        if shared > len(key) or shared + unshared > MAX_KEY_BYTES:
            raise ValueError(f"a key shares {shared} of {shared + unshared} bytes with one of {len(key)}")
        rest, position = read_bytes(entries, position, unshared)
        key = key[:shared] + rest
        value, position = read_bytes(entries, position, value_size)
        yield key, value


def _crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_CRC_TABLE = tuple(_crc_of_byte(byte) for byte in range(256))
