"""What every session store promises, in memory, in SQLite and in PostgreSQL; and between processes, in the latter two.

Without a PostgreSQL server on the machine its tests are skipped; with AIXGO_REQUIRE_TOOLS=1, as in CI, they fail.
`tests/tools/install-postgres` installs it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from aixgo import DistributedRuntime, Message
from aixgo.conversation import Turn
from aixgo.errors import ConfigError, InvalidInput, MessageTooLarge
from aixgo.message import new_id
from aixgo.sessions.contract import SessionKey, SessionLimits, SessionLost, SessionStore, SessionStoreUnavailable
from aixgo.sessions.in_memory import InMemorySessions
from aixgo.sessions.postgres import PostgresSessions
from aixgo.sessions.sqlite import SQLiteSessions
from aixgo.sessions.sqlite_file import Holder, SessionFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from tests.integration.postgres import PASSWORD, find_program, postgres_server
from tests.integration.serving import served
from tests.integration.session_caller import AGENT
from tests.support import ROOT

REQUIRED = os.environ.get("AIXGO_REQUIRE_TOOLS") == "1"  # read here: the tests themselves see no setting of aixgo
BOUND = 30.0
"""Seconds that anything may take that should happen at once, on a busy machine."""
EXCHANGE = (Turn("user", "question"), Turn("assistant", "answer"))


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Storage(Protocol):
    """Where the stores under test keep their sessions."""

    address: str

    def open(self, limits: SessionLimits, clock: Clock) -> SessionStore: ...


@dataclass
class InMemory:
    address: str = "memory"

    def open(self, limits: SessionLimits, clock: Clock) -> SessionStore:
        return InMemorySessions(limits, clock=clock)


@dataclass
class InSQLite:
    path: Path

    @property
    def address(self) -> str:
        return f"sqlite:///{self.path}"

    def open(self, limits: SessionLimits, clock: Clock) -> SessionStore:
        return SQLiteSessions(self.path, limits, clock=clock)


@dataclass
class InPostgres:
    address: str

    def open(self, limits: SessionLimits, clock: Clock) -> SessionStore:
        return PostgresSessions(SecretStr(self.address), limits, clock=clock)


@dataclass
class Stores:
    """Opens stores over one storage, as several processes would, and closes them at the end."""

    storage: Storage
    clock: Clock = field(default_factory=Clock)
    opened: list[SessionStore] = field(default_factory=list[SessionStore])

    def open(self, **limits: Any) -> SessionStore:
        store = self.storage.open(SessionLimits(**limits), self.clock)
        self.opened.append(store)
        return store

    @property
    def address(self) -> str:
        return self.storage.address


def need_postgres() -> None:
    missing = [name for name in ("initdb", "pg_ctl") if find_program(name) is None]
    if importlib.util.find_spec("psycopg") is None:
        missing.append("psycopg")
    if missing and REQUIRED:
        pytest.fail(f"{missing} are missing, and AIXGO_REQUIRE_TOOLS=1 requires them")
    if missing:
        pytest.skip(f"{missing} are missing; tests/tools/install-postgres installs the server")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    need_postgres()
    with postgres_server() as dsn:
        yield dsn


def storage_of(request: pytest.FixtureRequest, folder: Path) -> Storage:
    if request.param == "memory":
        return InMemory()
    if request.param == "sqlite":
        return InSQLite(folder / "sessions.db")
    return InPostgres(request.getfixturevalue("postgres"))


@asynccontextmanager
async def all_closed(stores: Stores) -> AsyncIterator[Stores]:
    try:
        yield stores
    finally:
        for store in stores.opened:
            await store.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    async with all_closed(Stores(storage_of(request, tmp_path))) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgres"])
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    """Storage that several processes share."""
    async with all_closed(Stores(storage_of(request, tmp_path))) as opened:
        yield opened


@pytest.fixture
def session() -> str:
    """A session of the test's own: PostgreSQL is shared by all tests."""
    return f"session {new_id()}"


def exchange(text: str) -> list[Turn]:
    return [Turn("user", text), Turn("assistant", text.upper())]


async def remember(store: SessionStore, session: str, *texts: str, agent: str = AGENT) -> None:
    for text in texts:
        async with store.hold(session, agent) as held:
            await held.add(exchange(text))


