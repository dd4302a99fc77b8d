"""Mailboxes: bounded, acknowledged, delivered again, given up in the end."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aixgo import Message
from aixgo import call as ambient
from aixgo.errors import DeadlineExceeded, MailboxFull
from aixgo.runtime import mailbox as module
from aixgo.runtime.mailbox import MAX_ATTEMPTS, Letter, LetterDelivery, Mailbox


def filled(*texts: str, size: int = 3) -> Mailbox:
    mailbox = Mailbox("box", size)
    for text in texts:
        mailbox.put(Letter(Message(text)))
    return mailbox


async def first(mailbox: Mailbox) -> LetterDelivery:
    return await anext(aiter(mailbox.deliveries()))


async def test_letters_come_in_the_order_they_were_put() -> None:
    mailbox = filled("a", "b", "c")
    mailbox.close()
    seen: list[object] = []
    async for delivery in mailbox.deliveries():
        async with delivery as message:
            seen.append(message.payload)
    assert seen == ["a", "b", "c"]
    assert len(mailbox) == 0


async def test_a_full_mailbox_refuses_and_says_where_the_limit_is_set() -> None:
    mailbox = filled("a", size=1)
    with pytest.raises(MailboxFull, match=r"'box' holds 1 messages; .* mailbox_size") as caught:
        mailbox.put(Letter(Message("b")))
    assert caught.value.fields == {"agent": "box", "size": 1}
    assert caught.value.retry_after == 1.0


async def test_a_letter_that_is_being_handled_takes_room_until_it_is_done() -> None:
    mailbox = filled("a", size=1)
    async with await first(mailbox):
        with pytest.raises(MailboxFull):
            mailbox.put(Letter(Message("b")))
    mailbox.put(Letter(Message("b")))


async def test_a_failed_delivery_comes_again_with_a_higher_attempt() -> None:
    mailbox = filled("a")
    with pytest.raises(ValueError, match="no"):
        async with await first(mailbox):
            raise ValueError("no")
    again = await first(mailbox)
    assert (again.message.payload, again.attempt) == ("a", 2)
    async with again:
        pass
    assert len(mailbox) == 0


async def test_a_letter_that_always_fails_is_given_up_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mailbox = filled("a")
    for attempt in range(1, MAX_ATTEMPTS + 1):
        delivery = await first(mailbox)
        assert delivery.attempt == attempt
        with pytest.raises(ValueError, match="no"):
            async with delivery:
                raise ValueError("no")
    assert len(mailbox) == 0
    assert mailbox.dead_letters == 1
    assert "failed 5 times and is dropped" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


async def test_a_receiver_waits_for_the_next_letter() -> None:
    mailbox = Mailbox("box", 1)
    waiting = asyncio.create_task(first(mailbox))
    await asyncio.sleep(0)
    mailbox.put(Letter(Message("late"), ("sender",)))
    delivery = await waiting
    assert (delivery.message.payload, delivery.sender) == ("late", ("sender",))


async def test_of_two_receivers_one_gets_each_letter() -> None:
    mailbox = Mailbox("box", 10)
    seen: list[object] = []

    async def receive() -> None:
        async for delivery in mailbox.deliveries():
            async with delivery as message:
                await asyncio.sleep(0)
                seen.append(message.payload)

    receivers = [asyncio.create_task(receive()) for _ in range(2)]
    await asyncio.sleep(0)
    for number in range(5):
        mailbox.put(Letter(Message(number)))
    mailbox.close()
    await asyncio.gather(*receivers)
    assert sorted(seen, key=str) == [0, 1, 2, 3, 4]


async def test_a_closed_mailbox_ends_those_who_wait() -> None:
    mailbox = Mailbox("box", 1)
    waiting = asyncio.create_task(first(mailbox))
    await asyncio.sleep(0)
    mailbox.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_each_delivery_begins_a_call_tree_of_its_own() -> None:
    mailbox = Mailbox("box", 1)
    mailbox.put(Letter(Message("a", session_id="s"), ("x", "y")))
    with ambient.entered(ambient.root(5).child("elsewhere")):
        async with await first(mailbox):
            state = ambient.current()
            assert state is not None
            assert (state.path, state.depth, state.session_id) == (("box",), 1, "s")
            assert state.budget is None
        assert ambient.current_path() == ("elsewhere",)


async def test_a_delivery_that_takes_too_long_fails_typed_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_TIMEOUT", 0.0)
    mailbox = filled("a")
    with pytest.raises(DeadlineExceeded, match="a message to 'box' took over"):
        async with await first(mailbox):
            await asyncio.Event().wait()
    assert (await first(mailbox)).attempt == 2


async def test_a_cancelled_receiver_puts_its_letter_back() -> None:
    mailbox = filled("a")
    entered = asyncio.Event()

    async def receive() -> None:
        async with await first(mailbox):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(receive())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await first(mailbox)).attempt == 2
