"""Which containers a configuration needs, whatever starts them: the container counterpart of `supervisor.plan`.

Every container has a network of its own, so all agents listen on the same port and are told apart by host name. Above:
`compose.py` and `kubernetes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from aixgo.errors import ConfigError

from aixgo_services.needs.beside import command_paths
from aixgo_services.needs.keeping import (
    IN_MEMORY_MAIL,
    IN_PROCESS,
    MailboxKind,
    MailboxPlace,
    SessionPlace,
    Sessions,
    is_alone,
    is_inside,
    may_remember,
    store_folder,
)
from aixgo_services.needs.models import embeddings_of
from aixgo_services.render.names import CONTROL_PLANE, GATEWAY, MODEL_SERVER, dns_name, dns_names
from aixgo_services.supervisor import LOCAL_MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aixgo.config.schema import Config
    from aixgo.config.spec import AgentSpec

IMAGE, MODEL_IMAGE = "aixgo:latest", "aixgo-model:latest"
"""The image of every process; and the same with the embedded model's engine and weights, which only one needs."""
IMAGE_EXTRAS = "openai"
"""What the Dockerfile puts into an image when nobody says otherwise."""
AGENT_PORT, CONTROL_PLANE_PORT, MODEL_PORT = 50051, 50050, 8080
INSECURE: Mapping[str, str] = {"AIXGO_ALLOW_INSECURE": "1"}
"""Without certificates containers talk in plain text, over a network that is theirs alone. `mtls.py` takes it away."""
METRICS_PORT = 9464
"""Where each container has its metrics page, if the YAML asks for one: the port that OpenTelemetry gives Prometheus."""
FOLDER = "/etc/aixgo"
"""Where the YAML and what lies beside it are mounted; the folder of the YAML is importable."""
FILE = "fleet.yaml"
"""What the YAML is called there."""
WORK = "/app"
"""The working directory of the image, importable too: where an image of the user's own has its code."""


class Component(StrEnum):
    """What a container is to the fleet."""

    AGENT = "agent"
    ORCHESTRATION = "orchestration"
    GATEWAY = "gateway"
    CONTROL_PLANE = "control-plane"
    MODEL_SERVER = "model-server"

    @property
    def serves_agents(self) -> bool:
        """Whether it runs `aixgo serve`: user code, keys and models are its business alone."""
        return self in {Component.AGENT, Component.ORCHESTRATION}


@dataclass(frozen=True, slots=True)
class Workload:
    """A container and how often it runs. `name` is a DNS label; `agent` is whom it serves, under the real name.

    `alone`: a second replica would do harm. `writes`: it keeps files in the folder of the YAML. `folder`: its working
    directory, where that is not the image's. `embeds`: it has the model of embeddings in its process. `metrics`: it
    has a metrics page.
    """

    name: str
    component: Component
    command: tuple[str, ...]
    port: int
    image: str
    replicas: int = 1
    agent: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    alone: bool = False
    writes: bool = False
    folder: str = ""
    embeds: bool = False
    metrics: bool = False

    @property
    def scales(self) -> bool:
        """Whether more replicas of it share its load without anything else being told."""
        return (self.component.serves_agents and not self.alone) or self.component is Component.GATEWAY


@dataclass(frozen=True, slots=True)
class Source:
    """What is mounted into containers that serve agents: the text of the YAML, and what lies beside it.

    `name` is what the fleet is called: the project of Compose, the label `app.kubernetes.io/part-of`. `beside` are
    texts by their path from the YAML's folder, `folders` folders with their texts, or None where they are no texts
    that a ConfigMap could hold; both as `aixgo_services.needs.beside` reads them.
    """

    name: str
    text: str
    beside: Mapping[str, str] = field(default_factory=dict[str, str])
    folders: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict[str, "Mapping[str, str] | None"])

    @property
    def files(self) -> dict[str, str]:
        """The single texts by the path that they are mounted as: the YAML first, then the others by name."""
        return {FILE: self.text} | dict(sorted(self.beside.items()))

    @property
    def texts(self) -> dict[str, str]:
        """All texts by path, those of the folders included."""
        below = {f"{top}/{path}": text for top, texts in self.folders.items() for path, text in (texts or {}).items()}
        return self.files | dict(sorted(below.items()))


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """All containers of a fleet, in the order of their start, what is mounted into them, where sessions are kept and
    messages wait.
    """

    name: str
    workloads: tuple[Workload, ...]
    source: Source
    sessions: SessionPlace = IN_PROCESS
    mailboxes: MailboxPlace = IN_MEMORY_MAIL


