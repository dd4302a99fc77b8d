"""What a rendered file cannot say by itself: the image that it takes, and what must be there besides.

Each note is a line for people: a comment at the top of the file. What is wrong, or will be, is a warning as well.
Below: `aixgo_services.needs`, `fleet.py`. Above: `aixgo render`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from aixgo_services.needs.beside import Beside, command_paths
from aixgo_services.needs.keeping import MailboxKind, Sessions, conflicts, is_inside, remembers, store_folder
from aixgo_services.needs.secrets import needed_secrets
from aixgo_services.render.fleet import IMAGE_EXTRAS, Component

if TYPE_CHECKING:
    from aixgo.config.schema import Config

    from aixgo_services.render.fleet import FleetPlan

_DOCKERFILE = "deploy/docker/Dockerfile"
_IN_IMAGE = ("aixgo", "python", "python3")
"""Programs that every image of aixgo has."""


class Platform(StrEnum):
    """What is rendered for."""

    COMPOSE = "compose"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class Note:
    """One line. `warns`: something will be missing or go wrong unless it is heeded."""

    text: str
    warns: bool = True


def notes(config: Config, plan: FleetPlan, beside: Beside, extras: Iterable[str], platform: Platform) -> Iterator[Note]:
    """What to know about a rendered fleet. `extras` are those that the image for all must have."""
    yield from _images(plan, extras)
    yield from _secrets(config, platform)
    found = conflicts(config, plan.sessions.kind, plan.mailboxes.kind)
    yield from (Note(f"{each.what}: {each.fix}") for each in found)
    yield from _mailboxes(plan)
    yield from _paths(beside)
    yield from _programs(config, plan)
    yield from _files_written(config, plan)
    if platform is Platform.KUBERNETES:
        yield from _of_clusters(config, plan)


def _images(plan: FleetPlan, extras: Iterable[str]) -> Iterator[Note]:
    """How the images are built, from the repository of aixgo."""
    wanted = sorted({IMAGE_EXTRAS, *extras})
    argument = "" if wanted == [IMAGE_EXTRAS] else f" --build-arg EXTRAS={','.join(wanted)}"
    for workload in plan.workloads:
        build = f"docker build -f {_DOCKERFILE}"
        if workload.component is Component.CONTROL_PLANE:
            yield Note(f"The image is built by: {build}{argument} -t {workload.image} .", warns=False)
        if workload.component is Component.MODEL_SERVER:
            model = "--build-arg EXTRAS=local --build-arg MODEL=1"
            yield Note(f"The model server's: {build} {model} -t {workload.image} .", warns=False)


def _secrets(config: Config, platform: Platform) -> Iterator[Note]:
    """The keys that somebody has to put where the processes find them."""
    needed = list(needed_secrets(config))
    if not needed:
        return
    place = ".env beside this file" if platform is Platform.COMPOSE else "the Secret aixgo-keys"
    mounted = next((f"; one that is mounted as a file: {one.name}_FILE=PATH" for one in needed if one.files), "")
    yield Note(f"Keys go into {place}: {', '.join(one.name for one in needed)}{mounted}", warns=False)


def _mailboxes(plan: FleetPlan) -> Iterator[Note]:
    """A gateway has neither the file nor the keys of agents."""
    if plan.mailboxes.kind is MailboxKind.NATS and not plan.mailboxes.url:
        text = "Give the gateway AIXGO_MAILBOX, too: without it, it hands messages only to agents that run"
        yield Note(text, warns=False)


def _paths(beside: Beside) -> Iterator[Note]:
    for path, by in beside.missing:
        yield Note(f"{by} names {path}, which does not lie beside the file: add it, or put it into an image")
    for path, by in beside.outside:
        yield Note(f"{by} names {path}, which is not below the file's folder: mount it there, or put it into an image")


def _programs(config: Config, plan: FleetPlan) -> Iterator[Note]:
    """The commands that start MCP servers run in the containers of the agents that use them."""
    for tool in config.tools:
        users = [agent.name for agent in config.agents if tool.name in agent.mcp_servers]
        if tool.mcp is None or not tool.mcp.command or not users:
            continue
        program = tool.mcp.command[0]
        there = program in _IN_IMAGE or any(path in plan.source.beside for path in command_paths((program,)))
        if not there:
            yield Note(f"MCP server {tool.name} is started by {program}: the image of {', '.join(users)} must have it")


def _files_written(config: Config, plan: FleetPlan) -> Iterator[Note]:
    for what, path in (("sessions", plan.sessions.path), ("mailboxes", plan.mailboxes.path)):
        if path and not is_inside(path):
            yield Note(f"{what} are kept in {path}: mount a volume there, which user 65532 may write to")
    for agent in config.agents:
        folder = store_folder(agent)
        if folder and not is_inside(folder):
            yield Note(f"agent {agent.name} keeps {folder}: mount a volume there, which user 65532 may write to")
        file = str(agent.config.get("file", "")) if agent.role == "logger" else ""
        if file and not file.startswith("/tmp/"):  # noqa: S108  # the container's own
            yield Note(f"agent {agent.name} writes to {file}: containers write to /tmp; their logs go to stdout anyway")


def _of_clusters(config: Config, plan: FleetPlan) -> Iterator[Note]:
    """What pods, which come and go on any node, cannot share as containers of one machine do."""
    remembering = any(map(remembers, config.agents))
    if plan.sessions.kind is Sessions.SQLITE and remembering:
        yield Note(
            "sessions.store is SQLite, a file of one machine, and pods can write none:"
            " put AIXGO_SESSION_STORE=postgresql://... into the Secret aixgo-keys"
        )
    if plan.mailboxes.kind is MailboxKind.SQLITE:
        yield Note(
            "mailbox.url is SQLite, a file of one machine, and pods can write none:"
            " put AIXGO_MAILBOX=nats://... into the Secret aixgo-keys"
        )
    if plan.sessions.kind is Sessions.MEMORY and remembering:
        text = "Each pod has sessions of its own; for callers that give a session, name a PostgreSQL in sessions.store"
        yield Note(text, warns=False)
    for agent in config.agents:
        if store_folder(agent) and is_inside(store_folder(agent)):
            yield Note(f"agent {agent.name} keeps its store in a folder, and pods can write none: use a Qdrant server")
    for path, texts in plan.source.folders.items():
        if texts is None:
            yield Note(
                f"{path} does not fit into a ConfigMap (1 MiB of text): put it into an image and name it by its path"
                f" there (FROM aixgo, COPY {path} /app/{path}); documents also fit into a Qdrant server (aixgo index)"
            )
