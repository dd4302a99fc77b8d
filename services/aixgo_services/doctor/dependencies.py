"""Whether what the agents of a file stand on is there, and may be shared by their replicas.

How addresses are probed and programs found is passed in; addresses are shown as host:port, and so never with a
password. Below: `aixgo_services.needs`. Above: `examination.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aixgo_services.doctor.findings import Finding, problem, warning
from aixgo_services.needs.keeping import IN_MEMORY_MAIL, MailboxPlace, SessionPlace, conflicts

if TYPE_CHECKING:
    from aixgo.config.schema import Config

    from aixgo_services.doctor.surroundings import Network
    from aixgo_services.needs.beside import Beside

Which = Callable[[str], str | None]
"""The path of a program that can be started by this name; None when there is none."""


def check_files(beside: Beside) -> list[Finding]:
    """Whether the scripts and documents that a file names are there."""
    fix = "add it, or correct the path: it begins at the folder of the file"
    return [problem("files", f"there is no {path}, which {by} names", fix) for path, by in beside.missing]


def check_sharing(config: Config, sessions: SessionPlace, mailboxes: MailboxPlace = IN_MEMORY_MAIL) -> list[Finding]:
    """Whether the replicas of each agent get on with what it keeps."""
    return [
        (problem if each.fatal else warning)("replicas", each.what, each.fix)
        for each in conflicts(config, sessions.kind, mailboxes.kind)
    ]


def check_programs(config: Config, which: Which) -> list[Finding]:
    """Whether the programs can be started that are MCP servers."""
    findings: list[Finding] = []
    for tool in config.tools:
        if tool.mcp is not None and tool.mcp.command and which(tool.mcp.command[0]) is None:
            told = f"MCP server {tool.name} is started by {tool.mcp.command[0]}, and there is no such program"
            findings.append(problem("tools", told, "install it, put it on the PATH, or name it by its whole path"))
    return findings


async def check_servers(
    config: Config, sessions: SessionPlace, network: Network, mailboxes: MailboxPlace = IN_MEMORY_MAIL
) -> list[Finding]:
    """Whether somebody listens where the file has MCP servers, documents, sessions and mailboxes. Nothing is asked of
    them.
    """
    servers = [*_servers(config, sessions), *(("mailboxes", "a NATS server", each) for each in mailboxes.addresses)]
    listening = await asyncio.gather(*(network.listening(address) for _, _, address in servers))
    fix = "start it, or correct its address"
    return [
        problem(check, f"{what} is at {address}, and nobody listens there", fix)
        for (check, what, address), there in zip(servers, listening, strict=True)
        if not there
    ]


def _servers(config: Config, sessions: SessionPlace) -> Iterator[tuple[str, str, str]]:
    """The check, what is there, and host:port."""
    for tool in config.tools:
        if tool.mcp is not None and tool.mcp.url:
            yield "tools", f"MCP server {tool.name}", _address(tool.mcp.url)
    for agent in config.agents:
        store = str(agent.config.get("store", "")) if agent.role == "retriever" else ""
        if store.startswith(("http://", "https://")):
            yield "documents", f"the store of agent {agent.name}", _address(store)
    for address in sessions.addresses:
        yield "sessions", "the database of sessions", address


def _address(url: str) -> str:
    """host:port of a URL, without what may be secret."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    if not host.rpartition(":")[2].isdigit():
        return f"{host}:{443 if url.startswith('https') else 80}"
    return host