async def remembered(store: SessionStore, session: str, agent: str = AGENT) -> list[str]:
    async with store.hold(session, agent) as held:
        return [turn.content for turn in held.turns]


async def test_a_session_has_the_turns_of_the_calls_before_in_order(stores: Stores, session: str):
    store = stores.open()
    await remember(store, session, "one", "two")
    async with store.hold(session, AGENT) as held:
        assert list(held.turns) == exchange("one") + exchange("two")


async def test_who_said_a_turn_is_kept(stores: Stores, session: str):
    store = stores.open()
    said = [Turn("user", "hello", "anna"), Turn("assistant", "", "greeter")]
    async with store.hold(session, AGENT) as held:
        await held.add(said)
    async with store.hold(session, AGENT) as held:
        assert list(held.turns) == said


async def test_sessions_and_agents_do_not_see_each_others_turns(stores: Stores, session: str):
    store = stores.open()
    await remember(store, session, "one")
    assert await remembered(store, session, "somebody-else") == []
    assert await remembered(store, session + " b") == []


async def test_the_calls_of_a_session_run_one_after_the_other_in_their_order(stores: Stores, session: str):
    store, seen = stores.open(), list[list[str]]()
    first_holds, go_on = asyncio.Event(), asyncio.Event()

    async def call(text: str) -> None:
        async with store.hold(session, AGENT) as held:
            seen.append([turn.content for turn in held.turns])
            first_holds.set()
            await go_on.wait()
            await held.add(exchange(text))

    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as calls:
        calls.create_task(call("a"))
        await first_holds.wait()
        for text in ("b", "c"):
            calls.create_task(call(text))
            await asyncio.sleep(0)
        go_on.set()
    assert seen == [[], ["a", "A"], ["a", "A", "b", "B"]]


async def test_calls_of_other_sessions_and_other_agents_do_not_wait(stores: Stores, session: str):
    store = stores.open()
    async with asyncio.timeout(BOUND), store.hold(session, AGENT):
        await remember(store, session + " b", "x")
        await remember(store, session, "y", agent="somebody-else")


async def test_waiting_for_a_session_can_be_cancelled_and_leaves_it_free(stores: Stores, session: str):
    store = stores.open()
    async with asyncio.timeout(BOUND):
        async with store.hold(session, AGENT) as held:
            waiting = asyncio.create_task(remembered(store, session))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await held.add(EXCHANGE)
        assert len(await remembered(store, session)) == 2


async def test_a_call_that_is_cancelled_while_it_gets_its_session_does_not_keep_it(stores: Stores, session: str):
    store = stores.open()
    for steps in range(12):  # wherever in acquiring the cancellation falls
        getting = asyncio.create_task(remembered(store, session))
        for _ in range(steps):
            await asyncio.sleep(0)
        getting.cancel()
        await asyncio.wait({getting})
        async with asyncio.timeout(BOUND):
            assert await remembered(store, session) == []


async def test_a_call_that_fails_leaves_nothing_and_frees_its_session(stores: Stores, session: str):
    store = stores.open()
    with pytest.raises(ZeroDivisionError):
        async with store.hold(session, AGENT):
            raise ZeroDivisionError
    assert await remembered(store, session) == []


async def test_turns_are_remembered_all_or_none(stores: Stores, session: str):
    store = stores.open(max_turn_bytes=4)
    async with store.hold(session, AGENT) as held:
        with pytest.raises(MessageTooLarge, match=r"sessions\.max_turn_bytes"):
            await held.add([Turn("user", "four"), Turn("assistant", "äöü")])
        await held.add([Turn("user", "äö"), Turn("assistant", "ok")])
    assert await remembered(store, session) == ["äö", "ok"]


async def test_of_a_long_session_the_newest_turns_stay_and_begin_with_a_question(stores: Stores, session: str):
    store = stores.open(max_turns=5)
    await remember(store, session, "a", "b", "c", "d")
    assert await remembered(store, session) == ["c", "C", "d", "D"]


async def test_a_session_is_forgotten_when_its_time_has_passed(stores: Stores, session: str):
    store = stores.open(ttl=60.0)
    await remember(store, session, "one")
    stores.clock.now += 59
    await remember(store, session, "two")
    stores.clock.now += 59
    assert len(await remembered(store, session)) == 4
    stores.clock.now += 1
    assert await remembered(store, session) == []


