"""Entering a call: running an agent in its own call state, within its deadline, with one typed outcome.

What both runtimes and AgentServer share. Below it lies the core; nothing here knows of gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from time import perf_counter
from typing import Any, TypeVar

from aixgo.agent import Agent, is_ready
from aixgo.call import CallState, enter, leave, set_state
from aixgo.errors import (
    AgentFailed,
    AgentUnavailable,
    AixgoError,
    BudgetExceeded,
    CallCancelled,
    DeadlineExceeded,
    InvalidReply,
    StreamBroken,
)
from aixgo.events import EVENT_TYPES, Delta, Event, MemberFinished, MemberStarted, Result
from aixgo.message import Message
from aixgo.runtime.contract import DEFAULT_OPTIONS, CallOptions
from aixgo.telemetry import metrics, spans
from aixgo.telemetry.endings import ending
from aixgo.telemetry.invocations import Invocation, invocation, watched
from aixgo.telemetry.secrets import scrub
from aixgo.usage import NO_USAGE

log = logging.getLogger(__name__)

READY_TIMEOUT, READY_POLL = 2.0, 0.02
"""Seconds that a call waits for a ready instance of a known name, and between two looks at an agent's `ready`."""
CANCEL_GRACE = 0.12
"""Seconds that work gets to end after it was cancelled; its caller waits no longer. More than the 100 ms that a
cancelled call to another process waits to learn what was spent there."""
LOOKS = 12
"""Into so many parts such a wait is cut. Time in which the event loop was held up, and no work could end, then takes no
more than one of them."""
MAX_SPENDERS = 10
"""Agents that a BudgetExceeded tells of."""
T = TypeVar("T")


def run_agent(agent: Agent, message: Message, state: CallState, instance_id: str = "") -> Coroutine[Any, Any, Message]:
    """Execute `agent` with `state` as the current call; raises nothing but AixgoError and CancelledError.

    `instance_id` says which instance serves the call, "" for none.
    """
    if not watched():
        return _run(agent, message, state)
    if not spans.left_out():
        return _watched_run(agent, message, state, instance_id)
    counts = metrics.running()
    return _run(agent, message, state) if counts is None else _counted_run(agent, message, state, counts)


async def _counted_run(agent: Agent, message: Message, state: CallState, counts: metrics.Instruments) -> Message:
    """As `_watched_run` counts a call, for most calls: those of traces that are not kept."""
    counts.began()
    begun = perf_counter()
    failure: BaseException | None = None
    try:
        return await _run(agent, message, state)
    except BaseException as error:
        failure = ending(error, state)
        raise
    finally:
        counts.ended(agent.name, failure, perf_counter() - begun)


async def _watched_run(agent: Agent, message: Message, state: CallState, instance_id: str) -> Message:
    with invocation(agent, message, state, instance_id) as call:
        reply = await _run(agent, message, state)
        call.answered(reply)
        return reply


async def _run(agent: Agent, message: Message, state: CallState) -> Message:
    token = enter(state)
    try:
        reply = await agent.execute(message)
        return finished_reply(reply, state)
    except asyncio.CancelledError as error:
        if cancelled_from_outside():
            raise
        raise own_cancellation(error, state) from error
    except AixgoError as error:
        raise _out_of_agent(error, state)  # noqa: B904  # the same error, its path and usage filled in
    except Exception as error:
        raise typed(error, state) from error
    finally:
        leave(token)


async def until_ready(agent: Agent, state: CallState, options: CallOptions) -> None:
    """Wait for an agent of this process: READY_TIMEOUT, or until the deadline with `wait_for_ready`."""
    loop = asyncio.get_running_loop()
    until = state.deadline if options.wait_for_ready else loop.time() + READY_TIMEOUT
    while not is_ready(agent):
        now = loop.time()
        if now >= state.deadline:
            raise past_deadline(state)
        if now >= until:
            raise typed(AgentUnavailable(f"agent {agent.name!r} is not ready", retry_after=1.0), state)
        await asyncio.sleep(READY_POLL)


def agent_events(
    agent: Agent,
    message: Message,
    state: CallState,
    options: CallOptions = DEFAULT_OPTIONS,
    instance_id: str = "",
) -> AsyncGenerator[Event]:
    """The events of `agent.stream`, paths filled in, ended by exactly one Result; else an AixgoError is raised.

    It makes `state` the current call of the task that iterates it, so that must be a task of its own. `instance_id`
    says which instance serves the call, "" for none.
    """
    events = _events(agent, message, state, options)
    return _watched_events(events, invocation(agent, message, state, instance_id)) if watched() else events


async def _watched_events(
    events: AsyncGenerator[Event], watching: AbstractContextManager[Invocation]
) -> AsyncGenerator[Event]:
    last: Result | None = None
    with watching as call:
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Result):
                    call.answered(event.message)
                    last = event
                    break
                yield event
    if last is not None:  # outside, because whoever has it may not come back for more
        yield last


