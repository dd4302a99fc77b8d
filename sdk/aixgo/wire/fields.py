"""Fields of protobuf messages written by hand: for frames and tokens, which are made too often to be objects first.

Pure. Above it lie the codec and the session protocol. https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations


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
