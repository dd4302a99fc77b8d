"""What every kind of mailbox promises: in memory, in SQLite, and in NATS, on every nats-server that is installed.

Without a nats-server its tests are skipped; with AIXGO_REQUIRE_TOOLS=1, as in CI, they fail. `tests/tools/install-nats`
installs one, and the development dependencies have another.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aixgo import Message
from aixgo import call as ambient
from aixgo.errors import AgentNotFound, DeadlineExceeded, MailboxFull, MessageTooLarge, WrongState
from aixgo.mailboxes import delivery as delivery_module
from aixgo.mailboxes import nats_layout as layout
from aixgo.mailboxes import nats_receiver
from aixgo.mailboxes.contract import Letter, LetterNotFound, Mailboxes, MailboxPolicy, MailboxUnavailable
from aixgo.mailboxes.delivery import LetterDelivery
from aixgo.mailboxes.memory import MemoryMailboxes
from aixgo.mailboxes.nats import NatsMailboxes
from aixgo.mailboxes.sqlite import SQLiteMailboxes
from aixgo.message import new_id
from pydantic import SecretStr

from tests.nats_server import NatsServer, find_servers
from tests.support import eventually

REQUIRED = os.environ.get("AIXGO_REQUIRE_TOOLS") == "1"  # read here: the tests themselves see no setting of aixgo
BOUND = 30.0
"""Seconds that anything may take that should happen at once, on a busy machine."""
SERVERS = find_servers()
LASTING = ["sqlite", *(f"nats:{number}" for number in range(max(1, len(SERVERS))))]
IN_NATS = LASTING[1:]


@dataclass
class Post:
    """Opens mailboxes over one medium, as several processes would. The agent's name is the test's own."""

    kind: str
    place: Callable[[MailboxPolicy], Mailboxes]
    server: NatsServer | None = None
    agent: str = field(default_factory=lambda: f"box-{new_id()[:8]}")
    opened: list[Mailboxes] = field(default_factory=list[Mailboxes])

    def open(self, *, home: bool = True, **policy: Any) -> Mailboxes:
        """Mailboxes of one process; `home`: the agent lives there."""
        mailboxes = self.place(MailboxPolicy(**{"backoff": (0.0,), "max_messages": 10} | policy))
        if home:
            mailboxes.add(self.agent)
        self.opened.append(mailboxes)
        return mailboxes


@pytest.fixture(scope="module")
def nats_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    if not SERVERS and REQUIRED:
        pytest.fail("no nats-server is there, and AIXGO_REQUIRE_TOOLS=1 requires it")
    if not SERVERS:
        pytest.skip("no nats-server is there; tests/tools/install-nats installs one")
    servers = [NatsServer(binary, tmp_path_factory.mktemp("nats")) for binary in SERVERS]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.kill()


def post_of(request: pytest.FixtureRequest, folder: Path) -> Post:
    kind, _, number = request.param.partition(":")
    if kind == "memory":
        return Post(kind, MemoryMailboxes)
    if kind == "sqlite":
        return Post(kind, lambda policy: SQLiteMailboxes(folder / "mail.db", policy))
    server: NatsServer = request.getfixturevalue("nats_servers")[int(number)]
    return Post(kind, lambda policy: NatsMailboxes(SecretStr(server.url), policy), server)


@asynccontextmanager
async def all_closed(post: Post) -> AsyncGenerator[Post]:
    try:
        yield post
    finally:
        await all_of(post)


@pytest.fixture(params=["memory", *LASTING])
async def post(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Post]:
    async with all_closed(post_of(request, tmp_path)) as opened:
        yield opened


@pytest.fixture(params=LASTING)
async def lasting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Post]:
    async with all_closed(post_of(request, tmp_path)) as opened:
        yield opened


@pytest.fixture(params=IN_NATS)
async def in_nats(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Post]:
    async with all_closed(post_of(request, tmp_path)) as opened:
        yield opened


async def put(mailboxes: Mailboxes, agent: str, *texts: str, session: str = "") -> None:
    for text in texts:
        assert await mailboxes.put(agent, Letter(Message(text, session_id=session)), BOUND)


async def following(deliveries: AsyncGenerator[LetterDelivery]) -> LetterDelivery:
    async with asyncio.timeout(BOUND):
        return await anext(deliveries)


async def fail(delivery: LetterDelivery, why: str = "no") -> None:
    with pytest.raises(ValueError, match=why):
        async with delivery:
            raise ValueError(why)


async def work(deliveries: AsyncGenerator[LetterDelivery], count: int) -> list[tuple[Any, int]]:
    """Take so many deliveries and acknowledge them: payloads and attempts."""
    seen: list[tuple[Any, int]] = []
    for _ in range(count):
        delivery = await following(deliveries)
        async with delivery as message:
            seen.append((message.payload, delivery.attempt))
    return seen


async def die(mailboxes: Mailboxes, agent: str) -> None:
    """Let the next message of an agent fail until it is a dead letter."""
    async with aclosing(mailboxes.receive(agent)) as deliveries:
        for _ in range(mailboxes.policy.max_deliveries):
            await fail(await following(deliveries))


async def test_a_letter_arrives_as_it_was_put(post: Post) -> None:
    mailboxes = post.open()
    for payload in ("text", b"\x00bytes", {"json": [1, None]}):
        message = Message(payload, {"key": "value"}, session_id="s")
        assert await mailboxes.put(post.agent, Letter(message, ("one", "two")), BOUND)
        async with aclosing(mailboxes.receive(post.agent)) as deliveries:
            delivery = await following(deliveries)
            async with delivery as received:
                assert received == message
            assert (delivery.attempt, delivery.redelivered, delivery.sender) == (1, False, ("one", "two"))


async def test_there_is_no_mailbox_of_an_agent_that_never_was(post: Post) -> None:
    mailboxes = post.open(home=False)
    assert not await mailboxes.put(post.agent, Letter(Message("x")), BOUND)
    with pytest.raises(AgentNotFound):
        await anext(mailboxes.receive(post.agent))


async def test_a_delivery_begins_a_call_tree_of_its_own(post: Post) -> None:
    mailboxes = post.open()
    await put(mailboxes, post.agent, "x", session="s")
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        with ambient.entered(ambient.root(BOUND).child("elsewhere")):
            async with await following(deliveries):
                state = ambient.current()
                assert state is not None
                assert (state.path, state.depth, state.session_id, state.budget) == ((post.agent,), 1, "s", None)
            assert ambient.current_path() == ("elsewhere",)


async def test_a_failed_delivery_comes_again_and_says_so(post: Post) -> None:
    mailboxes = post.open()
    await put(mailboxes, post.agent, "x")
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        await fail(await following(deliveries))
        again = await following(deliveries)
        assert (again.attempt, again.redelivered) == (2, True)
        async with again:
            pass
        await put(mailboxes, post.agent, "y")
        assert await work(deliveries, 1) == [("y", 1)]


async def test_a_message_that_always_fails_becomes_a_dead_letter_with_its_reason(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    mailboxes = post.open(max_deliveries=3)
    message = Message("bad", session_id="s")
    await mailboxes.put(post.agent, Letter(message, ("sender",)), BOUND)
    await put(mailboxes, post.agent, "good", session="s")
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        for attempt in (1, 2, 3):
            delivery = await following(deliveries)
            assert (delivery.message.payload, delivery.attempt) == ("bad", attempt)
            await fail(delivery, "it is bad")
        assert await work(deliveries, 1) == [("good", 1)]
    (dead,) = await mailboxes.dead_letters(post.agent)
    assert dead == await mailboxes.dead_letter(post.agent, message.id)
    assert (dead.agent, dead.id, dead.attempts, dead.reason) == (post.agent, message.id, 3, "ValueError: it is bad")
    assert (dead.letter.message, dead.letter.sender) == (message, ("sender",))
    assert [count.dead for count in mailboxes.counts()] == [1]
    assert [record.levelno for record in caplog.records if "dead letter" in record.message] == [logging.ERROR]


async def test_a_dead_letter_that_is_replayed_is_delivered_as_one_that_may_have_been_worked_on(post: Post) -> None:
    mailboxes = post.open(max_deliveries=2)
    await put(mailboxes, post.agent, "x")
    for replays in (1, 2):  # dead, alive and dead again
        await die(mailboxes, post.agent)
        (dead,) = await mailboxes.dead_letters(post.agent)
        await mailboxes.replay(post.agent, dead.id)
        assert not await mailboxes.dead_letters(post.agent)
        async with aclosing(mailboxes.receive(post.agent)) as deliveries:
            delivery = await following(deliveries)
            assert (delivery.message.id, delivery.attempt, delivery.redelivered) == (dead.id, 1, True)
            if replays == 2:
                async with delivery:
                    return
            await fail(delivery)
            await fail(await following(deliveries))
            (dead,) = await mailboxes.dead_letters(post.agent)
            await mailboxes.replay(post.agent, dead.id)


async def test_dead_letters_are_dropped_one_by_one(post: Post) -> None:
    mailboxes = post.open(max_deliveries=1)
    await put(mailboxes, post.agent, "x", "y")
    await die(mailboxes, post.agent)
    await die(mailboxes, post.agent)
    first, second = await mailboxes.dead_letters(post.agent)
    assert list(await mailboxes.dead_letters(post.agent, limit=1)) == [first]
    await mailboxes.drop(post.agent, first.id)
    assert list(await mailboxes.dead_letters(post.agent)) == [second]
    for gone in (mailboxes.drop, mailboxes.replay, mailboxes.dead_letter):
        with pytest.raises(LetterNotFound, match="no dead letter"):
            await gone(post.agent, first.id)


async def test_a_message_that_is_put_again_under_its_id_is_kept_once(post: Post) -> None:
    mailboxes = post.open()
    letter = Letter(Message("once"))
    for _ in range(2):
        assert await mailboxes.put(post.agent, letter, BOUND)
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        assert await work(deliveries, 1) == [("once", 1)]
        assert await mailboxes.put(post.agent, letter, BOUND)  # it was worked on, and its id is known all the same
        await put(mailboxes, post.agent, "other")
        assert await work(deliveries, 1) == [("other", 1)]


async def test_a_full_mailbox_refuses_until_a_letter_is_acknowledged(post: Post) -> None:
    mailboxes = post.open(max_messages=2)
    await put(mailboxes, post.agent, "a", "b")
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        async with await following(deliveries):
            with pytest.raises(MailboxFull, match="holds 2 messages; send later") as caught:
                await put(mailboxes, post.agent, "c")
        assert caught.value.fields == {"agent": post.agent, "size": 2}
        assert caught.value.retry_after == 1.0
        await put(mailboxes, post.agent, "c")


async def test_what_was_refused_can_be_put_under_the_same_id_later(post: Post) -> None:
    mailboxes = post.open(max_messages=1)
    await put(mailboxes, post.agent, "a")
    refused = Letter(Message("b"))
    with pytest.raises(MailboxFull):
        await mailboxes.put(post.agent, refused, BOUND)
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        await work(deliveries, 1)
        assert await mailboxes.put(post.agent, refused, BOUND)
        assert await work(deliveries, 1) == [("b", 1)]


async def test_of_a_session_one_message_is_out_and_the_next_follows_in_order(post: Post) -> None:
    mailboxes = post.open()
    await put(mailboxes, post.agent, "a1", "a2", session="a")
    await put(mailboxes, post.agent, "b1", session="b")
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        taken = {(first := await following(deliveries)).message.payload: first}
        second = await following(deliveries)
        taken[second.message.payload] = second
        assert taken.keys() == {"a1", "b1"}
        await fail(taken["a1"])
        async with taken["b1"]:
            pass
        assert await work(deliveries, 2) == [("a1", 2), ("a2", 1)]


async def test_of_several_receivers_one_gets_each_letter(post: Post) -> None:
    mailboxes = post.open()
    seen: list[Any] = []

    async def receive() -> None:
        async with aclosing(mailboxes.receive(post.agent)) as deliveries:
            async for delivery in deliveries:
                async with delivery as message:
                    await asyncio.sleep(0)
                    seen.append(message.payload)

    receivers = [asyncio.create_task(receive()) for _ in range(3)]
    await put(mailboxes, post.agent, *"abcdefghij")
    await eventually(lambda: len(seen) >= 10)
    mailboxes.remove(post.agent)
    async with asyncio.timeout(BOUND):
        await asyncio.gather(*receivers)
    assert sorted(seen) == list("abcdefghij")


async def test_a_delivery_that_nobody_has_entered_counts_for_nothing(post: Post) -> None:
    mailboxes = post.open()
    await put(mailboxes, post.agent, "x")
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        left = await following(deliveries)
    with pytest.raises(WrongState, match="receive it again"):
        async with left:
            pass
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        assert await work(deliveries, 1) == [("x", 1)]


async def test_a_cancelled_receiver_brings_its_letter_again(post: Post) -> None:
    mailboxes = post.open(backoff=(1000.0,))
    await put(mailboxes, post.agent, "x")
    entered = asyncio.Event()

    async def receive() -> None:
        async with aclosing(mailboxes.receive(post.agent)) as deliveries, await following(deliveries):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(receive())
    await asyncio.wait_for(entered.wait(), BOUND)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        assert await work(deliveries, 1) == [("x", 2)]


async def test_a_delivery_that_takes_too_long_fails_typed(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "DEFAULT_TIMEOUT", 0.0)
    mailboxes = post.open(max_deliveries=1)
    await put(mailboxes, post.agent, "x")
    async with aclosing(mailboxes.receive(post.agent)) as deliveries:
        with pytest.raises(DeadlineExceeded, match="took over 0 s"):
            async with await following(deliveries):
                await asyncio.Event().wait()
    assert [dead.reason for dead in await mailboxes.dead_letters(post.agent)] == [
        f"DeadlineExceeded: a message to '{post.agent}' took over 0 s"
    ]


async def test_receiving_ends_when_the_agent_is_removed(post: Post) -> None:
    mailboxes = post.open()
    deliveries = mailboxes.receive(post.agent)
    waiting = asyncio.ensure_future(anext(deliveries))
    await asyncio.sleep(0)
    await put(mailboxes, post.agent, "x")
    async with await asyncio.wait_for(waiting, BOUND):
        pass
    waiting = asyncio.ensure_future(anext(deliveries))
    await asyncio.sleep(0)
    mailboxes.remove(post.agent)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, BOUND)


async def test_letters_outlive_the_process_and_wait_for_the_next(lasting: Post) -> None:
    before = lasting.open()
    await put(before, lasting.agent, "a", "b", session="s")
    await die_once(before, lasting.agent)
    await before.close()
    sender = lasting.open(home=False)
    await put(sender, lasting.agent, "c", session="s")  # while nobody is there to receive it
    after = lasting.open()
    async with aclosing(after.receive(lasting.agent)) as deliveries:
        assert await work(deliveries, 3) == [("a", 2), ("b", 1), ("c", 1)]


async def die_once(mailboxes: Mailboxes, agent: str) -> None:
    async with aclosing(mailboxes.receive(agent)) as deliveries:
        await fail(await following(deliveries))


async def test_the_letter_of_a_receiver_that_died_comes_to_another(lasting: Post) -> None:
    dying = lasting.open(ack_wait=0.5)
    await put(dying, lasting.agent, "x", "y", session="s")
    held = dying.receive(lasting.agent)
    taken = await following(held)
    assert taken.attempt == 1
    await dying.close()  # as its death does: nothing is renewed and nothing is settled
    living = lasting.open(ack_wait=0.5)
    async with aclosing(living.receive(lasting.agent)) as deliveries:
        assert await work(deliveries, 2) == [("x", 2), ("y", 1)]
    await held.aclose()


async def test_a_letter_whose_receivers_all_died_is_a_dead_letter(lasting: Post) -> None:
    held: list[AsyncGenerator[LetterDelivery]] = []
    for number in range(3):
        mailboxes = lasting.open(ack_wait=0.3, max_deliveries=2)
        if number == 0:
            await put(mailboxes, lasting.agent, "x", "y", session="s")
        held.append(deliveries := mailboxes.receive(lasting.agent))
        delivery = await following(deliveries)
        if number < 2:
            assert (delivery.message.payload, delivery.attempt) == ("x", number + 1)
            await mailboxes.close()
        else:
            assert (delivery.message.payload, delivery.attempt) == ("y", 1)
            (dead,) = await mailboxes.dead_letters(lasting.agent)
            assert (dead.attempts, dead.reason) == (2, "delivered 2 times, and its receivers ended without an answer")
    for deliveries in held:
        await deliveries.aclose()


@asynccontextmanager
async def waiting_for(deliveries: AsyncGenerator[LetterDelivery]) -> AsyncGenerator[asyncio.Future[LetterDelivery]]:
    """A receiver that waits for its next delivery for as long as the block, whatever comes of the block."""
    waiting = asyncio.ensure_future(anext(deliveries))
    await asyncio.sleep(0)
    try:
        yield waiting
    finally:
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_a_letter_that_takes_long_stays_with_its_receiver(lasting: Post) -> None:
    """A machine that stands still for longer than `ack_wait` rightly loses the letter: then the next one is longer."""
    for ack_wait in (0.6, 2.4, 9.6):
        lasting.agent = f"box-{new_id()[:8]}"
        if await stays(lasting, ack_wait):
            return
    pytest.fail("it came to another receiver, however long ack_wait was")


async def stays(lasting: Post, ack_wait: float) -> bool:
    """Whether a letter that takes over three times as long as `ack_wait` goes to nobody else; the next one has to."""
    working, idle = lasting.open(ack_wait=ack_wait), lasting.open(ack_wait=ack_wait)
    await put(working, lasting.agent, "long", session="s")
    async with aclosing(working.receive(lasting.agent)) as ours, aclosing(idle.receive(lasting.agent)) as theirs:
        taken = await following(ours)
        async with waiting_for(theirs) as other:
            async with taken:
                done, _ = await asyncio.wait({other}, timeout=3.3 * ack_wait)
                if done:
                    return False
            await put(working, lasting.agent, "next", session="s")
            async with await asyncio.wait_for(other, BOUND) as message:
                assert message.payload == "next"
    return True


async def test_a_message_over_the_limit_of_the_server_is_refused(in_nats: Post) -> None:
    mailboxes = in_nats.open()
    with pytest.raises(MessageTooLarge, match="max_payload"):
        await mailboxes.put(in_nats.agent, Letter(Message(b"x" * 1024 * 1024)), BOUND)


@asynccontextmanager
async def foreign(post: Post) -> AsyncGenerator[Any]:
    """JetStream on the server of `post`, as an administrator has it."""
    import nats

    assert post.server is not None
    client = await nats.connect(post.server.url)
    try:
        yield client.jetstream(timeout=BOUND)
    finally:
        await client.close()


async def test_what_is_no_letter_is_a_dead_letter_at_once(in_nats: Post) -> None:
    mailboxes = in_nats.open()
    await put(mailboxes, in_nats.agent, "makes the mailbox")
    async with foreign(in_nats) as jetstream:
        await jetstream.publish(layout.mail_subject(in_nats.agent, ""), b"\xff no letter")
    async with aclosing(mailboxes.receive(in_nats.agent)) as deliveries:
        assert await work(deliveries, 1) == [("makes the mailbox", 1)]
        await put(mailboxes, in_nats.agent, "next")
        assert await work(deliveries, 1) == [("next", 1)]
    (dead,) = await mailboxes.dead_letters(in_nats.agent)
    assert dead.letter.message.payload == b"\xff no letter"
    assert dead.reason.startswith("InvalidMessage")


async def delete(post: Post, what: str) -> None:
    """Delete a mailbox's stream or consumer; a server that cannot at once, because it is in use, is asked again."""
    from nats.js.errors import NotFoundError, ServerError

    stream = layout.mail_stream_name(post.agent)
    async with foreign(post) as jetstream, asyncio.timeout(BOUND):
        while True:
            try:
                if what == "stream":
                    await jetstream.delete_stream(stream)
                else:
                    await jetstream.delete_consumer(stream, layout.ANY)
            except NotFoundError:  # an earlier try did it, and failed with its files
                return
            except ServerError:
                await asyncio.sleep(0.1)
            else:
                return