async def _events(agent: Agent, message: Message, state: CallState, options: CallOptions) -> AsyncGenerator[Event]:
    set_state(state)
    await until_ready(agent, state, options)
    events = agent.stream(message)
    try:
        async for event in events:
            if isinstance(event, Result):
                yield Result(finished_reply(event.message, state), state.path)
                return
            yield _with_path(event, state)
        raise StreamBroken(  # noqa: TRY301  # typed below, like what the agent raises
            f"the stream of agent {state.path[-1]!r} ended without a Result; yield one last"
        )
    except asyncio.CancelledError as error:
        if cancelled_from_outside():
            raise
        raise own_cancellation(error, state) from error
    except AixgoError as error:
        raise _out_of_agent(error, state)  # noqa: B904  # as in run_agent
    except Exception as error:
        raise typed(error, state) from error
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def bounded(work: Coroutine[Any, Any, T], state: CallState) -> T:
    """Run `work` in a task of its own and raise DeadlineExceeded when the deadline of `state` passes.

    The task keeps an agent that ignores its cancellation from holding up the caller.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    try:
        await asyncio.wait({task}, timeout=state.deadline - loop.time())
        if task.done():
            return _outcome(task, state)
        await cancel_task(task, state)
    except asyncio.CancelledError:
        await cancel_task(task, state)
        raise
    raise past_deadline(state)


async def cancel_task(task: asyncio.Task[Any], state: CallState) -> None:
    """Cancel the task of a call and wait CANCEL_GRACE for its end.

    One that ignores it is left behind, with a log entry; its LLM calls count as unsettled, and its usage is incomplete.
    """
    task.cancel()
    cancelled = await outlasted(task, CANCEL_GRACE)
    if task.done():
        _retrieve(task)
    else:
        log.warning("%s did not stop within %g s of its cancellation", "/".join(state.path), CANCEL_GRACE)
        state.ledger.write_off()
        task.add_done_callback(_retrieve)
    if cancelled is not None:
        raise cancelled


async def outlasted(task: asyncio.Task[Any], timeout: float) -> asyncio.CancelledError | None:
    """Wait for a task to end, at most `timeout` seconds, whatever happens to whoever waits.

    A call is often cancelled twice, by the end of its RPC and by its Cancel; if the second one cut the wait short in
    which a call learns what was spent below it, that would be lost. A cancellation that came meanwhile is returned, for
    the caller of this to raise.
    """
    cancelled, looks = None, 0
    while looks < LOOKS and not task.done():
        try:
            await asyncio.wait({task}, timeout=timeout / LOOKS)
            looks += 1
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


def past_deadline(state: CallState) -> DeadlineExceeded:
    """The error of a call whose deadline has passed, with what it spent."""
    late = DeadlineExceeded("the deadline passed; give the call a longer timeout, or the agent less to do")
    late.agent_path, late.usage = state.path, state.ledger.usage
    return late


def typed(error: Exception, state: CallState) -> AixgoError:
    """`error` as the typed error of this call, with its path and what was spent."""
    if isinstance(error, AixgoError):
        if error.agent_path[: len(state.path)] != state.path:
            error.agent_path = state.path
        error.usage = state.ledger.usage
        if isinstance(error, BudgetExceeded):
            _say_who_spent(error, state)
        return error
    kind = type(error)
    failed = AgentFailed(
        f"agent {state.path[-1]!r} raised {kind.__name__}: {scrub(str(error))}",
        fields={"exception": f"{kind.__module__}.{kind.__qualname__}"},
    )
    failed.agent_path, failed.usage = state.path, state.ledger.usage
    return failed


def _say_who_spent(error: BudgetExceeded, state: CallState) -> None:
    """Write into `fields["spent"]` what each agent below this call has spent, the most first.

    A callee in another process, whose error this is, has written it in more detail.
    """
    shares = state.ledger.by_agent
    if not shares or (error.fields.get("spent") and shares.keys() <= {state.path[-1]}):
        return
    most = sorted(shares.items(), key=lambda share: share[1].held_tokens, reverse=True)[:MAX_SPENDERS]
    error.fields["spent"] = {
        name: {"tokens": usage.held_tokens, "cost_usd": f"{usage.held_usd:f}"} for name, usage in most
    }


def finished_reply(reply: Message, state: CallState) -> Message:
    """A reply with the usage of its call; raises InvalidReply for what is no Message."""
    if type(reply) is not Message:
        raise InvalidReply(
            f"agent {state.path[-1]!r} returned a {type(reply).__name__}; return a Message"
            " (functions made agents by @agent may return just the payload)"
        )
    if state.ledger.usage is NO_USAGE and reply.usage is NO_USAGE:
        return reply
    return replace(reply, usage=state.ledger.usage)


def cancelled_from_outside() -> bool:
    """Whether somebody cancelled this task; if not, a CancelledError comes from something that it awaited."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def own_cancellation(error: asyncio.CancelledError, state: CallState) -> AixgoError:
    """The error of an agent that awaited something that was cancelled, while nobody cancelled the agent."""
    own = typed(CallCancelled(f"agent {state.path[-1]!r} awaited something that was cancelled"), state)
    own.__cause__ = error
    return own


def _out_of_agent(error: AixgoError, state: CallState) -> AixgoError:
    """`error`, which came out of an agent's code: whoever refused a call below, this agent has accepted its own."""
    error.accepted = True
    return typed(error, state)


def _with_path(event: Event, state: CallState) -> Event:
    if type(event) is Delta:  # nearly every event is one, and `replace` takes as long as all else that is done here
        return event if event.path else Delta(event.text, state.path)
    if not isinstance(event, EVENT_TYPES):  # pyright: ignore[reportUnnecessaryIsInstance]  # agents may err
        raise InvalidReply(f"agent {state.path[-1]!r} yielded a {type(event).__name__}; yield Events")
    if event.path or isinstance(event, (MemberStarted, MemberFinished)):
        return event
    return replace(event, path=state.path)


def _outcome(task: asyncio.Task[T], state: CallState) -> T:
    if task.cancelled():
        raise typed(CallCancelled(f"the work of agent {state.path[-1]!r} was cancelled"), state)
    return task.result()


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