async def test_a_message_that_is_tried_again_is_remembered_once(stores: Stores, session: str):
    store = stores.open()
    for message_id, text in (("m1", "one"), ("m2", "two"), ("m1", "one again")):
        async with store.hold(session, AGENT, message_id) as held:
            before = [turn.content for turn in held.turns]
            await held.add(exchange(text))
    assert before == ["two", "TWO"]
    assert await remembered(store, session) == ["two", "TWO", "one again", "ONE AGAIN"]


async def test_clear_forgets_a_session_of_every_agent_and_no_other(stores: Stores, session: str):
    store = stores.open()
    await remember(store, session, "one")
    await remember(store, session, "two", agent="somebody-else")
    await remember(store, session + " b", "three")
    assert await store.clear(session) == 4
    assert await store.clear(session) == 0
    assert await remembered(store, session) == await remembered(store, session, "somebody-else") == []
    assert len(await remembered(store, session + " b")) == 2


async def test_a_call_that_runs_while_its_session_is_cleared_leaves_only_its_own_turns(stores: Stores, session: str):
    store = stores.open()
    await remember(store, session, "old")
    async with store.hold(session, AGENT) as held:
        await store.clear(session)
        await held.add(exchange("new"))
    assert await remembered(store, session) == ["new", "NEW"]


async def test_a_closed_store_can_be_used_again(stores: Stores, session: str):
    store = stores.open()
    await remember(store, session, "one")
    await store.close()
    await remember(store, session, "two")
    assert (await remembered(store, session))[-1] == "TWO"


@pytest.mark.parametrize("bad", ["", "x" * 257, "a\0b", "line\nbreak"])
async def test_a_session_id_that_cannot_be_stored_is_refused(stores: Stores, bad: str):
    store = stores.open()
    with pytest.raises(InvalidInput, match="session_id: give 1 to 256 printable characters"):
        async with store.hold(bad, AGENT):
            pass


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=()), max_size=20), min_size=1, max_size=4))
async def test_any_text_comes_back_as_it_was_but_for_what_is_no_text(stores: Stores, texts: list[str]):
    store = stores.opened[0] if stores.opened else stores.open()
    key = new_id()
    async with store.hold(key, AGENT) as held:
        await held.add([Turn("user", text) for text in texts])
    for text, stored in zip(texts, await remembered(store, key), strict=True):
        assert len(stored) <= len(text)
        assert "".join(c for c in text if c != "\0" and not "\ud800" <= c <= "\udfff") == "".join(
            c for c in stored if c != "\ufffd" or "\ufffd" in text
        )


@dataclass(frozen=True)
class Call:
    """What one call of a random run does."""

    session: int
    agent: int
    steps: int
    fails: bool
    cancelled_after: int | None


CALLS = st.builds(
    Call,
    session=st.integers(0, 1),
    agent=st.integers(0, 1),
    steps=st.integers(0, 3),
    fails=st.booleans(),
    cancelled_after=st.none() | st.integers(0, 8),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(CALLS, min_size=1, max_size=10))
async def test_however_calls_interleave_each_sees_whole_turns_of_those_before(stores: Stores, calls: list[Call]):
    store = stores.opened[0] if stores.opened else stores.open()
    run = new_id()
    order: dict[tuple[str, str], list[str]] = {}
    holding: set[tuple[str, str]] = set()

    async def one(number: int, call: Call) -> None:
        key = (f"{run} {call.session}", f"agent{call.agent}")
        async with store.hold(*key) as held:
            assert key not in holding
            holding.add(key)
            try:
                before = order.setdefault(key, [])
                assert [turn.content for turn in held.turns] == [c for text in before for c in (text, text.upper())]
                for _ in range(call.steps):
                    await asyncio.sleep(0)
                if call.fails:
                    raise ZeroDivisionError
                text = f"call {number}"
                before.append(text)  # once it is being written it is written, cancelled or not
                await held.add(exchange(text))
            finally:
                holding.discard(key)

    async def cancelled(task: asyncio.Task[None], after: int | None) -> None:
        if after is not None:
            for _ in range(after):
                await asyncio.sleep(0)
            task.cancel()

    tasks = [asyncio.create_task(one(number, call)) for number, call in enumerate(calls)]
    async with asyncio.timeout(BOUND):
        await asyncio.gather(*(cancelled(task, call.cancelled_after) for task, call in zip(tasks, calls, strict=True)))
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for (name, agent), texts in order.items():
            assert await remembered(store, name, agent) == [c for text in texts for c in (text, text.upper())]
    assert all(e is None or isinstance(e, (ZeroDivisionError, asyncio.CancelledError)) for e in outcomes), outcomes


