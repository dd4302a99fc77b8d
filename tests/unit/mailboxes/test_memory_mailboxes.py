"""Mailboxes in memory: pauses, what is forgotten, and the order of sessions under every interleaving."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing

import pytest
from aixgo import Message
from aixgo.errors import InvalidInput
from aixgo.mailboxes.contract import Letter, MailboxPolicy
from aixgo.mailboxes.memory import MemoryMailboxes
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    """A clock that a test moves, and what is to be called later."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.planned: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float, then: Callable[[], None]) -> object:
        self.planned.append((seconds, then))
        return None


def opened(clock: Clock, policy: MailboxPolicy | None = None) -> MemoryMailboxes:
    mailboxes = MemoryMailboxes(policy, clock=clock, later=clock.later)
    mailboxes.add("box")
    return mailboxes


async def test_pauses_grow_and_the_last_one_repeats() -> None:
    clock = Clock()
    mailboxes = opened(clock, MailboxPolicy(backoff=(0.5, 3.0), max_deliveries=5))
    await mailboxes.put("box", Letter(Message("x")), 1.0)
    async with aclosing(mailboxes.receive("box")) as deliveries:
        for _ in range(5):
            with pytest.raises(ValueError, match="no"):
                async with await anext(deliveries):
                    raise ValueError("no")
            if len(clock.planned) < 5 and not await mailboxes.dead_letters():
                clock.planned[-1][1]()
    assert [seconds for seconds, _ in clock.planned] == [0.5, 3.0, 3.0, 3.0]


async def test_an_id_is_forgotten_when_the_window_of_duplicates_is_over() -> None:
    clock = Clock()
    mailboxes = opened(clock)
    letter = Letter(Message("x"))
    for seconds, waiting in ((0.0, 1), (119.0, 1), (1.0, 2)):
        clock.now += seconds
        await mailboxes.put("box", letter, 1.0)
        assert [count.waiting for count in mailboxes.counts()] == [waiting]


async def test_of_too_many_dead_letters_the_oldest_are_forgotten() -> None:
    mailboxes = opened(Clock(), MailboxPolicy(max_deliveries=1, max_dead=2))
    async with aclosing(mailboxes.receive("box")) as deliveries:
        for text in ("a", "b", "c"):
            await mailboxes.put("box", Letter(Message(text)), 1.0)
            with pytest.raises(ValueError, match="no"):
                async with await anext(deliveries):
                    raise ValueError("no")
    assert [dead.letter.message.payload for dead in await mailboxes.dead_letters("box")] == ["b", "c"]


async def test_a_removed_mailbox_gives_out_what_is_ready_and_then_ends() -> None:
    mailboxes = opened(Clock())
    await mailboxes.put("box", Letter(Message("x")), 1.0)
    seen: list[object] = []
    deliveries = mailboxes.receive("box")
    first = asyncio.ensure_future(anext(deliveries))
    await asyncio.sleep(0)
    mailboxes.remove("box")
    async with await first as message:
        seen.append(message.payload)
    with pytest.raises(StopAsyncIteration):
        await anext(deliveries)
    assert seen == ["x"]


STEPS = st.lists(st.tuples(st.sampled_from(["put", "take", "done", "fail"]), st.integers(0, 2)), max_size=60)


@given(STEPS)
async def test_sessions_keep_their_order_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """Letters of three sessions are put, taken, acknowledged and failed at random: no session is out twice at once, and
    each is worked on in the order in which it was put.
    """
    mailboxes = opened(Clock(), MailboxPolicy(max_messages=100, max_deliveries=100, backoff=(0.0,)))
    sent: dict[str, list[int]] = defaultdict(list)
    done: dict[str, list[int]] = defaultdict(list)
    out: list[tuple[object, str, int]] = []
    async with aclosing(mailboxes.receive("box")) as deliveries:
        for number, (step, choice) in enumerate(steps):
            ready = {session for session in sent if len(sent[session]) > len(done[session])}
            if step == "put":
                sent[f"s{choice}"].append(number)
                await mailboxes.put("box", Letter(Message(number, session_id=f"s{choice}")), 1.0)
            elif step == "take" and ready - {session for _, session, _ in out}:
                delivery = await anext(deliveries)
                session, payload = delivery.message.session_id, delivery.message.payload
                assert session not in [each for _, each, _ in out]
                assert payload == sent[session][len(done[session])]
                out.append((delivery, session, payload))
            elif step in ("done", "fail") and out:
                delivery, session, payload = out.pop(choice % len(out))
                error = None if step == "done" else ValueError("no")
                await delivery.__aenter__()
                await delivery.__aexit__(error and ValueError, error, None)
                if step == "done":
                    done[session].append(payload)
    assert all(done[session] == sent[session][: len(done[session])] for session in done)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"max_messages": 0}, "max_messages"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_deliveries": 0}, "max_deliveries"),
        ({"backoff": ()}, "backoff"),
        ({"backoff": (-1.0,)}, "backoff"),
        ({"ack_wait": 0.0}, "ack_wait"),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused_by_its_field(policy: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^mailbox\.{field}: "):
        MailboxPolicy(**policy)  # type: ignore[arg-type]
