"""What users' own tests need: models that answer by script, and a runtime to try agents in.

    async with running(MyAgent(spec, models=Models(scripted={"judge": ScriptedModel(["yes"])}))) as runtime:
        reply = await runtime.call("my-agent", "is it?")

Nothing here reaches a network.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.scripted import Reply, ScriptedModel

if TYPE_CHECKING:
    from aixgo.agent import Agent
    from aixgo.runtime.local import LocalRuntime

__all__ = ["Reply", "ScriptedModel", "running", "scripted_models"]


def scripted_models(**models: ScriptedModel) -> Models:
    """Models that are found as `test/NAME`. No key of the environment is read, so other vendors cannot be reached."""
    return Models(ModelSettings(), scripted=models)


@asynccontextmanager
async def running(*agents: Agent) -> AsyncGenerator[LocalRuntime]:
    """A LocalRuntime with these agents, started; all of them are stopped at the end."""
    from aixgo.runtime.local import LocalRuntime

    runtime = LocalRuntime()
    for agent in agents:
        runtime.register(agent)
    async with runtime:
        yield runtime