async def test_a_session_outlives_its_process(shared: Stores, session: str):
    first = shared.open()
    await remember(first, session, "one")
    await first.close()
    assert await remembered(shared.open(), session) == ["one", "ONE"]


async def test_calls_in_different_processes_run_one_after_the_other(shared: Stores, session: str):
    first, second = shared.open(), shared.open()
    async with asyncio.timeout(BOUND):
        async with first.hold(session, AGENT) as held:
            waiting = asyncio.create_task(remembered(second, session))
            await remember(second, session + " b", "x")  # so the second store works, and does not wait for others
            assert not waiting.done()
            await held.add(EXCHANGE)
        assert await waiting == ["question", "answer"]


async def test_waiting_for_another_process_can_be_cancelled(shared: Stores, session: str):
    first, second = shared.open(), shared.open()
    async with asyncio.timeout(BOUND):
        async with first.hold(session, AGENT):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await remembered(second, session)
            await remember(second, session + " b", "x")
        assert await remembered(second, session) == []


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.integration.session_caller", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


async def test_processes_that_count_in_one_session_never_count_twice(shared: Stores, session: str):
    processes = [start("count", "15", shared.address, session) for _ in range(3)]
    ends = [await asyncio.to_thread(process.communicate, timeout=2 * BOUND) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ends
    counted = [str(number) for number in range(45)]
    assert (await remembered(shared.open(max_turns=1000), session))[::2] == counted


async def test_a_new_file_may_be_opened_by_many_at_once(tmp_path: Path):
    for attempt in range(10):
        path, together = tmp_path / f"{attempt}.db", threading.Barrier(4)

        def first_use(path: Path = path, together: threading.Barrier = together) -> None:
            file = SessionFile(path, SessionLimits(), lease=15.0)
            together.wait(BOUND)
            assert file.acquire(SessionKey(new_id(), AGENT), Holder(new_id(), ""), 0.0) == ()
            file.close()

        async with asyncio.TaskGroup() as openers:
            for _ in range(4):
                openers.create_task(asyncio.to_thread(first_use))


async def test_a_session_whose_holder_is_killed_is_free_again(shared: Stores, session: str):
    with start("hold", "1.0", shared.address, session) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait, BOUND)
        if isinstance(shared.storage, InSQLite):
            # The tests' clock stands still, so it is moved to where the lease has run out.
            with sqlite3.connect(shared.storage.path) as file:
                shared.clock.now = file.execute("SELECT held_until FROM sessions").fetchone()[0]
            file.close()
        async with asyncio.timeout(BOUND):
            assert await remembered(shared.open(), session) == []


async def test_a_holder_that_lost_its_lease_cannot_write(tmp_path: Path, session: str):
    async with all_closed(Stores(InSQLite(tmp_path / "sessions.db"))) as stores:
        slow, quick = stores.open(), stores.open()
        async with slow.hold(session, AGENT) as held:
            stores.clock.now += 15
            await remember(quick, session, "quick")
            with pytest.raises(SessionLost, match="within the lease of 15 s"):
                await held.add(EXCHANGE)
        assert await remembered(quick, session) == ["quick", "QUICK"]


async def test_a_lease_is_renewed_while_its_call_lasts(tmp_path: Path, session: str):
    clock, renewals = Clock(), asyncio.Semaphore(0)
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await renewals.acquire()
        clock.now += seconds

    slow = SQLiteSessions(tmp_path / "sessions.db", clock=clock, sleep=sleep)
    async with asyncio.timeout(BOUND), slow.hold(session, AGENT) as held:
        for _ in range(6):  # 30 s, twice the lease
            await asleep.wait()
            asleep.clear()
            renewals.release()
        await asleep.wait()
        other = SQLiteSessions(tmp_path / "sessions.db", clock=clock)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await remembered(other, session)
        await other.close()
        await held.add(EXCHANGE)
    assert await remembered(slow, session) == ["question", "answer"]
    await slow.close()


