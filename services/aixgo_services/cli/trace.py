"""`--trace`: a call with the tree of its calls after it, for people on stderr, for scripts as JSON.

Owns the lines of the tree; `call_tree.py` owns what they say. Above: `run` and `call`.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import TYPE_CHECKING

import click
from aixgo.events import Result

from aixgo_services.cli.call_tree import CallTree
from aixgo_services.cli.output import Lines, cost_text, event_json, message_json, show_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from aixgo.message import Message
    from aixgo.runtime.contract import EventStream
    from rich.tree import Tree

    from aixgo_services.cli.call_tree import Called

_MAX_ERROR = 200


async def show_traced(
    target: str,
    stream: AbstractAsyncContextManager[EventStream],
    *,
    streaming: bool,
    as_json: bool,
    clock: Callable[[], float] = perf_counter,
) -> None:
    """Show a call as `show_reply` or, `streaming`, as `show_stream` does; then its tree, also when it fails.

    As JSON the tree is the reply's key `trace`; after streamed events it is an event `Trace` of its own, and of a call
    that failed it is all of the output.
    """
    tree = CallTree(target, clock)
    reply: Message | None = None
    events: EventStream | None = None
    try:
        async with stream as events:
            reply = await _follow(events, tree, streaming=streaming, as_json=as_json)
            tree.end(reply.usage, instance_id=events.instance_id)
    except BaseException as error:  # also Ctrl-C: what was called until then is what one wants to see
        tree.end(error=error, instance_id=events.instance_id if events else "")
        raise
    finally:
        if as_json:
            _print_json(tree, reply, streaming)
        else:
            _print_tree(tree)


async def _follow(events: EventStream, tree: CallTree, *, streaming: bool, as_json: bool) -> Message:
    """Read the events into the tree, show them where that is wanted, and return the reply."""
    lines = Lines()
    reply: Message | None = None
    async for event in events:
        tree.add(event)
        if streaming and as_json:
            click.echo(json.dumps(event_json(event), ensure_ascii=False, default=str))
        elif streaming:
            lines.show(event)
        if isinstance(event, Result):
            reply = event.message
    if reply is None:
        raise AssertionError("a stream ends with a Result or raises")
    if not streaming and not as_json:
        show_reply(reply, as_json=False)
    return reply


def _print_json(tree: CallTree, reply: Message | None, streaming: bool) -> None:
    told = {"trace": tree.as_json()}
    if streaming:
        told = {"event": "Trace", **told}
    elif reply is not None:
        told = message_json(reply) | told
    click.echo(json.dumps(told, ensure_ascii=False, default=str))


def _print_tree(tree: CallTree) -> None:
    if sys.stderr.isatty():
        from rich.console import Console  # 0.1 s that scripts do not wait for

        Console(stderr=True).print(_branch(tree.root))
    else:
        for depth, called in _walk(tree.root):
            click.echo(f"{'  ' * depth}{'  '.join(_columns(called))}", err=True)
    if tree.left_out:
        click.echo(f"... and {tree.left_out} calls more", err=True)


def _walk(called: Called, depth: int = 0) -> Iterator[tuple[int, Called]]:
    yield depth, called
    for member in called.members:
        yield from _walk(member, depth + 1)


def _branch(called: Called) -> Tree:
    from rich.text import Text  # see above
    from rich.tree import Tree  # see above

    name, *rest = _columns(called)
    failed = called.error is not None or called.ended is None
    line = Text.assemble((name, "bold"), ("  " + "  ".join(rest), "red" if failed else "dim"))
    tree = Tree(line)
    tree.children.extend(_branch(member) for member in called.members)
    return tree


def _columns(called: Called) -> list[str]:
    """Agent, instance, time, tokens, cost and error; what there is of them."""
    usage = called.usage
    columns = [called.agent]
    if called.instance_id:
        columns.append(f"@{called.instance_id}")
    columns.append("cut off" if called.seconds is None else _duration(called.seconds))
    if usage.llm_calls or usage.incomplete:
        columns += [f"{'at least ' * usage.incomplete}{usage.total_tokens} tokens", cost_text(usage)]
    if called.error is not None:
        columns.append(_error_line(called.error))
    return columns


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _error_line(error: BaseException) -> str:
    """An error as one line that a terminal may print: agents write what they like into theirs."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= _MAX_ERROR else f"{text[: _MAX_ERROR - 3]}..."
