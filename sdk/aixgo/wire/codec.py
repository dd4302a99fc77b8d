"""Messages, usage, errors, events and call contexts as the protobuf messages of aixgo.v1, and back.

Pure mapping, on the hot path of every remote call. Above it lie the transports and the servicers; errors become gRPC
statuses in `status.py`. Below it, `values.py` bounds JSON and metadata.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, cast

from aixgo.call import Budget, CallState
from aixgo.errors import AixgoError, InternalError, InvalidMessage, class_name, find_class, rebuild
from aixgo.events import Delta, Event, MemberFinished, MemberStarted, Result, ToolCall
from aixgo.message import JSON, NO_METADATA, Message, Payload, from_json, new_id, to_json
from aixgo.usage import NO_USAGE, Usage
from aixgo.v1 import types_pb2 as pb
from aixgo.wire.fields import header
from aixgo.wire.values import read_json, read_metadata, write_json, write_metadata

MAX_ERROR_TEXT = 2048
"""Bytes of an error's text on the wire; longer ones are cut, since they travel in HTTP/2 headers of limited size."""
MAX_ERROR_FIELDS = 1536
"""Bytes of an error's fields on the wire; larger ones are cut."""
_CUTS = ((100, 200), (30, 100), (20, 40), (10, 40), (5, 20))
"""Entries of a list or object, and bytes of a text, that are kept of fields that are too long; tried in order."""
MAX_ERROR_CLASS = 256
"""Bytes of an error's class on the wire."""
MAX_ERROR_PATH = 1024
"""Bytes of an error's path on the wire; of a longer one the middle is left out."""
KEPT_PATHS = 128
"""Paths of agents whose encoding is kept: those of the streams that were written last."""
MAX_USD = 10**12
"""The largest amount that is believed; sums of such amounts stay exact."""
MAX_USD_TEXT, USD_DIGITS = 64, 40
"""Characters of an amount, and digits after its point: written out, 1e-999999 would have a million of them."""
_DELTA, _TEXT = 2 << 3 | 2, 1 << 3 | 2
"""The keys of `delta` in Event (field 2) and of `text` in Delta (field 1), both length-delimited."""
_ID, _PAYLOAD = 1 << 3 | 2, 2 << 3 | 2
"""The keys of `id` and `text` in Message (fields 1 and 2), both length-delimited."""
_SHORT_DELTAS = tuple(bytes((_DELTA, size + 2, _TEXT, size)) for size in range(126))
"""What stands before a text of so many bytes where one byte tells each size, as for nearly every Delta."""


def encode_message(message: Message) -> pb.Message:
    """A message for the wire.

    Raises InvalidMessage for what is neither JSON nor Unicode text, nested too deep, or metadata of too many entries;
    and MessageTooLarge for metadata of too many bytes.
    """
    out = pb.Message()
    fill_message(out, message)
    return out


def message_bytes(message: Message) -> bytes:
    """`encode_message`, serialised. A text and nothing else, as most replies are, becomes no object before."""
    payload = message.payload
    more = message.metadata or message.session_id or message.usage is not NO_USAGE
    if more or not isinstance(payload, str):
        return encode_message(message).SerializeToString()
    try:
        name, text = message.id.encode(), payload.encode()
    except UnicodeEncodeError as error:
        raise _no_text(error) from error
    return b"".join((header(_ID, len(name)), name, header(_PAYLOAD, len(text)), text))


def fill_message(out: pb.Message, message: Message) -> None:
    """Write a message into one of the wire, which spares a copy; raises what `encode_message` does."""
    payload = message.payload
    try:
        out.id = message.id
        if isinstance(payload, str):
            out.text = payload
        elif isinstance(payload, bytes):
            out.data = payload
        else:
            out.json = write_json(payload, "payload")
        if message.session_id:
            out.session_id = message.session_id
    except UnicodeEncodeError as error:
        raise _no_text(error) from error
    if message.metadata:
        out.metadata = write_metadata(message.metadata)
    if message.usage is not NO_USAGE:
        out.usage.CopyFrom(encode_usage(message.usage))


