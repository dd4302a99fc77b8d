"""JSON values and metadata on the wire, within limits on their depth, number and size.

Pure mapping. What is too much is refused on both sides by the name of its field: before it is sent, and where it
comes in, whoever has sent it. Above it lies the codec; below it `aixgo.message`, which knows JSON alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aixgo.errors import InvalidMessage, MessageTooLarge
from aixgo.message import JSON, NO_METADATA, from_json, to_json

MAX_JSON_DEPTH = 254
"""Lists and objects inside one another: as deep as orjson writes them, so that what is read can be sent on."""
MAX_METADATA_ENTRIES = 1_000
"""Entries of a message's metadata, those inside of entries not counted."""
MAX_METADATA_BYTES = 2 * 1024 * 1024
"""Bytes of a message's metadata as JSON: half of a message of the default size. Conversations and results go in it."""

_TOO_DEEP = ("recursion limit", "depth limit")
"""What orjson says of a value that is nested deeper than it writes, or reads."""
_LISTS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))


def write_json(value: Any, field: str) -> bytes:
    """`value` as JSON. Raises InvalidMessage, naming the field, for what is not JSON or nested too deep."""
    try:
        return to_json(value)
    except InvalidMessage as error:
        raise _named(error, field) from error


def read_json(data: bytes, field: str) -> JSON:
    """The value of JSON. Raises InvalidMessage, naming the field, for what is broken or nested too deep."""
    try:
        value = from_json(data)
    except InvalidMessage as error:
        raise _named(error, field) from error
    if nested_deeper(data, MAX_JSON_DEPTH):
        raise _too_deep(field)
    return value


def write_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Metadata as JSON. Raises InvalidMessage for what `write_json` refuses and too many entries; MessageTooLarge."""
    _check_entries(metadata)
    data = write_json(metadata, "metadata")
    check_metadata_bytes(data)
    return data


def read_metadata(data: bytes) -> Mapping[str, Any]:
    """The metadata of JSON. Raises InvalidMessage for no object, too many entries or bytes, and broken JSON."""
    if not data:
        return NO_METADATA
    try:
        check_metadata_bytes(data)
    except MessageTooLarge as error:  # whoever reads it has not sent it, and a letter that is kept cannot get smaller
        raise InvalidMessage(error.message, fields=error.fields) from error
    metadata = read_json(data, "metadata")
    if not isinstance(metadata, dict):
        raise InvalidMessage("metadata is no JSON object; send an object, or leave it empty")
    _check_entries(metadata)
    return metadata


def check_metadata_bytes(data: bytes) -> None:
    """Raise MessageTooLarge when metadata, as JSON, has more bytes than are allowed."""
    if len(data) > MAX_METADATA_BYTES:
        raise MessageTooLarge(
            f"metadata has {len(data)} bytes and {MAX_METADATA_BYTES} are allowed; send what is large as the payload",
            fields={"field": "metadata", "limit": MAX_METADATA_BYTES},
        )


def nested_deeper(data: bytes, limit: int) -> bool:
    """Whether valid JSON has more than `limit` lists and objects inside one another.

    Only its brackets are looked at, those in texts left out, and each pass takes away the innermost ones.
    """
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(_LISTS, _NO_MARKS).replace(b'""', b"")  # a text without brackets, or one's end and another's
    if b'"' in marks:
        marks = b"".join(marks.split(b'"')[::2])
    for _ in range(limit):
        if not marks:
            return False
        marks = marks.replace(b"[]", b"")
    return bool(marks)


def _check_entries(metadata: Mapping[str, Any]) -> None:
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise InvalidMessage(
            f"metadata has {len(metadata)} entries and {MAX_METADATA_ENTRIES} are allowed; put them into one of them",
            fields={"field": "metadata", "limit": MAX_METADATA_ENTRIES},
        )


def _named(error: InvalidMessage, field: str) -> InvalidMessage:
    """The same refusal, naming the field."""
    said = error.message.lower()
    if any(sign in said for sign in _TOO_DEEP):
        return _too_deep(field)
    return InvalidMessage(f"{field}: {error.message}", fields={"field": field})


def _too_deep(field: str) -> InvalidMessage:
    return InvalidMessage(
        f"{field} has more than {MAX_JSON_DEPTH} lists and objects inside one another; flatten it, or send it as text",
        fields={"field": field, "limit": MAX_JSON_DEPTH},
    )
