"""What makes an agent: classes, functions, names and defaults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aixgo import Agent, Message, Parallel, Result, agent
from aixgo.agent import check_name, pattern_of
from aixgo.errors import InvalidInput, InvalidReply, WrongState


class Echo(Agent):
    name = "echo"

    async def execute(self, message: Message) -> Message:
        return message


class Feed(Echo):
    async def start(self) -> None:
        return None


@agent
async def plain(message: Message) -> str:
    """Says it again."""
    return message.text * 2


async def test_a_function_is_an_agent_with_its_name_and_docstring() -> None:
    assert (plain.name, plain.role, plain.idempotent, plain.__doc__) == ("plain", "custom", False, "Says it again.")
    assert (await plain.execute(Message("ab"))).payload == "abab"


async def test_the_decorator_takes_name_role_and_idempotence() -> None:
    @agent(name="n.1", role="judge", idempotent=True)
    async def whatever(message: Message) -> Message:
        return message

    assert (whatever.name, whatever.role, whatever.idempotent) == ("n.1", "judge", True)
    message = Message("x")
    assert await whatever.execute(message) is message


def test_a_renamed_function_is_the_same_under_another_name() -> None:
    other = plain.renamed("other")
    assert (other.name, plain.name, other.__doc__) == ("other", "plain", plain.__doc__)


async def test_a_function_that_returns_nothing_is_told_what_to_return() -> None:
    @agent
    async def forgets(message: Message) -> None:
        return None

    with pytest.raises(InvalidReply, match="agent 'forgets' returned None; return a Message, str, bytes"):
        await forgets.execute(Message("x"))


async def test_a_function_that_returns_what_cannot_be_sent_is_told_what_to_return() -> None:
    @agent
    async def confused(message: Message) -> object:
        return object()

    with pytest.raises(InvalidReply, match="agent 'confused' returned a object; return a Message, str, bytes"):
        await confused.execute(Message("x"))


def test_a_function_that_is_not_async_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="`async def` function, and blocking is none"):

        @agent  # pyright: ignore[reportArgumentType, reportCallIssue]
        def blocking(message: Message) -> str:
            return "x"


async def test_the_default_stream_is_the_reply_of_execute() -> None:
    message = Message("x")
    assert [event async for event in Echo().stream(message)] == [Result(message)]


async def test_the_defaults_start_nothing_and_are_ready() -> None:
    echo = Echo()
    assert await echo.start() is None  # pyright: ignore[reportFunctionMemberAccess]
    assert await echo.stop() is None  # pyright: ignore[reportFunctionMemberAccess]
    assert echo.ready()


def test_an_agent_is_reactive_when_its_class_starts_something() -> None:
    assert not Echo().reactive
    assert Feed().reactive
    assert not plain.reactive


def test_an_agent_that_is_not_registered_says_how_to_register_it() -> None:
    with pytest.raises(WrongState, match=r"agent 'echo' is not registered; call runtime.register"):
        _ = Echo().runtime


def test_an_agent_without_execute_cannot_be_made() -> None:
    class Idle(Agent):
        name = "idle"

    with pytest.raises(TypeError, match="execute"):
        Idle()  # pyright: ignore[reportAbstractUsage]


@pytest.mark.parametrize("name", ["a", "A1", "a-b_c.d", "0", "x" * 128, "p/0", "p/0/12"])
def test_usable_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name", ["", " ", "-a", ".a", "a b", "a/b", "/0", "a/", "a/0/", "ä", "x" * 129, "a\n", "a/00000"]
)
def test_unusable_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidInput, match="1 to 128 letters, digits"):
        check_name(name)


def test_only_orchestrators_have_a_pattern_and_members() -> None:
    assert pattern_of(Echo()) == ("", ())
    assert pattern_of(Parallel("p", ["a", "b"])) == ("parallel", ("a", "b"))


async def test_a_stream_of_its_own_may_yield_before_the_result() -> None:
    class Talks(Echo):
        async def stream(self, message: Message) -> AsyncIterator[Any]:
            yield Result(message)

    assert [type(event) async for event in Talks().stream(Message("x"))] == [Result]
