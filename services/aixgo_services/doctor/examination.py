"""The checks in their order, with what this machine gives them.

Owns the wiring: the only file of the doctor that looks at the real environment. Above: `aixgo doctor`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.config.settings import DEFAULT_CONTROL_PLANE, Settings, read_environment
from aixgo.errors import ConfigError
from aixgo.launch import make_resources
from aixgo.llm.models import ModelSettings

from aixgo_services.doctor import dependencies, installation, mesh, security, surroundings
from aixgo_services.doctor.findings import Finding, Level, problem
from aixgo_services.needs.beside import read_beside
from aixgo_services.needs.extras import needed_extras
from aixgo_services.needs.keeping import mailbox_place, session_place
from aixgo_services.needs.models import vendors_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aixgo.config.schema import Config
    from aixgo.security.settings import SecuritySettings

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 3.0
_COMMAND_SECONDS = 10.0


async def examine(file: Path | None, control_plane: Sequence[str] = ()) -> list[Finding]:
    """Everything that can be said about this machine and, if given, about what a YAML file needs of it."""
    python = installation.check_python(sys.version_info[:3])
    generated = installation.check_generated(importlib.import_module)
    if generated.level is Level.PROBLEM:  # nothing that speaks gRPC can be loaded, and the packages tell why
        return [python, generated, *_packages({})]
    try:
        variables = read_environment(file.parent if file else None)
        settings = Settings.read(variables)
        told = settings.security()
        ModelSettings.from_environment(variables)  # a key in a file that cannot be read is told before it is missed
    except ConfigError as error:
        fix = "correct or unset it, in the environment or in .env"
        return [python, generated, *_packages({}), problem("settings", error.message, fix)]
    secured = security.check_security(told, datetime.now(UTC), _certificates())
    network = surroundings.Network(_listening, partial(_listed, told))
    config, findings = mesh.check_file(file, variables, checked) if file else (None, [])
    # A file whose agents cannot be made is asked all the same what it needs: that may be why.
    read = config or (_read(file, variables) if file else None)
    vendors = vendors_of(read) if read else {}
    extras, needed = await _needed(read, settings, variables, network) if read else ({}, [])
    return [
        python,
        generated,
        *_packages(extras),
        *findings,
        *needed,
        *mesh.check_keys(vendors, variables),
        *(mesh.check_langfuse(read, variables) if read else ()),
        mesh.check_model(vendors.get("local"), variables),
        *secured,
        # With certificates or tokens that cannot be used, no control plane can be asked.
        *(await _control_planes(config, settings, control_plane, network) if _usable(secured) else ()),
        *(await surroundings.check_ports(config, network) if config else ()),
        *await surroundings.check_engine(_ran),
    ]


def checked(file: Path, variables: Mapping[str, str]) -> Config:
    """Read a file and make its agents, starting none; raises ConfigError with everything that is wrong."""
    config = load(file, variables)
    build_agents(config, make_resources(config, variables))
    return config


def _read(file: Path, variables: Mapping[str, str]) -> Config | None:
    try:
        return load(file, variables)
    except ConfigError:
        return None  # what is wrong with it has been told


async def _needed(
    config: Config, settings: Settings, variables: Mapping[str, str], network: surroundings.Network
) -> tuple[dict[str, str], list[Finding]]:
    """The extras that a file takes, and a line for each thing around it that is wrong."""
    place, mail = session_place(config, settings), mailbox_place(config, settings)
    try:
        beside = read_beside(config, config.folder or Path())
    except ConfigError as error:
        unread = problem("files", error.message, "correct it, or make it readable")
        return needed_extras(config, place.kind, mailboxes=mail.kind), [unread]
    local = bool(ModelSettings.from_environment(variables).local_url)
    findings = [
        *dependencies.check_files(beside),
        *dependencies.check_sharing(config, place, mail),
        *dependencies.check_programs(config, shutil.which),
        *await dependencies.check_servers(config, place, network, mail),
    ]
    return needed_extras(config, place.kind, beside.imported, mailboxes=mail.kind, served=local), findings


def _packages(needed: Mapping[str, str]) -> list[Finding]:
    try:
        about = metadata.metadata("aixgo")
    except metadata.PackageNotFoundError:
        return [problem("packages", "aixgo is imported, but not installed", "pip install aixgo (or: pip install -e .)")]
    requirements = about.get_all("Requires-Dist") or []
    extras = about.get_all("Provides-Extra") or []
    return [
        *installation.check_packages(requirements, _version_of),
        *installation.check_extras(requirements, extras, _version_of, needed),
    ]


async def _control_planes(
    config: Config | None, settings: Settings, named: Sequence[str], network: surroundings.Network
) -> list[Finding]:
    of_file = config.deployment.control_plane if config else ()
    asked = tuple(named) or settings.control_plane or of_file or (DEFAULT_CONTROL_PLANE,)
    mode = settings.deployment_mode or (config.deployment.mode if config else "local")
    needed = mode == "distributed" and config is not None and not config.deployment.connect
    checks = [surroundings.check_control_plane(each, network, needed=needed) for each in asked]
    return list(await asyncio.gather(*checks))


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _usable(findings: Sequence[Finding]) -> bool:
    return all(each.level is not Level.PROBLEM for each in findings)


def _certificates() -> security.Read | None:
    """What reads certificates, where `cryptography` is installed (extra `certs`)."""
    if importlib.util.find_spec("cryptography") is None:
        return None
    from cryptography import x509

    def read(data: bytes) -> list[security.Validity]:
        return [
            security.Validity(each.subject.rfc4514_string(), each.not_valid_before_utc, each.not_valid_after_utc)
            for each in x509.load_pem_x509_certificates(data)
        ]

    return read


async def _listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def _listed(told: SecuritySettings, address: str) -> int | None:
    from aixgo.runtime.contact import open_channel  # cannot be loaded where the generated code is refused
    from aixgo.runtime.discovery import Discovery  # see above
    from aixgo.security.security import Security  # see above

    discovery = Discovery((address,), dial=partial(open_channel, security=Security(told)))
    await discovery.open()
    try:
        heard = await discovery.first_snapshot(_ANSWER_SECONDS)
        return len(discovery.directory.all()) if heard and discovery.directory.has_snapshot else None
    finally:
        await discovery.close()


async def _ran(command: tuple[str, ...]) -> tuple[int, str] | None:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    except OSError:
        return None
    try:
        async with asyncio.timeout(_COMMAND_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return process.returncode or 0, output.decode(errors="replace")
