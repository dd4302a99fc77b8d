"""A fleet on this machine: a control plane, one process for each agent, replica and orchestration, and a model server.

Owns which processes a YAML file needs (`plan`, pure), the order of their starts and stops, and when the fleet is up.
`process.py` (below) keeps each one alive. Above: `aixgo up`, and Python code that wants a fleet.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

from aixgo.config.settings import Settings, read_environment
from aixgo.errors import ConfigError, Unavailable
from aixgo.launch import make_security
from aixgo.runtime.contact import open_channel
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.instance import InstanceState
from aixgo.security.security import Security

from aixgo_services.own_identity import registration
from aixgo_services.process import AixgoProcess, Child, OnLine, ProcessSpec, Spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from aixgo.config.schema import Config, ObservabilitySpec

log = logging.getLogger(__name__)

DRAIN_SECONDS = 10.0
"""How long a whole fleet may take to stop; what runs then is killed."""
READY_SECONDS = 60.0
"""How long a fleet may take until all of it is listed."""
LOCAL_MODELS = "local/"
CONTROL_PLANE, MODEL_SERVER = "control-plane", "model-server"
_ORCHESTRATIONS, _AGENTS, _SERVICES = range(3)
"""Stages of a stop: who calls others goes before those who are called."""
_STAGE_ENDS = (0.5, 0.8, 1.0)
"""The share of the time for a drain that has passed when each stage must have ended."""
_POLL_SECONDS = 0.05
_OF_ONE_PROCESS = ("AIXGO_ADVERTISE_ADDRESS", "AIXGO_HEALTH_PORT")
"""Variables that the processes of one machine cannot share."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process of a fleet as it is now. `pid` is None between two runs; `agents` are those that it serves."""

    name: str
    pid: int | None
    restarts: int
    agents: tuple[str, ...]


def plan(
    config: Config, file: Path, *, control_plane: str, model: str | None, environment: Mapping[str, str]
) -> list[ProcessSpec]:
    """The processes that a configuration needs. `model` is the host:port of a model server; None for none."""
    common = {name: value for name, value in environment.items() if name not in _OF_ONE_PROCESS}
    serving = common | ({"AIXGO_LOCAL_MODEL_URL": f"http://{model}/v1"} if model else {})
    told = told_of_telemetry(config.observability, common)
    arguments = ("controlplane", f"--listen={control_plane}", "--with-parent")
    specs = [ProcessSpec(CONTROL_PLANE, arguments, _SERVICES, environment=told)]
    if model:
        arguments = ("model", "serve", f"--listen={model}", "--with-parent")
        specs.append(ProcessSpec(MODEL_SERVER, arguments, _SERVICES, environment=common))
    stages = {agent.name: _AGENTS for agent in config.agents} | {each.name: _ORCHESTRATIONS for each in config.patterns}
    for name, stage in stages.items():
        for title, port in _replicas(config, name):
            arguments = ("serve", str(file), f"--agent={name}", f"--listen=127.0.0.1:{port}")
            listed = (*arguments, f"--control-plane={control_plane}", "--with-parent")
            specs.append(ProcessSpec(title, listed, stage, (name,), serving))
    page = Settings.read(environment).metrics_address or config.observability.prometheus
    return with_metrics_pages(specs, page) if page else specs


def told_of_telemetry(spec: ObservabilitySpec, environment: Mapping[str, str]) -> Mapping[str, str]:
    """`environment`, and what `spec` says of where telemetry goes where it does not: for a process without a file."""
    headers = (f"{name}={quote(value.get_secret_value(), safe='')}" for name, value in spec.headers.items())
    asked: dict[str, str] = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": spec.otlp or "",
        "OTEL_EXPORTER_OTLP_PROTOCOL": spec.protocol or "",
        "OTEL_EXPORTER_OTLP_HEADERS": ",".join(headers),
    }
    return {**environment, **{name: text for name, text in asked.items() if text and not environment.get(name)}}


def with_metrics_pages(specs: Sequence[ProcessSpec], page: str) -> list[ProcessSpec]:
    """The processes, each with a metrics page of its own: ports from that of `page` up, in their order; 0 stays 0."""
    host, _, port = page.rpartition(":")
    pages = (f"{host}:{int(port) + at if int(port) else 0}" for at in range(len(specs)))
    return [
        replace(spec, environment={**spec.environment, "AIXGO_METRICS_ADDRESS": own})
        for spec, own in zip(specs, pages, strict=True)
    ]


def needs_model_server(config: Config, settings: Settings) -> bool:
    """True when more than one process would load the embedded model."""
    local = [agent.name for agent in config.agents if any(model.startswith(LOCAL_MODELS) for model in agent.model)]
    return not settings.local_model_url and sum(len(list(_replicas(config, name))) for name in local) > 1


