"""From an agent, a configuration or a file to an answer, in this process.

`run` is the one synchronous door; `opened` is the same for code with an event loop, and what the command line uses.
Below: configuration, runtimes, models. Nothing is started outside of the `async with`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aixgo.agent import Agent
from aixgo.errors import ConfigError, InvalidInput, WrongState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence

    from aixgo.config.schema import Config
    from aixgo.config.settings import Settings
    from aixgo.mailboxes.contract import Mailboxes
    from aixgo.message import Message, Payload
    from aixgo.resources import Resources
    from aixgo.runtime.base import BaseRuntime
    from aixgo.security.security import Security
    from aixgo.telemetry.settings import TelemetrySettings

T = TypeVar("T")
MAX_NAMES = 8
"""Agents that the name of a process's telemetry names."""


def run(
    target: Agent | Config | str | Path,
    input: Message | Payload,  # noqa: A002  # the word that people expect here
    *,
    timeout: float | None = None,
) -> Message:
    """Call an agent, or the main agent of a configuration or YAML file, in this process, and wait for its reply.

    `timeout` is in seconds (300 when None). Raises WrongState inside a running event loop, ConfigError for a file that
    cannot be used, and whatever the call raises.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_async(_called(target, input, timeout))
    raise WrongState("an event loop runs here already; use `await runtime.call(...)` instead of aixgo.run(...)")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a new event loop: uvloop's where that is installed, else asyncio's."""
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(main)


@asynccontextmanager
async def opened(
    config: Config, *, only: Collection[str] | None = None, variables: Mapping[str, str] | None = None
) -> AsyncGenerator[BaseRuntime]:
    """A running runtime with the agents of a configuration, or `only` those with these names.

    `variables` are the environment (default: the process's and `.env`). The runtime is a DistributedRuntime when the
    deployment's mode is `distributed`, which also reaches agents of other processes. Raises ConfigError.
    """
    from aixgo.config.build import build_agents  # loads every pattern
    from aixgo.config.settings import Settings, read_environment  # see above
    from aixgo.telemetry.setup import set_up  # see above

    given = read_environment() if variables is None else variables
    async with set_up(telemetry_settings(config, given, config.names)):
        resources = make_resources(config, given)
        try:
            runtime = make_runtime(config, Settings.read(given))
            for agent in build_agents(config, resources, only):
                runtime.register(agent)
            async with runtime:
                yield runtime
        finally:
            await resources.close()


def telemetry_settings(
    config: Config | None, variables: Mapping[str, str], names: Sequence[str], instance_id: str = ""
) -> TelemetrySettings:
    """What telemetry a process is asked for, by its file (None: it has none) and its environment.

    `names` are the agents that it serves, which make its service.name where nobody says another. Raises ConfigError.
    """
    from aixgo.config.settings import Settings  # only where a configuration is used
    from aixgo.security.security import check_insecure  # see above
    from aixgo.telemetry.settings import TelemetrySettings  # see above

    settings = Settings.read(variables)
    told = TelemetrySettings.read(
        None if config is None else config.observability,
        variables,
        service_name=",".join(names[:MAX_NAMES]),
        instance_id=instance_id,
        metrics_address=settings.metrics_address,
    )
    if told.prometheus:
        check_insecure(told.prometheus, settings.allow_insecure)
    return told


def make_resources(config: Config, variables: Mapping[str, str]) -> Resources:
    """What the agents of one process share: models with keys and addresses from `variables` and prices from the
    configuration, the session store, and tools. Relative paths in the names of models and of the store begin at the
    configuration's folder. Raises ConfigError.
    """
    from aixgo.config.settings import Settings  # only where a configuration is used
    from aixgo.llm.models import Models, ModelSettings  # see above
    from aixgo.llm.pricing import Price, Prices  # see above
    from aixgo.resources import Resources  # see above
    from aixgo.sessions.stores import make_store  # see above
    from aixgo.tools.toolbox import Toolbox  # see above

    prices = {
        name: Price(price.prompt, price.completion, price.cached, price.cache_write)
        for name, price in config.pricing.items()
    }
    models = Models(ModelSettings.from_environment(variables), prices=prices, folder=config.folder)
    spec = config.sessions
    sessions = make_store(Settings.read(variables).session_store or spec.store, spec.limits(), config.folder)
    return Resources(models, sessions, Toolbox.from_specs(config.tools), Prices(prices), config.folder)


