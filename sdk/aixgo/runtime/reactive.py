"""Running reactive agents: `start` in a task of its own, started again after a growing pause when it raises.

A runtime owns one `ReactiveTasks`. Clock, sleep and randomness are passed in.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from time import monotonic

from aixgo.agent import Agent
from aixgo.call import set_reactive_agent, set_state

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first restart, and at most; doubled each time, then jittered by half.
One that ran for longer than the longest pause begins with the first one again."""
STOP_TIMEOUT = 5.0
"""Seconds that `start` gets to end after its cancellation, and `stop` to finish."""


class ReactiveTasks:
    """The tasks of the reactive agents of one runtime."""

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def launch(self, agent: Agent) -> None:
        """Begin to run an agent's `start`."""
        self._tasks[agent.name] = asyncio.get_running_loop().create_task(self._run(agent), name=f"start {agent.name}")

    async def stop(self, agent: Agent) -> None:
        """End an agent's `start`, then let it release what it holds. A failing `stop` is logged."""
        task = self._tasks.pop(agent.name, None)
        if task is not None:
            task.cancel()
            _, pending = await asyncio.wait({task}, timeout=STOP_TIMEOUT)
            if pending:
                log.warning("start() of agent %s ignores its cancellation", agent.name)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await agent.stop()
        except Exception:
            log.exception("stop() of agent %s failed", agent.name)

    async def _run(self, agent: Agent) -> None:
        set_state(None)
        set_reactive_agent(agent.name)
        pause = FIRST_PAUSE
        while True:
            began = self._clock()
            try:
                await agent.start()
            except Exception:
                if self._clock() - began > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                log.exception("start() of agent %s failed; it is started again in about %.1f s", agent.name, pause)
            else:
                return
            await self._sleep(pause * (0.5 + self._jitter()))
            pause = min(pause * 2, LONGEST_PAUSE)
