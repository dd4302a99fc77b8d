"""A process that uses a session store, as an agent's process does: started, and killed, by test_session_stores.py.

    python -m tests.integration.session_caller count 20 STORE SESSION   adds 20 exchanges, each counting on
    python -m tests.integration.session_caller hold LEASE STORE SESSION holds the session until it is killed

It says `ready` on standard output when it has the session for the first time.
"""

from __future__ import annotations

import asyncio
import sys

from aixgo.conversation import Turn
from aixgo.sessions.contract import SessionLimits, SessionStore
from aixgo.sessions.sqlite import SQLiteSessions
from aixgo.sessions.stores import make_store
from pydantic import SecretStr

AGENT = "counter"
LIMITS = SessionLimits(max_turns=1000)


async def count(store: SessionStore, session: str, times: int) -> None:
    """Add `times` exchanges whose text is how many there were before."""
    for _ in range(times):
        async with store.hold(session, AGENT) as held:
            print("ready", flush=True)
            number = str(len(held.turns) // 2)
            await asyncio.sleep(0)
            await held.add([Turn("user", number), Turn("assistant", number)])


async def hold(store: SessionStore, session: str) -> None:
    """Hold the session for good, with turns that are never written."""
    async with store.hold(session, AGENT):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def main(what: str, number: str, store: str, session: str) -> None:
    """The command line."""
    if what == "count":
        opened = make_store(SecretStr(store), LIMITS)
        await count(opened, session, int(number))
    else:
        path = store.removeprefix("sqlite:///")
        opened = (
            make_store(SecretStr(store), LIMITS) if path == store else SQLiteSessions(path, LIMITS, lease=float(number))
        )
        await hold(opened, session)
    await opened.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
