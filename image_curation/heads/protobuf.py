"""Turns protocol buffer bytes into numbered fields, and refuses whatever runs over its end.

Only what the reader of TensorFlow files needs, after the encoding rules at protobuf.dev/programming-guides/encoding.
Malformed bytes raise ValueError; the module that knows the file's name makes a WeightsError of it.
"""

Message = dict[int, list[int | bytes]]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The unsigned 64-bit number that starts at `position`, and the position after it.

    Raises:
        ValueError: the number does not end within `data` or within ten bytes.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise ValueError(f"a number runs over the end at byte {position}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise ValueError(f"a number of more than ten bytes ends at byte {position}")


def read_bytes(data: bytes, position: int, size: int) -> tuple[bytes, int]:
    """The `size` bytes that start at `position`, and the position after them.

    Raises:
        ValueError: `data` ends before.
    """
    end = position + size
    if end > len(data):
        raise ValueError(f"bytes {position} to {end} run over the end at {len(data)}")
    return data[position:end], end


def read_message(data: bytes) -> Message:
    """A message's fields: field number -> its values in order, an int (varint, fixed) or bytes (string, message).

    Raises:
        ValueError: the bytes are no message.
    """
    message: Message = {}
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        value, position = _read_value(data, position, tag & 7)
        message.setdefault(tag >> 3, []).append(value)
    return message


def integer(message: Message, number: int) -> int:
    """The value of a numeric field: the last one written, 0 where the field is absent.

    Raises:
        ValueError: the field holds bytes.
    """
    value = message.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} holds bytes where a number belongs")
    return value


def chunks(message: Message, number: int) -> list[bytes]:
    """All values of a field of strings, bytes or messages.

    Raises:
        ValueError: the field holds a number.
    """
    values = message.get(number, [])
    found = [value for value in values if isinstance(value, bytes)]
    if len(found) != len(values):
        raise ValueError(f"field {number} holds a number where bytes belong")
    return found


def _read_value(data: bytes, position: int, wire_type: int) -> tuple[int | bytes, int]:
    if wire_type == VARINT:
        return read_varint(data, position)
    if wire_type == BYTES:
        size, position = read_varint(data, position)
        return read_bytes(data, position, size)
    if wire_type in FIXED_SIZES:
        raw, position = read_bytes(data, position, FIXED_SIZES[wire_type])
        return int.from_bytes(raw, "little"), position
    raise ValueError(f"unknown wire type {wire_type} before byte {position}")