def free_port() -> int:
    """A port of the loopback interface that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Fleet:
    """The processes of a YAML file, started and kept alive inside `async with`; leaving it stops them all.

    `control_plane` is the host:port to use for it (default: 127.0.0.1 and a free port). `on_line` is told what the
    processes write. With certificates or tokens all of them have one identity, which the control plane lets register
    the fleet's names unless AIXGO_ALLOW_REGISTER says who may. Entering returns when every agent is listed; it raises
    ConfigError when a process refuses its configuration, and Unavailable when the fleet is not up after `ready_timeout`
    seconds.
    """

    def __init__(
        self,
        config: Config,
        file: str | Path,
        *,
        control_plane: str | None = None,
        on_line: OnLine | None = None,
        drain_timeout: float = DRAIN_SECONDS,
        ready_timeout: float = READY_SECONDS,
        arguments: Iterable[str] = (),
        spawn: Spawn = AixgoProcess.spawn,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.control_plane = control_plane or f"127.0.0.1:{free_port()}"
        self.security = Security()
        """How its processes are reached; known once it is entered."""
        self._config, self._file = config, Path(file)
        self._on_line = on_line or _log_line
        self._drain_timeout, self._ready_timeout = drain_timeout, ready_timeout
        self._arguments = tuple(arguments)
        self._spawn, self._clock, self._sleep = spawn, clock, sleep
        self._children: list[Child] = []

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """Its processes as they are now."""
        return tuple(
            ProcessInfo(child.spec.name, child.pid, child.restarts, child.spec.expects) for child in self._children
        )

    def kill(self, name: str) -> None:
        """Kill the process of that name, as a crash would; it is started again. Raises ConfigError."""
        for child in self._children:
            if child.spec.name == name:
                child.kill()
                return
        names = ", ".join(child.spec.name for child in self._children)
        raise ConfigError(f"no process is named {name!r}; there are: {names}")

    async def __aenter__(self) -> Self:
        variables = read_environment(self._file.parent)
        self.security = make_security(variables)
        variables |= registration(self.security.settings, self._config.names, variables)
        wants_model = needs_model_server(self._config, Settings.read(variables))
        model = f"127.0.0.1:{free_port()}" if wants_model else None
        specs = plan(self._config, self._file, control_plane=self.control_plane, model=model, environment=variables)
        self._children = [self._child(spec) for spec in specs]
        try:
            async with asyncio.timeout(self._ready_timeout):
                await self._begin(model)
        except TimeoutError as error:
            missing = await self._stopped_missing()
            raise Unavailable(f"the fleet was not up after {self._ready_timeout:g} s; {missing}") from error
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop every process: orchestrations first, then agents, then model server and control plane."""
        began = self._clock()
        for stage, share in enumerate(_STAGE_ENDS):
            grace = max(0.1, began + share * self._drain_timeout - self._clock())
            await asyncio.gather(*(child.stop(grace) for child in self._children if child.spec.stage == stage))

    def _child(self, spec: ProcessSpec) -> Child:
        given = replace(spec, arguments=(*self._arguments, *spec.arguments))
        return Child(given, spawn=self._spawn, on_line=self._on_line, clock=self._clock, sleep=self._sleep)

    async def _begin(self, model: str | None) -> None:
        services = [child for child in self._children if child.spec.stage == _SERVICES]
        others = [child for child in self._children if child.spec.stage != _SERVICES]
        for child in services:
            child.start()
        addresses = (self.control_plane, model) if model else (self.control_plane,)
        for address in addresses:
            await self._unless_failed(services, self._accepting(address))
        for child in others:
            child.start()
        await self._unless_failed([*services, *others], self._listed())

    async def _unless_failed(self, children: Iterable[Child], awaited: Awaitable[None]) -> None:
        """Await something; raise ConfigError when meanwhile a process says that it cannot work as it is told."""
        task = asyncio.ensure_future(awaited)
        failures = {child.failed: child for child in children}
        try:
            await asyncio.wait({task, *failures}, return_when=asyncio.FIRST_COMPLETED)
            for failed, child in failures.items():
                if failed.done():
                    raise ConfigError(f"process {child.spec.name} cannot run: {failed.result()}")
            task.result()
        finally:
            task.cancel()

    async def _accepting(self, address: str) -> None:
        """Return when someone listens at an address."""
        host, _, port = address.rpartition(":")
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await self._sleep(_POLL_SECONDS)
                continue
            writer.close()
            return

    async def _listed(self) -> None:
        """Return when the control plane lists every instance as ready."""
        wanted = Counter(name for child in self._children for name in child.spec.expects)
        dial = partial(open_channel, security=self.security)
        discovery = Discovery((self.control_plane,), dial=dial)
        await discovery.open()
        try:
            while True:
                version = discovery.directory.version
                ready = [each for each in discovery.directory.all() if each.state is InstanceState.READY]
                listed = Counter(agent.name for each in ready for agent in each.agents if agent.ready)
                if not wanted - listed:
                    return
                await discovery.changed(version)
        finally:
            await discovery.close()

    async def _stopped_missing(self) -> str:
        """What does not run, found out before everything is stopped."""
        down = [child.spec.name for child in self._children if child.pid is None or child.restarts]
        await self.stop()
        return f"these did not stay up: {', '.join(down)}" if down else "some agents never became ready"


def _replicas(config: Config, name: str) -> Iterable[tuple[str, int]]:
    """The title and port of each replica of an agent."""
    placement = config.deployment.agents.get(name)
    count, port = (placement.replicas, placement.port) if placement else (1, 0)
    for index in range(count):
        yield (f"{name}-{index + 1}" if count > 1 else name), (port + index if port else 0)


def _log_line(name: str, line: str) -> None:
    log.info("%s | %s", name, line)
