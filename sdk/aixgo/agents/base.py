"""What the ready agents share: reading their part of the YAML, their models, and running reactively.

Owns no role. Below: the models; above: one file for each role.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from aixgo.agent import Agent
from aixgo.config.spec import AgentSpec
from aixgo.errors import AixgoError, ConfigError
from aixgo.llm.chat import Chat
from aixgo.llm.contract import Completion
from aixgo.llm.models import Models
from aixgo.message import Message
from aixgo.names import nearest

log = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound="RoleConfig")


class RoleConfig(BaseModel):
    """The `config:` of a role. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ReadyAgent(Agent):
    """An agent made from a spec. With `inputs` or `outputs` it runs reactively: it answers the messages of its mailbox
    and sends each reply to its outputs. With `inputs` it takes messages of these agents, and of senders that are no
    agents; others are logged and dropped. A message that fails is delivered again, a few times.

    `models` is the process's; without it the agent makes its own from the environment, and closes it in `stop`.
    """

    uses_tools: ClassVar[bool] = False

    def __init__(self, spec: AgentSpec, *, models: Models | None = None) -> None:
        self.name = spec.name
        self.spec = spec
        self._models = models or Models()
        self._owns_models = models is None
        if not self.uses_tools and (spec.tools or spec.mcp_servers):
            raise ConfigError(f"agents.{spec.name}.tools: role {self.role!r} uses no tools; role react does")

    @property
    def reactive(self) -> bool:
        """True when the spec names inputs or outputs."""
        return bool(self.spec.inputs or self.spec.outputs)

    def callees(self) -> Sequence[str]:
        """Those whom it sends its replies to."""
        return tuple(output.target for output in self.spec.outputs)

    async def start(self) -> None:
        """Answer the messages of the mailbox until cancelled."""
        async for delivery in self.runtime.recv():
            try:
                async with delivery as message:
                    if self._takes(delivery.sender):
                        await self._answer(message)
            except AixgoError:
                log.exception("agent %s could not answer message %s", self.name, delivery.message.id)

    async def _answer(self, message: Message) -> None:
        reply = await self.execute(message)
        for output in self.spec.outputs:
            await self.runtime.send(output.target, reply)

    def _takes(self, sender: tuple[str, ...]) -> bool:
        """Whether a message of that sender is for this agent."""
        sources = {given.source for given in self.spec.inputs}
        if not sources or not sender or sender[-1] in sources:
            return True
        log.warning("agent %s takes no messages of %s; name it under inputs", self.name, sender[-1])
        return False

    async def stop(self) -> None:
        """Close the models that the agent made itself."""
        if self._owns_models:
            await self._models.close()

    def chat(self) -> Chat:
        """The models that the spec names. Raises ConfigError, naming the field."""
        try:
            return self._models.chat(self.spec.model)
        except ConfigError as error:
            raise ConfigError(f"agents.{self.name}.model: {error.message}") from error


def read_config(spec: AgentSpec, cls: type[ConfigT]) -> ConfigT:
    """`spec.config` as `cls`; raises ConfigError, naming each field and the nearest right key."""
    try:
        return cls.model_validate(spec.config)
    except ValidationError as error:
        faults = "; ".join(_fault(dict(one), cls) for one in error.errors())
        raise ConfigError(f"agents.{spec.name}.config: {faults}") from error


def completion_metadata(completion: Completion) -> dict[str, Any]:
    """What every reply of a model says of itself."""
    return {"model": completion.model, "stop_reason": completion.stop_reason}


def reply_to(message: Message, payload: Any, metadata: Mapping[str, Any]) -> Message:
    """A reply in the conversation of `message`."""
    return Message(payload, metadata, session_id=message.session_id)


def _fault(one: Mapping[str, Any], cls: type[RoleConfig]) -> str:
    where = ".".join(map(str, one["loc"]))
    if one["type"] == "extra_forbidden" and len(one["loc"]) == 1:
        return f"unknown key {where!r}; {nearest(where, cls.model_fields)}"
    return f"{where}: {one['msg']}" if where else str(one["msg"])
