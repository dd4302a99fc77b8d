"""What agents exchange: a frozen Message with a payload, metadata, a session and the usage that it cost.

Part of the core: no I/O. In one process a message is passed as it is; `aixgo.wire.codec` carries it between processes.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import orjson

from aixgo.errors import InvalidMessage
from aixgo.usage import NO_USAGE, Usage

if TYPE_CHECKING:  # pydantic takes 0.15 s to import, and only users of models need it here
    from pydantic import BaseModel

JSON: TypeAlias = "str | int | float | bool | list[Any] | dict[str, Any] | None"
Payload: TypeAlias = "bytes | JSON"
ModelT = TypeVar("ModelT", bound="BaseModel")

_PAYLOAD_TYPES = (str, bytes, dict, list, int, float, bool, type(None))
NO_METADATA: Mapping[str, Any] = MappingProxyType({})


def new_id() -> str:
    """A new unique id: 128 random bits as 32 hexadecimal digits."""
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One message. It is frozen; `with_` makes a changed copy.

    `payload` is text, bytes or a JSON value; `metadata` a JSON object. `usage` is what producing the message cost: the
    runtime writes it on replies, and removes it from requests. A payload of another type, or metadata that is no
    mapping, raises InvalidMessage here; values nested deeper are checked where the message leaves the process.
    """

    payload: Payload
    metadata: Mapping[str, Any]
    session_id: str
    usage: Usage
    id: str

    def __init__(  # by hand: every call over the network makes two, and the generated one takes half as long again
        self,
        payload: Payload = "",
        metadata: Mapping[str, Any] = NO_METADATA,
        session_id: str = "",
        usage: Usage = NO_USAGE,
        id: str | None = None,  # noqa: A002  # the field's name
    ) -> None:
        if type(payload) not in _PAYLOAD_TYPES:
            raise InvalidMessage(
                f"payload is a {type(payload).__name__}; pass str, bytes or a JSON value"
                " (for a pydantic model: Message.from_model)"
            )
        if type(metadata) is not MappingProxyType:
            if not isinstance(metadata, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may err
                raise InvalidMessage(f"metadata is a {type(metadata).__name__}; pass a dict")
            metadata = MappingProxyType(dict(metadata))
        _set_payload(self, payload)
        _set_metadata(self, metadata)
        _set_session_id(self, session_id)
        _set_usage(self, usage)
        _set_id(self, new_id() if id is None else id)

    @classmethod
    def of(cls, content: Message | Payload) -> Message:
        """`content` itself when it is a message, else a new message with that payload."""
        return content if isinstance(content, Message) else cls(content)

    @classmethod
    def from_model(cls, model: BaseModel, **metadata: Any) -> Message:
        """A message whose payload is the JSON object of a pydantic model."""
        return cls(model.model_dump(mode="json"), metadata)

    @property
    def text(self) -> str:
        """The payload as text: itself, UTF-8 of bytes, or compact JSON."""
        if isinstance(self.payload, str):
            return self.payload
        if isinstance(self.payload, bytes):
            return self.payload.decode(errors="replace")
        return to_json(self.payload).decode()

    @property
    def json(self) -> JSON:
        """The payload as a JSON value, as metadata and other messages may hold it: itself, or bytes as base64."""
        return b64encode(self.payload).decode() if isinstance(self.payload, bytes) else self.payload

    def model(self, cls: type[ModelT]) -> ModelT:
        """The payload as a pydantic model; raises InvalidMessage, naming the fields that do not fit."""
        from pydantic import ValidationError

        try:
            if isinstance(self.payload, (str, bytes)):
                return cls.model_validate_json(self.payload)
            return cls.model_validate(self.payload)
        except ValidationError as error:
            where = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'payload'}: {e['msg']}" for e in error.errors())
            raise InvalidMessage(f"the payload is not a {cls.__name__}: {where}") from error

    def with_(self, **changes: Any) -> Message:
        """A copy with some fields changed: `message.with_(payload="...", session_id="...")`."""
        return replace(self, **changes)

    def with_metadata(self, **entries: Any) -> Message:
        """A copy with these metadata entries added or replaced."""
        return replace(self, metadata={**self.metadata, **entries})

    def without_metadata(self, *keys: str) -> Message:
        """A copy without these metadata entries; itself when it has none of them."""
        if not any(key in self.metadata for key in keys):
            return self
        return replace(self, metadata={key: value for key, value in self.metadata.items() if key not in keys})


_slots: Any = Message.__dict__
_set_payload, _set_metadata, _set_session_id, _set_usage, _set_id = (
    _slots[name].__set__ for name in ("payload", "metadata", "session_id", "usage", "id")
)
"""What writes the fields of a frozen message, in two thirds of the time that `object.__setattr__` takes."""


def to_json(value: Any) -> bytes:
    """`value` as UTF-8 JSON; raises InvalidMessage, saying what is not JSON."""
    try:
        return orjson.dumps(value, default=_plain)
    except orjson.JSONEncodeError as error:
        raise InvalidMessage(f"not a JSON value: {error}") from error


def from_json(data: bytes) -> JSON:
    """The JSON value of UTF-8 `data`; raises InvalidMessage, saying where it is broken."""
    try:
        return cast("JSON", orjson.loads(data))
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"not valid JSON: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    raise TypeError(f"a {type(value).__name__} is not JSON")