@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_a_mailbox_that_somebody_deletes_is_made_again(in_nats: Post, what: str) -> None:
    mailboxes = in_nats.open()
    await put(mailboxes, in_nats.agent, "first")
    async with aclosing(mailboxes.receive(in_nats.agent)) as deliveries:
        await work(deliveries, 1)
        async with waiting_for(deliveries) as waiting:
            await delete(in_nats, what)
            await put(mailboxes, in_nats.agent, "second")
            async with await asyncio.wait_for(waiting, 2 * BOUND) as message:
                assert message.payload == "second"


async def test_a_mailbox_is_made_again_when_the_server_says_nothing_of_its_deletion(
    in_nats: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_receiver, "EXPIRES", 1.0)
    monkeypatch.setattr(nats_receiver, "OVERDUE", 2.0)
    mailboxes = in_nats.open()
    await put(mailboxes, in_nats.agent, "first")
    async with aclosing(mailboxes.receive(in_nats.agent)) as deliveries:
        async with await following(deliveries):
            await delete(in_nats, "consumer")  # nobody waits at it who could be told
        await put(mailboxes, in_nats.agent, "second")
        assert await work(deliveries, 1) == [("second", 1)]


async def test_nothing_is_lost_when_the_server_is_killed_and_comes_back(in_nats: Post) -> None:
    server = in_nats.server
    assert server is not None
    sender, receiver = in_nats.open(home=False), in_nats.open()
    await put(receiver, in_nats.agent, "a", session="s")
    await put(sender, in_nats.agent, "b", session="s")
    async with aclosing(receiver.receive(in_nats.agent)) as deliveries:
        async with await following(deliveries) as message:
            assert message.payload == "a"
            server.kill()
            sending = asyncio.ensure_future(put(sender, in_nats.agent, "c", session="s"))
            await asyncio.sleep(0)
            server.start()
        await asyncio.wait_for(sending, BOUND)
        assert await work(deliveries, 2) == [("b", 1), ("c", 1)]