def make_security(variables: Mapping[str, str] | None = None) -> Security:
    """What the AIXGO_TLS_*, AIXGO_TOKEN* and AIXGO_ALLOW_* variables say (default: those of the process and `.env`).

    One for a process, for its runtime, its server and its control plane alike. Raises ConfigError.
    """
    from aixgo.config.settings import Settings  # only where a configuration is used
    from aixgo.security.security import Security  # loads gRPC

    return Security(Settings.read(variables).security())


def make_mailboxes(config: Config, settings: Settings) -> Mailboxes:
    """The mailboxes that the settings or, where they are silent, the configuration name. Raises ConfigError."""
    from aixgo.mailboxes import places  # only where a configuration is used

    spec = config.mailbox
    url = settings.mailbox or spec.url
    policy = spec.policy(lasting=url.get_secret_value() != places.MEMORY)
    return places.make_mailboxes(url, policy, replicas=spec.replicas, folder=config.folder)


def make_runtime(config: Config, settings: Settings) -> BaseRuntime:
    """The runtime that the deployment asks for; the settings win over the file. It is not entered yet."""
    from aixgo.runtime.distributed import DistributedRuntime  # loads gRPC
    from aixgo.runtime.local import LocalRuntime  # see above
    from aixgo.security.security import Security  # see above

    deployment = config.deployment
    if (settings.deployment_mode or deployment.mode) == "local":
        return LocalRuntime(mailboxes=make_mailboxes(config, settings))
    control_plane = settings.control_plane or deployment.control_plane
    security = Security(settings.security())
    return DistributedRuntime(
        control_plane=control_plane,
        connect=deployment.connect,
        hedged=config.hedged,
        mailboxes=make_mailboxes(config, settings),
        security=security,
        transport=settings.transport,
    )


def default_target(config: Config) -> str:
    """The name to call when nobody names one: the orchestration that no other calls, or the only agent.

    Raises ConfigError when that is not one name.
    """
    if config.orchestration is not None:
        return config.orchestration.name
    from aixgo.config.members import called_names  # only where needed

    called = {name for spec in config.orchestrations for name in called_names(spec)}
    roots = [spec.name for spec in config.orchestrations if spec.name not in called]
    names = roots or [agent.name for agent in config.agents]
    if len(names) == 1:
        return names[0]
    raise ConfigError(f"{config.where()}: several could be called; name one of them: {', '.join(names)}")


async def _called(target: Agent | Config | str | Path, content: Message | Payload, timeout: float | None) -> Message:
    from aixgo.config.load import load  # a run of one agent needs no configuration
    from aixgo.config.schema import Config  # see above
    from aixgo.config.settings import read_environment  # see above
    from aixgo.runtime.local import LocalRuntime  # see above

    if isinstance(target, Agent):
        runtime = LocalRuntime()
        runtime.register(target)
        async with runtime:
            return await runtime.call(target.name, content, timeout=timeout)
    if not isinstance(target, (str, Path, Config)):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may err
        raise InvalidInput(
            f"a {type(target).__name__} cannot be run; pass an Agent, a Config or the path of a YAML file"
        )
    directory = None if isinstance(target, Config) else Path(target).parent
    variables = read_environment(directory)
    config = target if isinstance(target, Config) else load(target, variables)
    async with opened(config, variables=variables) as runtime:
        return await runtime.call(default_target(config), content, timeout=timeout)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        new_event_loop = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    _collect_nothing_in_forks()
    return new_event_loop


@cache
def _collect_nothing_in_forks() -> None:
    """Keep the garbage collector out of child processes until they are another program.

    uvloop starts programs by fork, and Python runs code of its own between fork and exec. Were calls of gRPC collected
    there, they would wait for ever for a lock that a thread held which the child does not have, and this process,
    which waits for the exec, with them.
    """
    collecting: list[bool] = []

    def before() -> None:
        collecting.append(gc.isenabled())
        gc.disable()

    def after() -> None:
        if collecting and collecting.pop():
            gc.enable()

    os.register_at_fork(before=before, after_in_parent=after)
