"""Messages: delivered, acknowledged, bounded, and each the beginning of a new call tree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aixgo import Agent, Message
from aixgo.errors import AgentNotFound, InvalidInput, MailboxFull, MessageTooLarge

from tests.contract.agents import MAILBOX_SIZE
from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise
from tests.support import eventually


class Inbox(Agent):
    """An agent that only receives."""

    name = "inbox"

    async def execute(self, message: Message) -> Message:
        return message


@promise("messages.delivered")
async def test_messages_arrive_in_the_order_in_which_they_were_sent(mesh: Mesh) -> None:
    for number in range(MAILBOX_SIZE):
        await mesh.runtime.send("collector", Message({"n": number}, session_id=mesh.key))
    noted = await mesh.noted(MAILBOX_SIZE)
    assert [entry["payload"] for entry in noted] == [{"n": number} for number in range(MAILBOX_SIZE)]


@promise("messages.new_tree")
async def test_a_delivery_begins_a_new_call_tree(mesh: Mesh) -> None:
    body = {"to": "collector", "message": "hello"}
    route = Message({"route": ["poster"], "message": body}, session_id=mesh.key)
    await mesh.runtime.call("via-two", route, timeout=5.0)
    (entry,) = await mesh.noted(1)
    assert (entry["depth"], entry["path"], entry["tokens"]) == (1, ["collector"], None)
    assert entry["remaining"] > 200.0
    assert entry["sender"] == ["via-two", "poster"]


@promise("messages.session")
async def test_a_message_sent_inside_a_call_belongs_to_its_session(mesh: Mesh) -> None:
    body = Message({"to": "collector", "message": "x"}, session_id=mesh.key)
    await mesh.runtime.call("poster", body, timeout=BOUND)
    assert [entry["payload"] for entry in await mesh.noted(1)] == ["x"]


@promise("messages.again")
async def test_a_delivery_that_fails_comes_again_and_counts_its_attempts(mesh: Mesh) -> None:
    await mesh.runtime.send("collector", Message("fail 2", session_id=mesh.key))
    assert [entry["attempt"] for entry in await mesh.noted(3)] == [1, 2, 3]


@promise("messages.restart", "messages.again")
async def test_an_agent_whose_start_fails_is_started_again_and_gets_the_message_again(mesh: Mesh) -> None:
    await mesh.runtime.send("crashing", Message("x", session_id=mesh.key))
    assert await mesh.noted(2) == [1, 2]


@promise("messages.bounded")
async def test_a_full_mailbox_refuses(mesh: Mesh) -> None:
    for number in range(MAILBOX_SIZE):
        await mesh.runtime.send("hoarder", str(number))
    with pytest.raises(MailboxFull) as caught:
        await mesh.runtime.send("hoarder", "one too many")
    assert caught.value.fields == {"agent": "hoarder", "size": MAILBOX_SIZE}
    assert caught.value.retry_after == 1.0


@promise("messages.unknown")
async def test_a_message_to_nobody_is_refused(mesh: Mesh) -> None:
    with pytest.raises(AgentNotFound):
        await mesh.runtime.send("nobody", "x")


@promise("messages.bounded", "call.too_large")
async def test_a_message_over_the_size_limit_is_refused(mesh: Mesh) -> None:
    with pytest.raises(MessageTooLarge):
        await mesh.runtime.send("collector", b"x" * (4 * 1024 * 1024 + 1))


@promise("messages.outputs")
async def test_a_reactive_agent_sends_its_replies_on(mesh: Mesh) -> None:
    await mesh.runtime.send("relay", Message("hello", session_id=mesh.key))
    (entry,) = await mesh.noted(1)
    assert (entry["payload"], entry["sender"]) == ("HELLO", ["relay"])


@promise("messages.broadcast")
async def test_a_broadcast_goes_on_past_failures(mesh: Mesh) -> None:
    for _ in range(MAILBOX_SIZE):
        await mesh.runtime.send("crammed", "x")
    message = Message("news", session_id=mesh.key)
    sent = await mesh.runtime.broadcast(["nobody", "collector", "crammed", "crashing"], message)
    assert sent.delivered == ("collector", "crashing")
    assert {name: type(error) for name, error in sent.failed.items()} == {
        "nobody": AgentNotFound,
        "crammed": MailboxFull,
    }
    assert len(await mesh.noted(3)) == 3  # the collector once, and crashing twice


@promise("messages.recv")
async def test_the_messages_of_an_agent_of_this_process_can_be_received_by_its_name(mesh: Mesh) -> None:
    mesh.runtime.register(Inbox())
    await mesh.runtime.send("inbox", "one")
    await mesh.runtime.send("inbox", "two")
    received: list[Any] = []
    async with asyncio.timeout(BOUND):
        async for delivery in mesh.runtime.recv("inbox"):
            async with delivery as message:
                received.append((message.payload, delivery.attempt, delivery.sender))
            if len(received) == 2:
                break
    assert received == [("one", 1, ()), ("two", 1, ())]


@promise("messages.recv")
async def test_receiving_ends_when_the_agent_is_unregistered(mesh: Mesh) -> None:
    mesh.runtime.register(Inbox())
    await mesh.runtime.send("inbox", "first")
    received: list[str] = []

    async def receive() -> None:
        async for delivery in mesh.runtime.recv("inbox"):
            async with delivery as message:
                received.append(message.text)

    receiving = asyncio.create_task(receive())
    await eventually(lambda: received == ["first"])
    await mesh.runtime.unregister("inbox")
    await asyncio.wait_for(receiving, BOUND)
    assert received == ["first"]


@promise("messages.recv")
async def test_receiving_needs_a_name_of_this_process(mesh: Mesh) -> None:
    with pytest.raises(InvalidInput, match="name the agent"):
        await anext(mesh.runtime.recv())
    with pytest.raises(AgentNotFound):
        await anext(mesh.runtime.recv("nobody"))
