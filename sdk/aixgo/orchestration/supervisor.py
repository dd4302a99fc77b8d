"""Supervisor: round by round somebody chooses the worker that works next, until the task is done."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, cast

from pydantic import BaseModel, BeforeValidator, Field, create_model, model_validator

from aixgo.asked import HANDOFFS
from aixgo.conversation import with_turns
from aixgo.errors import AixgoError, AllMembersFailed, ConfigError, InvalidInput, OrchestrationFailed
from aixgo.imports import find_object
from aixgo.message import Message
from aixgo.names import nearest
from aixgo.orchestration.asking import ask, question
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_count, check_names, check_rounds, check_word
from aixgo.orchestration.failures import in_words
from aixgo.orchestration.history import History, Round
from aixgo.orchestration.reading import MemberField, PatternConfig, required

AGENT, ROUND_ROBIN = "agent", "round_robin"
FINISH = "finish"
"""What a supervising agent names instead of a worker when the task is done."""
SHOWN = 4000
"""Characters of each worker's reply that the supervising agent is shown, unless `max_shown` says otherwise."""

Rule: TypeAlias = "Callable[[History], str | Awaitable[str | None] | None]"
"""A choice in Python: told the rounds so far (and their `task`), it names the next worker; None: it is finished."""
Select: TypeAlias = 'Literal["agent", "round_robin"] | Rule'
_Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class Decision(BaseModel):
    """What a supervising agent answers. `next` is one of the workers, or `finish`."""

    next: str
    instruction: _Text = Field(default="", description="What the worker is to do; empty to give it the task itself.")
    answer: _Text = Field(
        default="", description="With finish: the answer to the task; empty to give the last worker's reply."
    )


class _BeforeAnyResult(Decision):
    @model_validator(mode="after")
    def _has_something_to_say(self) -> Self:
        if self.next == FINISH and not self.answer.strip():
            raise ValueError("no worker has answered yet, so finish needs an answer; give one, or name a worker")
        return self


