"""What an agent keeps beyond one call, where, and whether several replicas of it get on.

Below: the schema. Above: the doctor, which warns, and `aixgo render`, which mounts volumes and limits replicas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aixgo.agents.catalog import ROLES
from aixgo.retrieval.qdrant import MEMORY as IN_MEMORY

if TYPE_CHECKING:
    from aixgo.config.schema import Config
    from aixgo.config.settings import Settings
    from aixgo.config.spec import AgentSpec

_REMEMBERING = ("llm", "react")
_ADAPTERS = "aixgo.adapters."
_SQLITE = "sqlite:///"
POSTGRES_PORT, NATS_PORT = 5432, 4222
"""Where PostgreSQL and NATS listen when nobody says otherwise."""


class Sessions(StrEnum):
    """The kinds of session stores, by who can reach what they keep: one process, one machine, everybody."""

    MEMORY = "memory"
    SQLITE = "sqlite"
    POSTGRES = "postgresql"


@dataclass(frozen=True, slots=True)
class SessionPlace:
    """Where sessions are kept. `path` is the file of SQLite, as it is written; `addresses` are host:port of
    PostgreSQL. The rest of its address, which may have a password, is not kept here.
    """

    kind: Sessions = Sessions.MEMORY
    path: str = ""
    addresses: tuple[str, ...] = ()


IN_PROCESS = SessionPlace()
"""Each process has sessions of its own."""


class MailboxKind(StrEnum):
    """The kinds of mailboxes, by who can reach them: one process, one machine, everybody."""

    MEMORY = "memory"
    SQLITE = "sqlite"
    NATS = "nats"


@dataclass(frozen=True, slots=True)
class MailboxPlace:
    """Where messages wait. `path` is the file of SQLite, as it is written; `addresses` are host:port of NATS. `url` is
    what a process without the file is told, "" where that has a password or a process of its own knows no place.
    """

    kind: MailboxKind = MailboxKind.MEMORY
    path: str = ""
    addresses: tuple[str, ...] = ()
    url: str = ""


IN_MEMORY_MAIL = MailboxPlace()
"""Each process has the mailboxes of its own agents."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What goes wrong, and what to do about it. `fatal`: calls will fail; else they only answer with less."""

    what: str
    fix: str
    fatal: bool = False


def session_place(config: Config, settings: Settings) -> SessionPlace:
    """The session store in use: what AIXGO_SESSION_STORE says, else the file."""
    text = (settings.session_store or config.sessions.store).get_secret_value()
    if text.startswith(_SQLITE):
        return SessionPlace(Sessions.SQLITE, text.removeprefix(_SQLITE))
    if text == Sessions.MEMORY:
        return IN_PROCESS
    hosts = [host for host in urlsplit(text).netloc.rpartition("@")[2].split(",") if host]
    return SessionPlace(Sessions.POSTGRES, addresses=tuple(_with_port(host, POSTGRES_PORT) for host in hosts))


def mailbox_place(config: Config, settings: Settings) -> MailboxPlace:
    """The mailboxes in use: what AIXGO_MAILBOX says, else the file. What the environment says is not told on."""
    text = (settings.mailbox or config.mailbox.url).get_secret_value()
    if text.startswith(_SQLITE):
        return MailboxPlace(MailboxKind.SQLITE, text.removeprefix(_SQLITE))
    if text == MailboxKind.MEMORY:
        return IN_MEMORY_MAIL
    hosts = [urlsplit(server.strip()).netloc.rpartition("@")[2] for server in text.split(",")]
    of_file = settings.mailbox is None and "@" not in text
    addresses = tuple(_with_port(host, NATS_PORT) for host in hosts)
    return MailboxPlace(MailboxKind.NATS, addresses=addresses, url=text if of_file else "")


def remembers(agent: AgentSpec) -> bool:
    """Whether an agent keeps turns of sessions."""
    can = agent.role in _REMEMBERING or agent.role.startswith(_ADAPTERS)
    return can and agent.config.get("memory") is not False


def may_remember(agent: AgentSpec) -> bool:
    """The same, and true for every class of the user's, which may have asked for the session store."""
    return remembers(agent) or agent.role not in ROLES


def store_folder(agent: AgentSpec) -> str:
    """The folder of a retriever's embedded store; "" where it has none."""
    store = str(agent.config.get("store", IN_MEMORY)) if agent.role == "retriever" else IN_MEMORY
    return "" if store == IN_MEMORY or store.startswith(("http://", "https://")) else store


def is_inside(path: str) -> bool:
    """Whether a path, as a file names it, stays in the folder of that file."""
    given = PurePosixPath(path)
    return not given.is_absolute() and ".." not in given.parts


def is_alone(agent: AgentSpec) -> bool:
    """Whether a second replica does harm: it would send everything twice, or could not open the store."""
    return agent.role == "producer" or bool(store_folder(agent))


def conflicts(config: Config, sessions: Sessions, mailboxes: MailboxKind = MailboxKind.MEMORY) -> Iterator[Conflict]:
    """What the replicas of a file, or the machines that it runs on, cannot share."""
    for agent in config.agents:
        placement = config.deployment.agents.get(agent.name)
        replicas = 1 if placement is None else placement.replicas
        if replicas > 1:
            yield from _of_replicas(agent, f"agent {agent.name} has {replicas} replicas", sessions)
    if sessions is Sessions.SQLITE and config.deployment.mode == "distributed" and any(map(remembers, config.agents)):
        yield Conflict(
            "deployment.mode is distributed, and a SQLite file of sessions is one machine's",
            "keep sessions in PostgreSQL when agents run on several: AIXGO_SESSION_STORE=postgresql://...",
        )
    if mailboxes is MailboxKind.SQLITE and config.deployment.mode == "distributed":
        yield Conflict(
            "deployment.mode is distributed, and a SQLite file of mailboxes is one machine's",
            "keep mailboxes in NATS when agents run on several: AIXGO_MAILBOX=nats://...",
        )


def _with_port(host: str, port: int) -> str:
    return host if re.search(r":[0-9]+$", host) else f"{host}:{port}"


def _of_replicas(agent: AgentSpec, begin: str, sessions: Sessions) -> Iterator[Conflict]:
    if store_folder(agent):
        yield Conflict(
            f"{begin}, and its store is a folder, which one process can open",
            "use a Qdrant server (store: http://...), or one replica",
            fatal=True,
        )
    if agent.role == "producer":
        yield Conflict(f"{begin}, and each of them sends every message", "run one replica of a producer")
    if sessions is Sessions.MEMORY and remembers(agent):
        yield Conflict(
            f"{begin}, and each remembers its own sessions: sessions.store is memory",
            "sessions: {store: sqlite:///sessions.db} on one machine, AIXGO_SESSION_STORE=postgresql://... on several;"
            " or config: {memory: false} when no caller gives a session",
        )
