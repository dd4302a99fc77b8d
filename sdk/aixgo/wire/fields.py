"""Fields of protobuf messages, written by hand: for frames and tokens, which are made too often to be objects first;
and counted, before a parser makes objects of all of them.

Pure. Above it lie the codec and the session protocol. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

_VARINT, _LENGTH_DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
"""Bytes of a field by its wire type."""
_GROUPS = (3, 4)
"""The beginning and the end of a group, whose fields lie between."""


def header(key: int, size: int) -> bytes:
    """What stands before the `size` bytes of a length-delimited field: its key (below 128) and the size as a varint."""
    if size < 1 << 7:
        return bytes((key, size))
    if size < 1 << 14:
        return bytes((key, size & 127 | 128, size >> 7))
    return bytes((key,)) + varint(size)


def varint(number: int) -> bytes:
    """A whole number, 0 or more: seven bits a byte, the lowest first; the eighth bit says that more bytes follow."""
    if number < 1 << 14:
        return bytes((number,)) if number < 1 << 7 else bytes((number & 127 | 128, number >> 7))
    if number < 1 << 21:
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def has_more_fields(data: bytes, most: int) -> bool:
    """Whether an encoded message has more than `most` fields of its own, those inside them not counted.

    What is no protobuf is for the parser to refuse: then the count ends.
    """
    at, count = 0, 0
    try:
        while at < len(data):
            if count == most:
                return True
            at = _after(data, at)
            count += 1
    except (IndexError, ValueError):
        return False
    return False


def _after(data: bytes, at: int) -> int:
    """Where the field that begins at `at` ends. Raises IndexError and ValueError for what is none."""
    key, at = _read_varint(data, at)
    kind = key & 7
    if kind == _LENGTH_DELIMITED:
        size, at = _read_varint(data, at)
        return at + size
    if kind == _VARINT:
        return _read_varint(data, at)[1]
    if kind in _FIXED:
        return at + _FIXED[kind]
    if kind in _GROUPS:
        return at
    raise ValueError(f"{kind} is no wire type")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise ValueError("a varint has at most 10 bytes")