def plan_containers(
    config: Config,
    source: Source,
    *,
    image: str = IMAGE,
    model_image: str = MODEL_IMAGE,
    sessions: SessionPlace = IN_PROCESS,
    mailboxes: MailboxPlace = IN_MEMORY_MAIL,
) -> FleetPlan:
    """The containers of a configuration. `image` is for all that name none under `deployment.agents`; `sessions` and
    `mailboxes` say who writes a file of them.

    There is a model server wherever the embedded model is used: replicas come and go, and it is loaded once. Raises
    ConfigError when a file beside the YAML would be mounted over it, or two names have the same label.
    """
    if FILE in source.beside:
        raise ConfigError(f"{FILE} is what the YAML itself is called where it is mounted; rename the file beside it")
    serving = _serving(config, source, image, sessions)
    if mailboxes.kind is MailboxKind.SQLITE and is_inside(mailboxes.path):  # whoever sends writes the file, too
        serving = (replace(workload, writes=True) for workload in serving)
    workloads = (*_services(config, image, model_image), *serving, _gateway(image, mailboxes))
    if config.observability.prometheus:
        workloads = tuple(map(_with_metrics_page, workloads))
    return FleetPlan(dns_name(source.name), workloads, source, sessions, mailboxes)


def image_with(extras: Iterable[str]) -> str:
    """What the image is called that has these extras: the usual one, or one with those by its tag that it lacks."""
    more = sorted(set(extras) - {IMAGE_EXTRAS})
    return f"{IMAGE.partition(':')[0]}:{'-'.join(more)}" if more else IMAGE


def uses_embedded_model(config: Config) -> bool:
    """Whether any agent names the embedded model."""
    return any(model.startswith(LOCAL_MODELS) for agent in config.agents for model in agent.model)


def _services(config: Config, image: str, model_image: str) -> Iterator[Workload]:
    listen = {"AIXGO_LISTEN": f"0.0.0.0:{CONTROL_PLANE_PORT}", **INSECURE}
    plane = Component.CONTROL_PLANE
    yield Workload(CONTROL_PLANE, plane, ("controlplane",), CONTROL_PLANE_PORT, image, environment=listen)
    if uses_embedded_model(config):
        command = ("model", "serve", f"--listen=0.0.0.0:{MODEL_PORT}")
        yield Workload(MODEL_SERVER, Component.MODEL_SERVER, command, MODEL_PORT, model_image, environment=INSECURE)


def _serving(config: Config, source: Source, image: str, sessions: SessionPlace) -> Iterator[Workload]:
    names = dns_names(config.names)
    model = {"AIXGO_LOCAL_MODEL_URL": f"http://{MODEL_SERVER}:{MODEL_PORT}/v1"} if uses_embedded_model(config) else {}
    agents = {agent.name: agent for agent in config.agents}
    for name, label in names.items():
        component = Component.AGENT if name in agents else Component.ORCHESTRATION
        command = ("serve", f"{FOLDER}/{FILE}", f"--agent={name}")
        workload = Workload(label, component, command, AGENT_PORT, image, agent=name, environment=_mesh() | model)
        if name in agents:
            workload = _of_agent(workload, agents[name], config, source, sessions)
        placement = config.deployment.agents.get(name)
        if placement is not None:
            workload = replace(workload, replicas=placement.replicas, image=placement.image or image)
        yield workload


def _of_agent(workload: Workload, agent: AgentSpec, config: Config, source: Source, sessions: SessionPlace) -> Workload:
    """What the agent's own role and tools ask of its container."""
    of_sessions = sessions.kind is Sessions.SQLITE and is_inside(sessions.path) and may_remember(agent)
    of_store = bool(store_folder(agent)) and is_inside(store_folder(agent))
    embeds = embeddings_of(agent).startswith(LOCAL_MODELS)
    made = replace(workload, alone=is_alone(agent), writes=of_sessions or of_store, embeds=embeds)
    servers = [tool.mcp for tool in config.tools if tool.mcp is not None and tool.name in agent.mcp_servers]
    if not any(path in source.beside for server in servers for path in command_paths(server.command)):
        return made
    # A command that names a file means the one beside the YAML; code of the image's own stays importable.
    return replace(made, folder=FOLDER, environment={**workload.environment, "PYTHONPATH": WORK})


def _with_metrics_page(workload: Workload) -> Workload:
    """The same with a metrics page, unless it is the model server, which has none. The file's address is for processes
    of one machine: here each has a network of its own, and those without a file must be told, too.
    """
    if workload.component is Component.MODEL_SERVER:
        return workload
    page = {"AIXGO_METRICS_ADDRESS": f"0.0.0.0:{METRICS_PORT}"}
    return replace(workload, metrics=True, environment={**workload.environment, **page})


def _gateway(image: str, mailboxes: MailboxPlace) -> Workload:
    told = {"AIXGO_MAILBOX": mailboxes.url} if mailboxes.url else {}  # it has no file that says where they are
    return Workload(GATEWAY, Component.GATEWAY, ("gateway",), AGENT_PORT, image, environment=_mesh() | told)


def _mesh() -> dict[str, str]:
    control_plane = f"{CONTROL_PLANE}:{CONTROL_PLANE_PORT}"
    return {"AIXGO_LISTEN": f"0.0.0.0:{AGENT_PORT}", "AIXGO_CONTROL_PLANE": control_plane, **INSECURE}
