"""Whether Python and the installed packages are what aixgo needs.

The ranges come from the metadata of the installed aixgo, so that pyproject.toml stays the one place that has them.
What is installed and how modules are imported is passed in. Above: `examination.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aixgo_services.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LEAST_PYTHON = (3, 11)
GENERATED = ("aixgo.v1.agent_pb2_grpc", "aixgo.v1.registry_pb2_grpc")
"""The modules made from the wire contract; importing one imports all that it needs."""

_USEFUL = ("prices",)
"""Extras without which all works that wants them, and only knows less."""

VersionOf = Callable[[str], str | None]
"""The installed version of a distribution; None when it is not installed."""


def check_python(version: Sequence[int]) -> Finding:
    """Whether this Python is new enough."""
    text = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < LEAST_PYTHON:
        return problem("python", f"this is Python {text}", "install Python 3.11 or later, and aixgo in a venv of it")
    return ok("python", text)


def check_packages(requirements: Iterable[str], version_of: VersionOf) -> list[Finding]:
    """Whether what aixgo always needs is there, in the ranges that it says. One line when all is well."""
    wanted = [each for each, extra in _parsed(requirements, ()) if not extra]
    faults = [fault for each in wanted if (fault := _fault("packages", each, version_of))]
    told = ", ".join(f"{each.name} {version_of(each.name)}" for each in wanted if each.name in ("grpcio", "protobuf"))
    return faults or [ok("packages", f"{len(wanted)} in their ranges; {told}")]


def check_extras(
    requirements: Iterable[str], extras: Iterable[str], version_of: VersionOf, needed: Mapping[str, str]
) -> list[Finding]:
    """One line for each extra. `needed` says what wants an extra: without it that is a problem, or a warning where it
    would only be of use.
    """
    names = list(extras)
    parsed = list(_parsed(requirements, names))
    found = [
        finding
        for name in names
        for finding in _extra(name, [each for each, extra in parsed if extra == name], version_of, needed.get(name))
    ]
    unknown = [
        warning(f"extra {name}", f"the installed aixgo does not know it, and {by}", f"pip install -U 'aixgo[{name}]'")
        for name, by in needed.items()
        if name not in names
    ]
    return found + unknown


def check_generated(load: Callable[[str], Any]) -> Finding:
    """Whether the generated code runs with the installed protobuf and grpcio; `load` imports a module."""
    fix = "pip install --upgrade --force-reinstall aixgo (the versions that its metadata asks for)"
    for module in GENERATED:
        try:
            load(module)
        except Exception as error:  # noqa: BLE001  # protobuf and grpcio each refuse with an error of their own
            reason = " ".join(str(error).split())
            return problem("wire contract", f"{module} cannot be imported: {type(error).__name__}: {reason}", fix)
    return ok("wire contract", "the generated code runs with the installed protobuf and grpcio")


def _extra(name: str, wanted: list[Requirement], version_of: VersionOf, needed_by: str | None) -> list[Finding]:
    check = f"extra {name}"
    install = f"pip install 'aixgo[{name}]'"
    missing = [each.name for each in wanted if version_of(each.name) is None]
    if missing:
        told = f"not installed ({', '.join(missing)})"
        if not needed_by:
            return [ok(check, f"{told}; {install}")]
        return [(warning if name in _USEFUL else problem)(check, f"{told}, and {needed_by}", install)]
    faults = [fault for each in wanted if (fault := _fault(check, each, version_of, install))]
    return faults or [ok(check, ", ".join(f"{each.name} {version_of(each.name)}" for each in wanted))]


def _fault(check: str, wanted: Requirement, version_of: VersionOf, install: str = "") -> Finding | None:
    found = version_of(wanted.name)
    fix = install or f"pip install '{wanted.name}{wanted.specifier}'"
    if found is None:
        return problem(check, f"{wanted.name} is not installed", fix)
    if wanted.specifier.contains(found, prereleases=True):
        return None
    told = f"{wanted.name} is {found}, and aixgo needs {wanted.specifier}"
    # An extra outside its range often works all the same; what everything stands on does not.
    return warning(check, told, fix) if install else problem(check, told, fix)


def _parsed(requirements: Iterable[str], extras: Sequence[str]) -> Iterable[tuple[Requirement, str]]:
    """Each requirement that counts on this machine, with the extra that asks for it ("" when always)."""
    from packaging.requirements import Requirement  # only `aixgo doctor` reads them

    for text in requirements:
        each = Requirement(text)
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield each, ""
            continue
        for extra in extras:
            if each.marker.evaluate({"extra": extra}):
                yield each, extra