async def test_a_wrong_password_is_a_typed_error_that_does_not_show_it(in_nats: Post, tmp_path: Path) -> None:
    assert in_nats.server is not None
    server = NatsServer(in_nats.server.binary, tmp_path, "--user", "anna", "--pass", "right")
    server.start()
    try:
        for password in ("not-to-be-shown", "right"):
            url = server.url.replace("//", f"//anna:{password}@")
            in_nats.opened.append(mailboxes := NatsMailboxes(SecretStr(url)))
            mailboxes.add(in_nats.agent)
            if password == "right":
                assert await mailboxes.put(in_nats.agent, Letter(Message("x")), BOUND)
                continue
            said = ""
            for timeout in (1.0, 5.0, BOUND):  # a busy machine may take long to hear the server's no
                with pytest.raises(MailboxUnavailable) as caught:
                    await mailboxes.put(in_nats.agent, Letter(Message("x")), timeout)
                said = str(caught.value)
                assert password not in said
                if "authorization" in said.lower():
                    break
            assert "authorization" in said.lower()
    finally:
        await all_of(in_nats)
        server.kill()


async def all_of(post: Post) -> None:
    while post.opened:
        await post.opened.pop().close()


async def test_a_server_that_is_away_is_a_typed_error_without_its_password(in_nats: Post) -> None:
    mailboxes = NatsMailboxes(SecretStr("nats://somebody:not-to-be-shown@127.0.0.1:1"))
    in_nats.opened.append(mailboxes)
    mailboxes.add(in_nats.agent)
    with pytest.raises(MailboxUnavailable) as caught:
        await mailboxes.put(in_nats.agent, Letter(Message("x")), 0.5)
    assert "not-to-be-shown" not in str(caught.value)