class SupervisorConfig(PatternConfig):
    """`config:` of a supervisor orchestration."""

    supervisor: MemberField | None = Field(default=None, description="The agent that decides, with select: agent.")
    select: str = Field(
        default=AGENT, description="agent, round_robin, or a function of yours that chooses: my_pkg.rules:choose."
    )
    max_rounds: int | None = Field(default=None, ge=1, description="Workers' turns; at most limits.max_iterations.")
    descriptions: dict[str, str] = Field(default_factory=dict, description="What each worker can do, for the choice.")
    on_error: Literal["tell", "stop"] = Field(
        default="tell", description="tell: a worker's error is one more thing to go by; stop: it ends the whole."
    )
    max_shown: int = Field(
        default=SHOWN, ge=100, description="Characters of each worker's reply that the supervising agent is shown."
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    """The worker that works next, on what; without one it is finished, perhaps with an answer."""

    worker: Member | None
    instruction: str = ""
    answer: str = ""


class Supervisor(Orchestrator):
    """Calls one of its workers each round, until the task is done or `max_rounds` turns are over.

    `select` says who chooses. With "agent" it is the agent `supervisor`: it is shown the task, the workers with their
    `descriptions` and what happened so far (the first `max_shown` characters of each reply), and answers a Decision;
    the same stands in its request's metadata as `task`, `workers`, `history` (with each `reply`) and `round`. With
    "round_robin" each worker has a turn, in order. A Rule is a function of the history, async or not (a slow one that
    is not async holds up the process).

    A worker's request is the supervising agent's instruction, else the task; its metadata are the task's, and `task`,
    `round` and `conversation`: the task and what was said about it. The reply's payload is the supervising agent's
    answer, else the last good reply of a worker, as it also is when the rounds are over (`finished` is then false).
    A worker's error is told in the history (`on_error="tell"`) or raised ("stop"); an error that ends the whole
    (budget, depth, deadline) is raised always, and AllMembersFailed when there is no good reply at all.

    Metadata: `rounds`, `finished`, `history`: a list of {round, agent, instruction, error: {class, message}}.
    Hand-overs are not offered to workers: they answer to their supervisor. A `response_schema` is every worker's; the
    supervising agent's own answer is text.
    """

    pattern: ClassVar[str] = "supervisor"
    Config = SupervisorConfig

    def __init__(
        self,
        name: str,
        workers: Sequence[Member],
        *,
        supervisor: Member | None = None,
        select: Select = AGENT,
        max_rounds: int | None = None,
        descriptions: Mapping[str, str] | None = None,
        on_error: Literal["tell", "stop"] = "tell",
        max_shown: int = SHOWN,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, workers if supervisor is None else (*workers, supervisor), limits=limits)
        self._workers = tuple(workers)
        self._supervisor = supervisor
        self._select = select
        self._max_rounds = self._rounds(max_rounds)
        self._descriptions = dict(descriptions or {})
        self._stops = check_word(f"on_error of supervisor {name!r}", on_error, ("tell", "stop")) == "stop"
        self._max_shown = check_count(f"max_shown of supervisor {name!r}", max_shown)
        self._check()

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: SupervisorConfig, limits: Limits) -> Self:
        return cls(
            name,
            required(name, agents),
            supervisor=config.supervisor,
            select=_read_select(name, config.select),
            max_rounds=config.max_rounds,
            descriptions=config.descriptions,
            on_error=config.on_error,
            max_shown=config.max_shown,
            limits=limits,
        )

    def _rounds(self, given: int | None) -> int:
        if given is not None:
            return check_rounds(f"max_rounds of supervisor {self.name!r}", given, self.limits)
        if self._select != ROUND_ROBIN:
            return self.limits.max_iterations
        what = f"max_rounds of supervisor {self.name!r} (a turn for each worker)"
        return check_rounds(what, len(self._workers), self.limits)

    def _check(self) -> None:
        """Raise InvalidInput for what contradicts itself."""
        if not self._workers:
            raise InvalidInput(f"supervisor {self.name!r} has no workers; name at least one")
        if isinstance(self._select, str) and self._select not in (AGENT, ROUND_ROBIN):
            hint = nearest(self._select, (AGENT, ROUND_ROBIN))
            raise InvalidInput(f"select: {self._select!r} is not known; {hint}; or pass a function")
        if self._select == AGENT and self._supervisor is None:
            raise InvalidInput(
                f"supervisor {self.name!r} has nobody that decides; name an agent (`supervisor`), or set `select` to"
                " round_robin or a function"
            )
        if self._select != AGENT and self._supervisor is not None:
            raise InvalidInput(
                f"supervisor {self.name!r} has a `supervisor` that its `select` never asks; remove one of them"
            )
        names = {name_of(worker) for worker in self._workers}
        if FINISH in names:
            raise InvalidInput(f"supervisor {self.name!r} has a worker named {FINISH!r}, which is kept; rename it")
        known = names | {f"{self.name}/{index}" for index, worker in enumerate(self._workers) if not name_of(worker)}
        check_names(f"supervisor {self.name!r}: descriptions", self._descriptions, known, "worker")

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        history = History(message)
        calls.span.set("supervisor.rounds", 0)
        for number in range(1, self._max_rounds + 1):
            choice = await self._choose(number, history, calls)
            if choice.worker is None:
                return self._reply(history, calls, finished=True, answer=choice.answer)
            history = history.and_then(await self._turn(number, choice.worker, choice.instruction, history, calls))
            calls.span.set("supervisor.rounds", number)
        return self._reply(history, calls, finished=self._select == ROUND_ROBIN)

    async def _choose(self, number: int, history: History, calls: MemberCalls) -> _Choice:
        if self._supervisor is not None:
            return await self._decided(number, history, calls, self._supervisor)
        if not callable(self._select):
            return _Choice(self._workers[(number - 1) % len(self._workers)])
        chosen = self._select(history)
        name = await chosen if inspect.isawaitable(chosen) else chosen
        return _Choice(None if name is None else self._by_name(name))

    def _by_name(self, name: Any) -> Member:
        """The worker that a rule names. Raises InvalidInput."""
        workers = {name_of(worker): worker for worker in self._workers}
        if not isinstance(name, str) or name not in workers:
            hint = nearest(str(name), workers)
            raise InvalidInput(
                f"select: the rule of supervisor {self.name!r} named {name!r}, and there is no such worker; {hint};"
                " it returns None when the task is done"
            )
        return workers[name]

    async def _decided(self, number: int, history: History, calls: MemberCalls, supervisor: Member) -> _Choice:
        workers = {name_of(worker): worker for worker in self._workers}
        schema = _decision_model(tuple(workers), _BeforeAnyResult if history.last_reply is None else Decision)
        decision, _ = await ask(calls, supervisor, self._question(number, history), schema, number=number)
        return _Choice(workers.get(decision.next), decision.instruction.strip(), decision.answer)

    def _question(self, number: int, history: History) -> Message:
        """What the supervising agent is asked: in words, and as data for agents without a model."""
        workers = {name_of(worker): self._descriptions.get(name_of(worker), "") for worker in self._workers}
        listed = "\n".join(f"- {name}: {text}" if text else f"- {name}" for name, text in workers.items())
        so_far = history.told(self._max_shown) or "Nothing yet."
        text = (
            f"Task:\n{history.task.text}\n\nWorkers:\n{listed}\n\nSo far:\n{so_far}\n\n"
            f"This is round {number} of {self._max_rounds}. Say who works next and on what, or {FINISH}."
        )
        return _for_member(history.task, text).with_metadata(
            task=history.task.json, workers=workers, history=history.shown(self._max_shown), round=number
        )

    async def _turn(self, number: int, worker: Member, instruction: str, history: History, calls: MemberCalls) -> Round:
        task = history.task
        request = _for_member(task, instruction or task.payload).with_metadata(task=task.json, round=number)
        turns = history.conversation(instruction)
        try:
            reply = await calls.step(number, worker, with_turns(request, turns) if turns else request)
        except AixgoError as error:
            if self._stops or calls.fatal(error):
                raise
            return Round(number, name_of(worker), instruction, error=error)
        return Round(number, name_of(worker), instruction, reply)

    def _reply(self, history: History, calls: MemberCalls, *, finished: bool, answer: str = "") -> Message:
        calls.span.set("supervisor.finished", finished)
        reply = Message(answer, session_id=history.task.session_id) if answer.strip() else history.last_reply
        if reply is None:
            raise self._nothing(history)
        return reply.with_metadata(rounds=len(history), finished=finished, history=[one.to_json() for one in history])

    def _nothing(self, history: History) -> OrchestrationFailed:
        if not history:
            return OrchestrationFailed(
                f"the rule of supervisor {self.name!r} was finished before any worker was asked, so there is no result"
            )
        told = f"no worker succeeded in {len(history)} rounds: {in_words(history.errors)}"
        return AllMembersFailed(told, fields={"errors": history.errors})


def _for_member(task: Message, payload: Any) -> Message:
    """A request about the task. Hand-overs that the task's caller offers are not for members."""
    return question(task.without_metadata(HANDOFFS), payload)


def _read_select(name: str, select: str) -> Select:
    """`select` of YAML; raises ConfigError."""
    if select in (AGENT, ROUND_ROBIN):
        return cast("Select", select)
    where = f"orchestration {name!r}: config.select"
    if ":" not in select:
        hint = nearest(select, (AGENT, ROUND_ROBIN))
        raise ConfigError(f"{where}: {select!r} is not known; {hint}; or name a function: my_pkg.rules:choose")
    found = find_object(select, where, "a function that chooses the next worker")
    if not callable(found):
        raise ConfigError(f"{where}: {select} is a {type(found).__name__}; it must name a function of the history")
    return cast("Rule", found)


@lru_cache(maxsize=128)
def _decision_model(workers: tuple[str, ...], base: type[Decision]) -> type[Decision]:
    """The Decision that is valid here; kept, because making a model takes most of a millisecond."""
    choice: Any = Literal[(*workers, FINISH)]
    about = Field(description=f"Who works next; {FINISH} when the task is done.")
    return create_model("Decision", __base__=base, next=(choice, about))
