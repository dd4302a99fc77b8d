"""Replies and events as a terminal or a script reads them.

Owns the form of `--json` output: a reply is one object, a stream is one object a line. Above: `run` and `call`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import click
from aixgo.errors import BudgetExceeded
from aixgo.events import Delta, MemberFinished, MemberStarted, Result, ToolCall

from aixgo_services.cli.failures import failure

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from aixgo.errors import AixgoError
    from aixgo.events import Event
    from aixgo.message import Message
    from aixgo.runtime.contract import EventStream
    from aixgo.usage import Usage

_MILLIONTH = Decimal("0.000001")
_MAX_SHARE = 200


def message_json(message: Message) -> dict[str, Any]:
    """A message as a JSON object; bytes are base64 under `data` instead of `payload`."""
    told: dict[str, Any] = {"id": message.id}
    if isinstance(message.payload, bytes):
        from base64 import b64encode  # rare

        told["data"] = b64encode(message.payload).decode()
    else:
        told["payload"] = message.payload
    told["metadata"] = dict(message.metadata)
    if message.session_id:
        told["session_id"] = message.session_id
    return told | {"usage": usage_json(message.usage)}


def usage_json(usage: Usage) -> dict[str, Any]:
    """Usage as a JSON object; `cost_usd` is a decimal string, or null when no price is known.

    What stands for nothing in most calls (caches, reasoning, losses) is there where it is something.
    """
    rare = {
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "unpriced_calls": usage.unpriced_calls,
        "unsettled_tokens": usage.unsettled_tokens,
        "unsettled_usd": f"{usage.unsettled_usd:f}" if usage.unsettled_usd else None,
    }
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "llm_calls": usage.llm_calls,
        "cost_usd": None if usage.cost_usd is None else f"{usage.cost_usd:f}",
        "at_least": usage.at_least,
    } | {name: value for name, value in rare.items() if value}


def event_json(event: Event) -> dict[str, Any]:
    """An event as a JSON object: `event` names its kind, `path` the agents from the root down."""
    told: dict[str, Any] = {"event": type(event).__name__, "path": list(event.path)}
    if isinstance(event, Delta):
        return told | {"text": event.text}
    if isinstance(event, ToolCall):
        used = {"id": event.id, "name": event.name, "arguments": dict(event.arguments)}
        return told | used | {"output": event.output, "error": event.error, "done": event.done}
    if isinstance(event, Result):
        return told | {"message": message_json(event.message)}
    if isinstance(event, MemberFinished):
        if event.error is not None:
            return told | {"error": failure(event.error)}
        return told | {"message": None if event.message is None else message_json(event.message)}
    return told


def show_reply(message: Message, *, as_json: bool) -> None:
    """Print a reply: its text on stdout and what it took on stderr, or one JSON object."""
    if as_json:
        click.echo(_line(message_json(message)))
        return
    payload = message.payload
    pretty = isinstance(payload, (dict, list))
    click.echo(json.dumps(payload, indent=2, ensure_ascii=False) if pretty else message.text)
    show_cost(message.usage)


def show_cost(usage: Usage) -> None:
    """Print tokens and USD on stderr, when there were any."""
    if usage.llm_calls or usage.incomplete:
        tokens = f"{'at least ' * usage.incomplete}{usage.total_tokens} tokens"
        text = f"{usage.llm_calls} LLM calls, {tokens}, {cost_text(usage)}"
        if usage.unsettled_tokens:
            text += f"; calls that were lost may have spent {usage.unsettled_tokens} tokens more"
        click.echo(click.style(text, dim=True), err=True)


def show_spent(error: AixgoError) -> None:
    """Print on stderr what a failed call had spent; of a budget that did not suffice also who spent how much of it."""
    show_cost(error.usage)
    if isinstance(error, BudgetExceeded):
        for name, share in _object(error.fields.get("spent")).items():
            click.echo(click.style(f"  {_share(name, _object(share))}", dim=True), err=True)


def _object(value: Any) -> Mapping[str, Any]:
    """A JSON object, and an empty one for anything else: an error's fields are what some process wrote into them."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _share(name: str, told: Mapping[str, Any]) -> str:
    """What one agent spent, as one line that a terminal may print."""
    line = f"{name}: {told.get('tokens', 'unknown')} tokens, ${told.get('cost_usd', ' unknown')}"
    return "".join(letter if letter.isprintable() else "?" for letter in line)[:_MAX_SHARE]


def cost_text(usage: Usage) -> str:
    """The USD of some usage for people, to a millionth, and whether they are a lower bound."""
    if usage.cost_usd is None:
        return "cost unknown"
    if 0 < usage.cost_usd < _MILLIONTH and not usage.at_least:
        return f"less than ${_MILLIONTH}"
    rounded = f"{usage.cost_usd.quantize(_MILLIONTH):f}".rstrip("0").rstrip(".")
    return f"{'at least ' * usage.at_least}${rounded}"


async def show_stream(stream: AbstractAsyncContextManager[EventStream], *, as_json: bool) -> None:
    """Print events as they come; for people the text of one agent at a time, then the reply."""
    lines = Lines()
    async with stream as events:
        async for event in events:
            if as_json:
                click.echo(_line(event_json(event)))
            else:
                lines.show(event)


class Lines:
    """Events as lines of text: who starts and ends on stderr, what is said on stdout."""

    def __init__(self) -> None:
        self._speaker: tuple[str, ...] = ()
        self._open = False
        self._said = ""

    def show(self, event: Event) -> None:
        """Print one event."""
        if isinstance(event, Delta):
            self._delta(event)
        elif isinstance(event, Result):
            self._result(event.message)
        else:
            self._note(event)

    def _delta(self, event: Delta) -> None:
        if event.path != self._speaker:
            self._end_line()
            self._speaker, self._said = event.path, ""
            if len(event.path) > 1:
                click.echo(click.style(f"{_short(event.path)}: ", dim=True), nl=False, err=True)
        click.echo(event.text, nl=False)
        self._open = True
        self._said += event.text

    def _result(self, message: Message) -> None:
        self._end_line()
        if isinstance(message.payload, str) and message.payload == self._said and len(self._speaker) <= 1:
            show_cost(message.usage)
        else:
            show_reply(message, as_json=False)

    def _note(self, event: MemberStarted | MemberFinished | ToolCall) -> None:
        self._end_line()
        if isinstance(event, ToolCall):
            what = f"{event.name}: {event.error or 'done'}" if event.done else f"calls {event.name}"
        elif isinstance(event, MemberStarted):
            what = "started"
        else:
            what = f"failed: {event.error}" if event.error is not None else "finished"
        click.echo(click.style(f"{_short(event.path)} {what}", dim=True), err=True)

    def _end_line(self) -> None:
        if self._open:
            click.echo()
            self._open = False


def _short(path: tuple[str, ...]) -> str:
    return "/".join(path[1:] or path)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
