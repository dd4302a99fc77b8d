"""Hierarchical: a manager says which team does what, the teams work at once, the manager sums up.

Owns the pattern and its two questions to a manager. A team is a member like any other, so hierarchies nest; a list of
workers becomes a hierarchy inside, led by a manager that is assigned at run time. What goes down the levels and comes
up them lies in `levels.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Self, TypeAlias

from pydantic import Field

from aixgo.agent import Agent
from aixgo.asked import HANDOFFS, RESPONSE_SCHEMA
from aixgo.errors import AllMembersFailed, InvalidInput
from aixgo.message import Message, to_json
from aixgo.orchestration.asking import ask, question
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_concurrency, check_names
from aixgo.orchestration.failures import in_words
from aixgo.orchestration.levels import HIERARCHY, STATE_KEY, Assignment, Found, Place, assignments_model
from aixgo.orchestration.reading import MemberField, PatternConfig, only_named
from aixgo.plans import MAX_FILLED, cut

Team: TypeAlias = "Member | Sequence[Member]"
"""A member of any kind, or a list of workers that a manager leads who is assigned at run time."""
ASSIGNED = "assigned_manager"
_NOT_FOR_TEAMS = frozenset({RESPONSE_SCHEMA, HANDOFFS, ASSIGNED, "teams", "summaries", "team_errors", "assignments"})
"""Metadata of a request that is meant for whoever gives the reply, or for the manager of an outer hierarchy."""


class HierarchicalConfig(PatternConfig):
    """`config:` of a hierarchical orchestration."""

    teams: dict[str, MemberField | list[MemberField]] = Field(
        min_length=1, description="Team -> its agent or pattern, or a list of workers."
    )
    manager: MemberField | None = Field(
        default=None, description="The agent that assigns tasks to teams and sums up; by default the first of managers."
    )
    managers: list[MemberField] = Field(
        default_factory=list[MemberField],
        description="Agents that may lead the teams that are lists of workers, as the manager assigns them.",
    )
    descriptions: dict[str, str] = Field(
        default_factory=dict, description="What teams, workers and managers do, for those who assign."
    )
    concurrency: int | None = Field(default=None, ge=1, description="How many teams work at once.")


@dataclass(frozen=True, slots=True)
class _Common:
    """What a hierarchy and its lists of workers share. `leads` may lead such a list, the default first."""

    leads: Sequence[Member]
    descriptions: Mapping[str, str]
    concurrency: int | None


class _Led(Orchestrator):
    """Teams under a manager: who does what, the work, the summary."""

    pattern: ClassVar[str] = "hierarchical"

    def __init__(
        self, name: str, members: Sequence[Member], *, teams: Mapping[str, Member], common: _Common, limits: Limits
    ) -> None:
        super().__init__(name, members, limits=limits)
        self._teams, self._common = teams, common

    @property
    def agent_count(self) -> int:
        """How many agents it may call; one that is there twice is counted once."""
        return len(self.agents)

    @abstractmethod
    def _manager_of(self, message: Message) -> Member:
        """Who leads in this call."""

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        manager, place = self._manager_of(message), Place.of(message)
        calls.span.set("hierarchical.level", place.level)
        assignments = await self._assign(message, place, manager, calls)
        calls.span.set("hierarchical.assignments", len(assignments))
        found = await self._work(message, place.below(name_of(manager)), assignments, calls)
        calls.span.set("hierarchical.teams_failed", len(found.errors))
        if not found.summaries:
            raise _all_failed(found)
        told = {"assignments": [each.to_json() for each in assignments], **found.to_json()}
        asked = question(message, _results(message.text, found))
        asked = asked.with_metadata(**told, task=message.text, **{HIERARCHY: place.with_state(found.state).to_json()})
        reply = await calls.call(manager, asked)
        up = {STATE_KEY: dict(found.state)} if found.state else {}
        return reply.with_metadata(**told, **up, level=place.level)

    async def _assign(
        self, message: Message, place: Place, manager: Member, calls: MemberCalls
    ) -> Sequence[Assignment]:
        """Who does what, each list of workers with its manager. Raises InvalidReply."""
        lists = [name for name, member in self._teams.items() if isinstance(member, _Workers)]
        leads = [name_of(lead) for lead in self._common.leads] if lists else []
        teams = {name: self._about(name, member) for name, member in self._teams.items()}
        asked = question(
            message.without_metadata(*_NOT_FOR_TEAMS), self._question(message.text, teams, lists, leads, place)
        )
        asked = asked.with_metadata(task=message.text, teams=teams, **{HIERARCHY: place.to_json()})
        plan, _ = await ask(calls, manager, asked, assignments_model(teams, leads, self.limits.max_agents))
        return [each.led_by((each.manager or leads[0]) if each.to in lists else None) for each in plan.assignments]

    def _question(
        self, task: str, teams: Mapping[str, str], lists: Sequence[str], leads: Sequence[str], place: Place
    ) -> str:
        lines = [task, "", "You lead these teams. Say what each is to do; a team sees only the task that you give it:"]
        lines += [f"- {name}: {about}" if about else f"- {name}" for name, about in teams.items()]
        if len(leads) > 1:
            lines.append(f"For each task of {', '.join(lists)}, name the manager who leads it:")
            lines += [f"- {lead}: {self._common.descriptions.get(lead, '')}".rstrip(": ") for lead in leads]
        if place.state:
            lines += ["What is known so far:", cut(to_json(place.state).decode(), MAX_FILLED)]
        return "\n".join(lines)

    def _about(self, name: str, member: Member) -> str:
        about = self._common.descriptions.get(name, "")
        return about or (f"the workers {', '.join(member.workers)}" if isinstance(member, _Workers) else "")

    async def _work(
        self, message: Message, place: Place, assignments: Sequence[Assignment], calls: MemberCalls
    ) -> Found:
        """What the teams bring. Raises what is fatal."""

        def request(assignment: Assignment) -> Message:
            asked = question(message.without_metadata(*_NOT_FOR_TEAMS), assignment.task)
            asked = asked.with_metadata(**{HIERARCHY: place.to_json()})
            return asked.with_metadata(**{ASSIGNED: assignment.manager}) if assignment.manager else asked

        work = [(self._teams[each.to], request(each)) for each in assignments]
        outcomes = await calls.scatter(work, concurrency=self._common.concurrency)
        for error in outcomes.errors:
            if calls.fatal(error):
                raise error
        return Found.of([each.to for each in assignments], outcomes, place.state)


class Hierarchical(_Led):
    """Asks a manager who does what, has the teams do it at once, and asks the manager for the summary: the reply.

    The manager answers {"assignments": [{"to", "task"}]}; a team may get several. A team is an agent, an orchestrator
    (a Hierarchical is a sub-manager with teams of its own), or a list of workers. Such a list is led by one of
    `managers`, which the manager names in the assignment as `manager`; else by the first of them, else by the manager.

    What goes down is in the metadata `hierarchy`: {goal, level (1 is the top), managers (names, from the top), state}.
    What comes up are the teams' replies, and their metadata `hierarchy_state`, a JSON object that is merged into the
    state (64 KiB at most); the reply has the merged one. A request may bring the first state in `hierarchy`. For the
    summary the manager gets the metadata `summaries`, `team_errors`, `assignments` and `hierarchy` beside the text.

    A team that fails is told to the manager. AllMembersFailed is raised when none succeeds, InvalidReply when the
    manager gives no usable assignments; budget, depth and deadline end it as themselves. Each level is a call inside a
    call, so limits.max_depth bounds how deep hierarchies go.

    Metadata: `assignments` [{to, task, manager}], `summaries` {team: text} (a second assignment of a team is `team#2`),
    `level`; `team_errors` {team: {class, message}} when some failed; `hierarchy_state` when there is one.
    """

    Config = HierarchicalConfig

    def __init__(
        self,
        name: str,
        teams: Mapping[str, Team],
        *,
        manager: Member | None = None,
        managers: Sequence[Member] = (),
        descriptions: Mapping[str, str] | None = None,
        concurrency: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        above = (*(() if manager is None else (manager,)), *managers)
        if not above:
            raise InvalidInput(f"hierarchical {name!r} has no manager; pass manager=, or managers=")
        if not teams:
            raise InvalidInput(f"hierarchical {name!r} has no teams; pass at least one")
        check_concurrency(f"concurrency of hierarchical {name!r}", concurrency)
        self._manager = above[0]
        common = _Common(tuple(managers) or above, dict(descriptions or {}), concurrency)
        made = {team: _member(team, member, common, limits) for team, member in teams.items()}
        _check_descriptions(name, common.descriptions, above, made)
        super().__init__(name, (*above, *made.values()), teams=made, common=common, limits=limits)

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: HierarchicalConfig, limits: Limits) -> Self:
        listed = chain.from_iterable(team if isinstance(team, list) else [team] for team in config.teams.values())
        only_named(name, agents, [config.manager, *config.managers, *listed], "manager, managers, teams")
        return cls(
            name,
            config.teams,
            manager=config.manager,
            managers=config.managers,
            descriptions=config.descriptions,
            concurrency=config.concurrency,
            limits=limits,
        )

    def _manager_of(self, message: Message) -> Member:
        return self._manager


class _Workers(_Led):
    """A team that is a list of workers. It is called `parent/N`, and led by one of its parent's managers: the one that
    the request names in `assigned_manager`, else the default. Their names are looked up when it is called, because
    unnamed ones are named when the parent is registered. Its reply says `assigned_manager`.
    """

    def __init__(self, workers: Mapping[str, Member], common: _Common, limits: Limits) -> None:
        super().__init__("", tuple(workers.values()), teams=workers, common=common, limits=limits)

    @property
    def workers(self) -> Sequence[str]:
        """The workers by the names that their manager knows them by."""
        return tuple(self._teams)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        reply = await super().run(message, calls)
        return reply.with_metadata(**{ASSIGNED: name_of(self._manager_of(message))})

    def _manager_of(self, message: Message) -> Member:
        assigned, leads = message.metadata.get(ASSIGNED), self._common.leads
        return next((lead for lead in leads if name_of(lead) == assigned), leads[0])


def _member(team: str, member: Team, common: _Common, limits: Limits) -> Member:
    """The member that a team is. Raises InvalidInput for a list without workers, or with one of them twice."""
    if isinstance(member, (str, Agent)):
        return member
    if not member:
        raise InvalidInput(f"teams.{team} is an empty list; name at least one worker")
    names = [name_of(worker) or f"worker-{number}" for number, worker in enumerate(member, 1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"teams.{team} has the worker {twice!r} more than once; name each once")
    return _Workers(dict(zip(names, member, strict=True)), common, limits)


def _check_descriptions(
    name: str, descriptions: Mapping[str, str], above: Sequence[Member], teams: Mapping[str, Member]
) -> None:
    """Raise InvalidInput for a description of what is not there. Unnamed managers are called `name/0` and on."""
    known = {*teams, *(name_of(member) or f"{name}/{index}" for index, member in enumerate(above))}
    for team in teams.values():
        known.update(team.workers if isinstance(team, _Workers) else ())
    check_names(f"hierarchical {name!r}: descriptions", descriptions, known, "team, worker or manager")


def _all_failed(found: Found) -> AllMembersFailed:
    return AllMembersFailed(f"no team succeeded: {in_words(found.errors)}", fields={"errors": dict(found.errors)})


def _results(task: str, found: Found) -> str:
    """What the manager is asked in the end."""
    share = MAX_FILLED // len(found.summaries)
    lines = [task, "", "Your teams have answered. Give the answer to the task from their results."]
    for team, text in found.summaries.items():
        lines += ["", f"{team}:", cut(text, share)]
    if found.errors:
        lines += ["", "These failed:"]
        lines += [f"- {team}: {error['class']}: {error['message']}" for team, error in found.errors.items()]
    return "\n".join(lines)
