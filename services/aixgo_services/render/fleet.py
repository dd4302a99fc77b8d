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

from aixgo_services.render.names import CONTROL_PLANE, GATEWAY, MODEL_SERVER, dns_name, dns_names
from aixgo_services.supervisor import LOCAL_MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aixgo.config.schema import Config

IMAGE, MODEL_IMAGE = "aixgo:latest", "aixgo-model:latest"
"""The image of every process; and the same with the embedded model's engine and weights, which only one needs."""
AGENT_PORT, CONTROL_PLANE_PORT, MODEL_PORT = 50051, 50050, 8080
FOLDER = "/etc/aixgo"
"""Where the YAML and the modules beside it are mounted; the folder of the YAML is importable."""
FILE = "fleet.yaml"
"""What the YAML is called there."""
_CODE_SUFFIX = ".py"


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

    @property
    def scales(self) -> bool:
        """Whether more replicas of it share its load without anything else being told."""
        return self.serves_agents or self is Component.GATEWAY


@dataclass(frozen=True, slots=True)
class Workload:
    """A container and how often it runs. `name` is a DNS label; `agent` is whom it serves, under the real name."""

    name: str
    component: Component
    command: tuple[str, ...]
    port: int
    image: str
    replicas: int = 1
    agent: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Source:
    """What is mounted into containers that serve agents: the text of the YAML, and of modules by file name.

    `name` is what the fleet is called: the project of Compose, the label `app.kubernetes.io/part-of`.
    """

    name: str
    text: str
    modules: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def files(self) -> dict[str, str]:
        """Texts by the file name they are mounted as: the YAML first, then the modules by name."""
        return {FILE: self.text} | dict(sorted(self.modules.items()))


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """All containers of a fleet, in the order of their start, and what is mounted into them."""

    name: str
    workloads: tuple[Workload, ...]
    source: Source


def plan_containers(config: Config, source: Source, *, image: str = IMAGE, model_image: str = MODEL_IMAGE) -> FleetPlan:
    """The containers of a configuration. `image` is for all that name none under `deployment.agents`.

    There is a model server wherever the embedded model is used: replicas come and go, and it is loaded once. Raises
    ConfigError when a module cannot be mounted, or two names have the same label.
    """
    for module in source.modules:
        if "/" in module or not module.endswith(_CODE_SUFFIX):
            raise ConfigError(f"{module!r} cannot be mounted; put packages into an image: FROM aixgo, COPY . /app")
    workloads = (*_services(config, image, model_image), *_serving(config, image), _gateway(image))
    return FleetPlan(dns_name(source.name), workloads, source)


def named_modules(config: Config) -> tuple[str, ...]:
    """The top-level modules that roles and tools import: `desk` for `desk:Ticket`, sorted.

    Whoever reads files looks for them beside the YAML.
    """
    imported = [*(agent.role for agent in config.agents), *(tool.python for tool in config.tools if tool.python)]
    parts = (name.partition(":") for name in imported)
    return tuple(sorted({module for module, colon, _ in parts if colon and "." not in module}))


def uses_embedded_model(config: Config) -> bool:
    """Whether any agent names the embedded model."""
    return any(model.startswith(LOCAL_MODELS) for agent in config.agents for model in agent.model)


def _services(config: Config, image: str, model_image: str) -> Iterator[Workload]:
    listen = {"AIXGO_LISTEN": f"0.0.0.0:{CONTROL_PLANE_PORT}"}
    plane = Component.CONTROL_PLANE
    yield Workload(CONTROL_PLANE, plane, ("controlplane",), CONTROL_PLANE_PORT, image, environment=listen)
    if uses_embedded_model(config):
        command = ("model", "serve", f"--listen=0.0.0.0:{MODEL_PORT}")
        yield Workload(MODEL_SERVER, Component.MODEL_SERVER, command, MODEL_PORT, model_image)


def _serving(config: Config, image: str) -> Iterator[Workload]:
    names = dns_names(config.names)
    model = {"AIXGO_LOCAL_MODEL_URL": f"http://{MODEL_SERVER}:{MODEL_PORT}/v1"} if uses_embedded_model(config) else {}
    agents = {agent.name for agent in config.agents}
    for name, label in names.items():
        component = Component.AGENT if name in agents else Component.ORCHESTRATION
        command = ("serve", f"{FOLDER}/{FILE}", f"--agent={name}")
        workload = Workload(label, component, command, AGENT_PORT, image, agent=name, environment=_mesh() | model)
        placement = config.deployment.agents.get(name)
        if placement is not None:
            workload = replace(workload, replicas=placement.replicas, image=placement.image or image)
        yield workload


def _gateway(image: str) -> Workload:
    return Workload(GATEWAY, Component.GATEWAY, ("gateway",), AGENT_PORT, image, environment=_mesh())


def _mesh() -> dict[str, str]:
    return {"AIXGO_LISTEN": f"0.0.0.0:{AGENT_PORT}", "AIXGO_CONTROL_PLANE": f"{CONTROL_PLANE}:{CONTROL_PLANE_PORT}"}
