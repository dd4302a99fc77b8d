"""Questions of a pattern's own, and members that answer them in a structure: the schema that goes with a question, and
what is made of an answer.

The schema travels in the metadata `response_schema`; the ready LLM agents follow it, any other agent may answer such a
JSON object by itself. Above: the patterns that ask for decisions, plans and scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from aixgo.asked import RESPONSE_SCHEMA, for_members, unfenced
from aixgo.errors import InvalidCompletion, InvalidMessage, InvalidReply
from aixgo.llm.structured import strict_schema
from aixgo.message import Message, Payload, from_json, new_id
from aixgo.orchestration.base import name_of

if TYPE_CHECKING:
    from aixgo.orchestration.base import Member, MemberCalls

ModelT = TypeVar("ModelT", bound=BaseModel)

FAULT = "fault"
"""The key, in the metadata of a question that is no text, of what was wrong with the last answer."""
ATTEMPTS = 2
"""How often a member is asked before its answer counts as unusable."""

_CUT = 200


def question(message: Message, payload: Payload) -> Message:
    """What a pattern asks about `message` in its own words. It has an id of its own: sessions keep one exchange for
    each id.
    """
    return message.with_(payload=payload, id=new_id())


async def ask(
    calls: MemberCalls,
    member: Member,
    message: Message,
    schema: type[ModelT],
    *,
    number: int | None = None,
    read: Callable[[Message], ModelT] | None = None,
) -> tuple[ModelT, Message]:
    """A member's answer as `schema`, and its reply; with `number` in a span `step.{number}.{member}`.

    `read` makes the answer of a reply, else `read_answer` does; it raises InvalidReply. An answer that does not fit is
    told what is wrong with it and asked for once more; then InvalidReply is raised, with `fields["step"]`.
    """
    first = asked = for_members(message).with_metadata(**{RESPONSE_SCHEMA: _json_schema(schema)})
    for attempt in range(1, ATTEMPTS + 1):
        try:
            reply = await (calls.call(member, asked) if number is None else calls.step(number, member, asked))
            return (read_answer(reply, schema) if read is None else read(reply)), reply
        except (InvalidReply, InvalidCompletion) as error:
            if error.agent_path and error.agent_path[-1] != name_of(member):
                raise  # the member's own members failed it, and it has asked them again itself
            if attempt == ATTEMPTS:
                raise _unusable(member, schema, number, error) from error
            asked = _again(first, error)
    raise AssertionError("the last attempt returns or raises")


@lru_cache(maxsize=128)
def _json_schema(schema: type[BaseModel]) -> Mapping[str, Any]:
    """A model's schema as it is sent; kept, because making one takes half a millisecond."""
    return strict_schema(schema.model_json_schema())


def read_answer(reply: Message, schema: type[ModelT]) -> ModelT:
    """A reply's payload as `schema`: a JSON value, or text or bytes that hold one. Raises InvalidReply."""
    payload = reply.payload
    try:
        if isinstance(payload, (str, bytes)):
            text = payload if isinstance(payload, str) else payload.decode(errors="replace")
            payload = from_json(unfenced(text).encode(errors="replace"))
        return schema.model_validate(payload)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:5])
        raise InvalidReply(f"it is no {schema.__name__}: {faults}") from error
    except InvalidMessage as error:
        raise InvalidReply(f"a JSON object was asked for, and the answer is {reply.text[:_CUT]!r}") from error


def _again(asked: Message, error: InvalidReply | InvalidCompletion) -> Message:
    """The question with what was wrong: in its text, or beside a payload that is data."""
    told = f"Your last answer could not be used: {error.message}"
    if isinstance(asked.payload, str):
        return asked.with_(payload=f"{asked.payload}\n\n{told}")
    return asked.with_metadata(**{FAULT: told})


def _unusable(
    member: Member, schema: type[BaseModel], number: int | None, error: InvalidReply | InvalidCompletion
) -> InvalidReply:
    fields = ", ".join(schema.model_fields)
    return InvalidReply(
        f"agent {name_of(member)!r} was asked {ATTEMPTS} times for a JSON object with {fields}: {error.message}",
        fields={} if number is None else {"step": number},
    )
