"""What must hold across the sections of a file: names, members and circles.

Each check notes what it finds with its line, so that all of it is told at once. Above: `load.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import ValidationError

from aixgo.agent import check_name
from aixgo.config.faults import describe
from aixgo.config.members import config_members
from aixgo.config.schema import Config, PatternSpec, dotted
from aixgo.errors import InvalidInput
from aixgo.names import nearest
from aixgo.orchestration.catalog import PATTERNS
from aixgo.runtime.dns import ANY_NAME
from aixgo.tools.contract import check_tool_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from aixgo.config.document import Document, Location
    from aixgo.config.problems import Problems

Graph: TypeAlias = "Mapping[str, list[str]]"


def check_whole(config: Config, document: Document, problems: Problems) -> None:
    """Note everything that is wrong with a file whose values have the right types."""
    _Checks(config, document, problems).run()


class _Checks:
    def __init__(self, config: Config, document: Document, problems: Problems) -> None:
        self._config = config
        self._document = document
        self._problems = problems
        self._known = {*config.names, *config.deployment.connect}
        self._tools = [tool.name for tool in config.tools if tool.python is not None]
        self._servers = [tool.name for tool in config.tools if tool.mcp is not None]

    def run(self) -> None:
        if not self._config.names:
            self._note((), "there is nothing to run; add `agents:` with at least one agent")
        self._check_names()
        self._check_tools()
        self._check_roles()
        graph: dict[str, list[str]] = {}
        for location, spec in self._orchestrations():
            graph.setdefault(spec.name, []).extend(self._check_pattern(location, spec))
        self._check_circles(graph)
        self._check_deployment()

    def _note(self, location: Location, what: str) -> None:
        self._problems.add(self._document.line(location), what)

    def _orchestrations(self) -> Iterator[tuple[Location, Any]]:
        if self._config.orchestration is not None:
            yield ("orchestration",), self._config.orchestration
        for index, spec in enumerate(self._config.orchestrations):
            yield ("orchestrations", index), spec

    def _check_names(self) -> None:
        first: dict[str, int] = {}
        places = [(("agents", index), agent.name) for index, agent in enumerate(self._config.agents)]
        places += [(location, spec.name) for location, spec in self._orchestrations()]
        for location, name in places:
            line = self._document.line((*location, "name"))
            if name in first:
                self._note((*location, "name"), f"the name {name!r} is taken (line {first[name]}); rename one of them")
            first.setdefault(name, line)
            self._check_name((*location, "name"), name)

    def _check_name(self, location: Location, name: str) -> None:
        try:
            check_name(name)
        except InvalidInput as error:
            self._note(location, f"{dotted(location)}: {error.message}")
            return
        if "/" in name:
            self._note(
                location, f"{dotted(location)}: {name!r} has a '/', which is kept for unnamed members; remove it"
            )

    def _check_roles(self) -> None:
        for index, agent in enumerate(self._config.agents):
            location = ("agents", index)
            self._check_named(location, "tools", agent.tools, self._tools)
            self._check_named(location, "mcp_servers", agent.mcp_servers, self._servers)
            for number, source in enumerate(agent.inputs):
                self._check_member((*location, "inputs", number, "source"), source.source)
            for number, output in enumerate(agent.outputs):
                self._check_member((*location, "outputs", number, "target"), output.target)

    def _check_tools(self) -> None:
        first: dict[str, int] = {}
        for index, tool in enumerate(self._config.tools):
            location = ("tools", index, "name")
            if tool.name in first:
                self._note(location, f"the name {tool.name!r} is taken (line {first[tool.name]}); rename one of them")
            first.setdefault(tool.name, self._document.line(location))
            if tool.python is not None:
                try:
                    check_tool_name(tool.name)
                except InvalidInput as error:
                    self._note(location, f"{dotted(location)}: {error.message}")

    def _check_named(self, location: Location, key: str, names: Sequence[str], known: Collection[str]) -> None:
        """Check the tools or MCP servers that an agent names."""
        other = "mcp_servers" if key == "tools" else "tools"
        elsewhere = self._servers if key == "tools" else self._tools
        for number, name in enumerate(names):
            if name not in known:
                place = (*location, key, number)
                hint = f"name it under {other}" if name in elsewhere else nearest(name, known)
                self._note(place, f"{dotted(place)}: {name!r} is not among the {key} of this file; {hint}")

    def _check_pattern(self, location: Location, spec: PatternSpec) -> list[str]:
        """Check one pattern and those inside it; the names that it calls."""
        if spec.pattern not in PATTERNS and ":" not in spec.pattern:
            self._note((*location, "pattern"), f"unknown pattern {spec.pattern!r}; {nearest(spec.pattern, PATTERNS)}")
        names: list[str] = []
        for index, member in enumerate(spec.agents):
            names += self._check_any_member((*location, "agents", index), member)
        for place, raw in config_members(spec):
            names += self._check_any_member((*location, *place), self._parsed((*location, *place), raw))
        return names

    def _check_any_member(self, location: Location, member: str | PatternSpec | None) -> list[str]:
        if isinstance(member, PatternSpec):
            return self._check_pattern(location, member)
        if member is not None:
            self._check_member(location, member)
        return [] if member is None else [member]

    def _check_member(self, location: Location, name: str) -> None:
        if name not in self._known and ANY_NAME not in self._known:
            hint = nearest(name, self._known)
            self._note(location, f"{dotted(location)}: {name!r} is neither an agent nor an orchestration; {hint}")

    def _parsed(self, location: Location, raw: Any) -> str | PatternSpec | None:
        if isinstance(raw, str):
            return raw
        try:
            return PatternSpec.model_validate(raw)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                describe(dict[str, Any](one), location, self._document, self._problems, PatternSpec)
            return None

    def _check_circles(self, graph: Graph) -> None:
        for circle in _circles(graph):
            self._note(
                self._config.location(circle[0]),
                f"orchestrations call each other in a circle: {' > '.join(circle)}; take one out of the other",
            )

    def _check_deployment(self) -> None:
        deployment = self._config.deployment
        names = self._config.names
        for name in deployment.agents:
            if name not in names:
                what = f"deployment.agents names {name!r}, which is no agent of this file; {nearest(name, set(names))}"
                self._note(("deployment", "agents", name), what)
        for name, placement in deployment.agents.items():
            place = ("deployment", "agents", name)
            if placement.port and placement.port + placement.replicas - 1 > 65535:
                self._note((*place, "port"), "the replicas' ports would go over 65535; choose a lower port")
        if deployment.connect and deployment.mode == "local":
            what = "deployment.connect is for other processes; add `mode: distributed`"
            self._note(("deployment", "connect"), what)


def _circles(graph: Graph) -> list[tuple[str, ...]]:
    """Each circle once, from the name where it was entered back to it. Iterative: a file may chain many names."""
    circles: list[tuple[str, ...]] = []
    done: set[str] = set()
    for start in graph:
        path: list[str] = [start]
        branches = [iter(graph[start])]
        while branches:
            name = next(branches[-1], None)
            if name is None:
                branches.pop()
                done.add(path.pop())
            elif name in path:
                circles.append((*path[path.index(name) :], name))
            elif name in graph and name not in done:
                path.append(name)
                branches.append(iter(graph[name]))
    return circles