async def test_a_file_that_cannot_be_used_is_a_typed_error_which_names_it(tmp_path: Path, session: str):
    path = tmp_path / "sessions.db"
    path.write_bytes(b"this is no database, and long enough to be looked at" * 100)
    store = SQLiteSessions(path)
    with pytest.raises(SessionStoreUnavailable, match=r"sessions\.db cannot be used: file is not a database"):
        await remembered(store, session)
    await store.close()


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path, session: str):
    path = tmp_path / "sessions.db"
    store = SQLiteSessions(path)
    await remember(store, session, "one")
    await store.close()
    file = sqlite3.connect(path)
    file.execute("UPDATE aixgo_sessions_version SET version = 99")
    file.commit()
    file.close()
    with pytest.raises(ConfigError, match="has version 99"):
        await remembered(store, session)
    await store.close()


async def test_tables_of_a_newer_version_are_refused(postgres: str, session: str):
    import psycopg

    store = PostgresSessions(SecretStr(f"{postgres}?options=-csearch_path%3Dnewer"))
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA newer")
        await remember(store, session, "one")
        await store.close()
        admin.execute("UPDATE newer.aixgo_session_version SET version = 99")
    with pytest.raises(ConfigError, match="have version 99"):
        await remembered(store, session)
    await store.close()


async def test_a_holder_whose_connection_broke_cannot_write_and_the_next_call_connects_anew(
    postgres: str, session: str
):
    import psycopg

    store = PostgresSessions(SecretStr(f"{postgres}?application_name=to-be-cut"))
    with psycopg.connect(postgres, autocommit=True) as admin:
        async with store.hold(session, AGENT) as held:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='to-be-cut'")
            with pytest.raises(SessionStoreUnavailable):
                await held.add(EXCHANGE)
            with pytest.raises(SessionLost, match="the connection that held the session"):
                await held.add(EXCHANGE)
        async with asyncio.timeout(BOUND):
            await remember(store, session, "after")
            assert await remembered(store, session) == ["after", "AFTER"]
    await store.close()


async def test_one_failed_statement_does_not_cost_other_calls_their_sessions(postgres: str, session: str):
    store = PostgresSessions(SecretStr(postgres))
    async with store.hold(session, AGENT) as held:
        store.limits = SessionLimits(max_turns=2**70)  # a number that no statement takes
        async with store.hold(session + " b", AGENT) as other:
            with pytest.raises(SessionStoreUnavailable, match="out of range"):
                await other.add(EXCHANGE)
        store.limits = SessionLimits()
        await held.add(EXCHANGE)
    assert len(await remembered(store, session)) == 2
    assert await remembered(store, session + " b") == []
    await store.close()


@pytest.mark.parametrize("reached", [True, False])
async def test_no_error_shows_the_password(postgres: str, session: str, reached: bool):
    dsn = postgres.replace(PASSWORD, "hunter2") if reached else "postgresql://u:hunter2@127.0.0.1:1/x"
    store = PostgresSessions(SecretStr(dsn))
    told = "password authentication failed" if reached else "refused"
    with pytest.raises(SessionStoreUnavailable, match=told) as caught:
        await remembered(store, session)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(vars(store))


def test_an_address_that_cannot_be_read_is_refused_without_showing_it():
    need_postgres()
    with pytest.raises(ConfigError, match="percent-encoded") as caught:
        PostgresSessions(SecretStr("postgresql://u:hunter2@host:port with spaces/x?nonsense=1"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_replicas_of_an_agent_share_its_sessions(shared: Stores, session: str, tmp_path: Path):
    file = tmp_path / "mesh.yaml"
    file.write_text("version: 2\nagents:\n  - {name: a, role: llm, model: test/echo}\n")
    spent = list[int]()
    with (
        served(file, ["a"], AIXGO_SESSION_STORE=shared.address) as first,
        served(file, ["a"], AIXGO_SESSION_STORE=shared.address) as second,
    ):
        for address in (first, second, first):
            async with DistributedRuntime(control_plane=(), connect={"a": address}) as runtime:
                reply = await runtime.call("a", Message("two words", session_id=session), timeout=BOUND)
                spent.append(reply.usage.prompt_tokens)
    assert spent == [2, 6, 10]