def decode_message(data: pb.Message, *, usage_counts: bool = True) -> Message:
    """A message from the wire; raises InvalidMessage when its JSON is broken or too deep, or its metadata no object
    within the limits.

    With `usage_counts=False` its usage is left out: that of requests, which only servers may write.
    """
    payload: Payload = data.text
    if not payload:  # most messages have a text, and asking for the kind takes as long as for the text
        kind = data.WhichOneof("payload")
        payload = read_json(data.json, "payload") if kind == "json" else data.data if kind == "data" else ""
    written = data.metadata
    metadata = read_metadata(written) if written else NO_METADATA
    usage = decode_usage(data.usage) if usage_counts and data.HasField("usage") else NO_USAGE
    return Message(payload, metadata, data.session_id, usage, data.id or new_id())


def encode_usage(usage: Usage) -> pb.Usage:
    """Usage for the wire."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        llm_calls=usage.llm_calls,
        cost_usd="" if usage.cost_usd is None else f"{usage.cost_usd:f}",
        unpriced_calls=usage.unpriced_calls,
        incomplete=usage.incomplete,
        cache_write_tokens=usage.cache_write_tokens,
        unsettled_tokens=usage.unsettled_tokens,
        unsettled_usd=f"{usage.unsettled_usd:f}" if usage.unsettled_usd else "",
    )


def decode_usage(data: pb.Usage) -> Usage:
    """Usage from the wire; NO_USAGE itself when it is empty. Raises InvalidMessage for what is below nothing."""
    usage = Usage(
        data.prompt_tokens,
        data.completion_tokens,
        data.cached_tokens,
        data.reasoning_tokens,
        data.llm_calls,
        decode_usd(data.cost_usd),
        data.unpriced_calls,
        data.incomplete,
        data.cache_write_tokens,
        data.unsettled_tokens,
        decode_usd(data.unsettled_usd, "unsettled_usd") or Decimal(),
    )
    if usage == NO_USAGE:
        return NO_USAGE
    counts = (usage.prompt_tokens, usage.completion_tokens, usage.llm_calls, usage.unpriced_calls)
    if min(*counts, usage.unsettled_tokens) < 0:
        raise InvalidMessage("usage has numbers below 0; send what was spent")
    return usage


def decode_usd(text: str, field: str = "cost_usd") -> Decimal | None:
    """USD from their decimal string; None for the empty one. Raises InvalidMessage for what is no number."""
    if not text:
        return None
    try:
        usd = Decimal(text[: MAX_USD_TEXT + 1])
    except InvalidOperation as error:
        raise InvalidMessage(f"{field} is {text[:40]!r}; send a decimal number like 0.0125") from error
    if len(text) > MAX_USD_TEXT or not usd.is_finite() or not 0 <= usd <= MAX_USD:
        raise InvalidMessage(f"{field} is {text[:40]!r}; send a decimal number from 0 to {MAX_USD:,}")
    if -int(usd.as_tuple().exponent) > USD_DIGITS:
        raise InvalidMessage(f"{field} is {text!r}; send at most {USD_DIGITS} digits after the point")
    return usd


def fill_context(
    context: pb.CallContext, state: CallState, call_id: str, timeout: float, granted: Budget | None
) -> None:
    """Write into `context` what a callee inherits. `state` is the entry of the call, its caller one level above."""
    context.call_id = call_id
    context.timeout_ms = max(1, int(timeout * 1000))
    if state.depth > 1:
        context.depth = state.depth - 1
        context.agent_path[:] = state.path[:-1]
    if state.session_id:
        context.session_id = state.session_id
    if granted is not None:
        context.grant.CopyFrom(encode_grant(granted))


def encode_grant(budget: Budget) -> pb.Grant:
    """What is left of a budget, for a callee to spend."""
    tokens, usd = budget.left()
    grant = pb.Grant()
    if tokens is not None:
        grant.tokens = max(0, tokens)
    if usd is not None:
        grant.cost_usd = f"{max(Decimal(), usd):f}"
    return grant


def decode_grant(context: pb.CallContext) -> Budget | None:
    """The budget that a caller grants; None when it sets no limit."""
    if not context.HasField("grant"):
        return None
    grant = context.grant
    if grant.tokens < 0:
        raise InvalidMessage(f"grant.tokens is {grant.tokens}; send 0 or more, or leave it out for no limit")
    usd = decode_usd(grant.cost_usd) if grant.HasField("cost_usd") else None
    return Budget(grant.tokens if grant.HasField("tokens") else None, usd)


def encode_error(error: AixgoError) -> pb.Error:
    """An error for the wire, its text and fields cut to what fits into headers."""
    fields = b""
    if error.fields:
        try:
            fields = to_json(error.fields)
        except InvalidMessage:
            fields = to_json({key: _printed(value) for key, value in error.fields.items()})
    return pb.Error(
        code=error.code,
        message=cut(error.message, MAX_ERROR_TEXT),
        error_class=cut(class_name(type(error)), MAX_ERROR_CLASS),
        agent_path=_short(error.agent_path),
        usage=None if error.usage is NO_USAGE else encode_usage(error.usage),
        not_accepted=not error.accepted,
        retry_after_ms=int((error.retry_after or 0) * 1000),
        fields=fields if len(fields) <= MAX_ERROR_FIELDS else _fitted(from_json(fields)),
    )


def _printed(value: object) -> str:
    try:
        return repr(value)[:200]
    except RecursionError:
        return f"a {type(value).__name__} too deep to print"


def _fitted(fields: JSON) -> bytes:
    """Fields that are too long with their texts cut, and only the first entries of long lists and objects."""
    for entries, characters in _CUTS:
        made = to_json(_shortened(fields, entries, characters))
        if len(made) <= MAX_ERROR_FIELDS:
            return made
    return b""


def _shortened(value: Any, entries: int, characters: int) -> Any:
    if isinstance(value, str):
        return cut(value, characters)
    if isinstance(value, list):
        return [_shortened(each, entries, characters) for each in cast("list[Any]", value)[:entries]]
    if isinstance(value, dict):
        kept = list(cast("dict[str, Any]", value).items())[:entries]
        return {key: _shortened(each, entries, characters) for key, each in kept}
    return value


def decode_error(data: pb.Error) -> AixgoError:
    """The error of the class that was raised on the other side."""
    fields: JSON = {}
    if data.fields:
        try:
            fields = from_json(data.fields)
        except InvalidMessage:
            fields = {}
    error = rebuild(
        find_class(data.error_class, data.code),
        data.message,
        data.retry_after_ms / 1000 if data.retry_after_ms else None,
        fields if isinstance(fields, dict) else {},
        tuple(data.agent_path),
        _error_usage(data),
    )
    error.accepted = not data.not_accepted
    return error


def encode_event(event: Event) -> pb.Event:
    """An event for the wire; raises InvalidMessage for what is neither JSON nor Unicode text."""
    try:
        return _encode_event(event)
    except UnicodeEncodeError as error:
        raise _no_text(error) from error


def event_bytes(event: Event) -> bytes:
    """`encode_event`, serialised. A Delta, of which most of every stream is made, becomes no object before."""
    if not isinstance(event, Delta):
        return encode_event(event).SerializeToString()
    try:
        path, text = _path_bytes(tuple(event.path)), event.text.encode()
    except UnicodeEncodeError as error:
        raise _no_text(error) from error
    size = len(text)
    if size < len(_SHORT_DELTAS):
        return path + _SHORT_DELTAS[size] + text
    delta = header(_TEXT, size) + text
    return path + header(_DELTA, len(delta)) + delta


@lru_cache(KEPT_PATHS)
def _path_bytes(path: tuple[str, ...]) -> bytes:
    return pb.Event(agent_path=path).SerializeToString()


def _encode_event(event: Event) -> pb.Event:
    out = pb.Event(agent_path=event.path)
    if isinstance(event, Delta):
        out.delta.text = event.text
    elif isinstance(event, Result):
        fill_message(out.result.message, event.message)
    elif isinstance(event, ToolCall):
        out.tool_call.CopyFrom(_encode_tool_call(event))
    elif isinstance(event, MemberStarted):
        out.member_started.SetInParent()
    else:
        out.member_finished.CopyFrom(_encode_member_finished(event))
    return out


def decode_event(data: pb.Event, path: tuple[str, ...] = ()) -> Event:
    """An event from the wire; raises InternalError for a kind that this version does not know.

    `path` is the one that it is likely to have, and which then need not be read: that of the event before.
    """
    told = data.agent_path
    if told != list(path):  # it equals no tuple
        path = tuple(told)
    if data.HasField("delta"):
        return Delta(data.delta.text, path)
    kind = data.WhichOneof("kind")
    if kind == "result":
        return Result(decode_message(data.result.message), path)
    if kind == "tool_call":
        return _decode_tool_call(data.tool_call, path)
    if kind == "member_started":
        return MemberStarted(path)
    if kind == "member_finished":
        return _decode_member_finished(data.member_finished, path)
    raise InternalError("an event of a kind that this version of aixgo does not know; update the caller")


def cut(text: str, limit: int) -> str:
    """`text` cut to `limit` bytes of UTF-8, with an ellipsis when something was cut; what is no Unicode becomes "?"."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    return encoded[: limit - 3].decode(errors="ignore") + "…"


def _error_usage(data: pb.Error) -> Usage:
    """What a failed call spent. A number that cannot be read must not hide the error that it came with."""
    try:
        return decode_usage(data.usage) if data.HasField("usage") else NO_USAGE
    except InvalidMessage:
        return Usage(incomplete=True)


def _no_text(error: UnicodeEncodeError) -> InvalidMessage:
    return InvalidMessage(f"not Unicode text: {error.reason} at {error.start}; send bytes instead")


def _short(path: tuple[str, ...]) -> tuple[str, ...]:
    if sum(len(name.encode(errors="replace")) for name in path) <= MAX_ERROR_PATH:
        return path
    return (cut(path[0], MAX_ERROR_PATH // 4), "…", cut(path[-1], MAX_ERROR_PATH // 4))


def _encode_member_finished(event: MemberFinished) -> pb.MemberFinished:
    if event.error is not None:
        return pb.MemberFinished(error=encode_error(event.error), instance_id=event.instance_id)
    return pb.MemberFinished(message=encode_message(event.message or Message()), instance_id=event.instance_id)


def _decode_member_finished(data: pb.MemberFinished, path: tuple[str, ...]) -> MemberFinished:
    if data.WhichOneof("outcome") == "error":
        return MemberFinished(error=decode_error(data.error), path=path, instance_id=data.instance_id)
    return MemberFinished(decode_message(data.message), path=path, instance_id=data.instance_id)


def _encode_tool_call(event: ToolCall) -> pb.ToolCall:
    return pb.ToolCall(
        id=event.id,
        name=event.name,
        arguments=write_json(event.arguments, "tool_call.arguments"),
        output=write_json(event.output, "tool_call.output") if event.done and not event.error else b"",
        error=event.error,
        done=event.done,
    )


def _decode_tool_call(data: pb.ToolCall, path: tuple[str, ...]) -> ToolCall:
    arguments = read_json(data.arguments, "tool_call.arguments") if data.arguments else {}
    output = read_json(data.output, "tool_call.output") if data.output else None
    return ToolCall(
        data.id, data.name, arguments if isinstance(arguments, dict) else {}, output, data.error, data.done, path
    )
