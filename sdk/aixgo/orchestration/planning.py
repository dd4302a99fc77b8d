"""Planning: a planner says which steps there are and what each needs; the steps run as their needs are done.

Owns the pattern: asking for plans, carrying them out, new plans after a failure, and what becomes the reply. What a
plan is and when it is valid lies in `aixgo.plans`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import Field

from aixgo.asked import HANDOFFS, RESPONSE_SCHEMA
from aixgo.errors import AixgoError, InvalidInput, PlanFailed
from aixgo.message import Message
from aixgo.orchestration.asking import ask, question
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_concurrency, check_count, check_names, check_rounds
from aixgo.orchestration.course import Course
from aixgo.orchestration.reading import MemberField, PatternConfig, required
from aixgo.plans import MAX_FILLED, MAX_STEPS, Step, cut, filled, plan_model

MOST_STEPS = 1000
"""What `max_steps` may be at most."""
_RULES = (
    "Put into `needs` the ids of the steps that must be done before it; steps that do not need each other run at the"
    " same time. Agents see their own step's task only: write {step.ID} into it where the result of step ID is to"
    " stand."
)
_TOLD = 2000
"""Characters of a result or an error that the planner is told."""
_NOT_FOR_STEPS = frozenset({RESPONSE_SCHEMA, HANDOFFS, "done", "failed"})
"""Metadata of a request that is meant for whoever gives the reply, or for the planner of an outer plan."""


class PlanningConfig(PatternConfig):
    """`config:` of a planning orchestration; its workers stand under `agents:`."""

    planner: MemberField = Field(description="The agent that plans: the role planner or llm, or one of yours.")
    synthesizer: MemberField | None = Field(
        default=None, description="The agent that makes the reply of all results; without it, the last step's."
    )
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=MOST_STEPS, description="Steps of one plan.")
    max_replans: int = Field(default=2, ge=0, description="New plans after a step has failed.")
    descriptions: dict[str, str] = Field(default_factory=dict, description="What each worker does, for the planner.")
    concurrency: int | None = Field(default=None, ge=1, description="How many steps run at once.")


class Planning(Orchestrator):
    """Asks `planner` for a plan, {"steps": [{"id", "agent", "task", "needs"}]}, and carries it out with its workers.

    Each step runs as soon as the steps that it needs are done, independent ones at once, at most `concurrency` of them.
    `{step.ID}` in a task is replaced by the text of that step's result, and means that it is needed; the results that a
    step needs are in its request's metadata `step_results` too, by id, beside `task` (the whole one) and `step`.

    A plan that cannot be carried out (unknown agents or needs, circles, more than `max_steps`) is told to the planner,
    which is asked once more; then InvalidReply is raised. When a step fails, those that run come to their end, nothing
    new begins, and the planner is asked for a plan of what is left: its request's metadata has `done` and `failed`.
    After `max_replans` of these, or when there is no new plan, PlanFailed is raised. Budget, depth and deadline end it
    at once, as themselves.

    The reply is the synthesizer's, else that of the one step that no other needs; of several, the payload is an object,
    id -> payload (bytes as base64). Metadata: `plan` (the steps that were done), `step_count`, `replans`,
    `step_results` (id -> payload).
    """

    pattern: ClassVar[str] = "planning"
    Config = PlanningConfig

    def __init__(
        self,
        name: str,
        workers: Sequence[Member],
        planner: Member,
        *,
        synthesizer: Member | None = None,
        max_steps: int = MAX_STEPS,
        max_replans: int = 2,
        descriptions: Mapping[str, str] | None = None,
        concurrency: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        last = () if synthesizer is None else (synthesizer,)
        super().__init__(name, (*workers, planner, *last), limits=limits)
        self._workers, self._planner, self._synthesizer = tuple(workers), planner, synthesizer
        self._max_steps = check_count(f"max_steps of planning {name!r}", max_steps, MOST_STEPS)
        what = f"max_replans of planning {name!r}"
        self._max_replans = check_rounds(what, max_replans, limits) if max_replans != 0 else 0
        self._descriptions = _described(name, workers, descriptions or {})
        self._concurrency = check_concurrency(f"concurrency of planning {name!r}", concurrency)
        if not workers:
            raise InvalidInput(f"planning {name!r} has no workers; name at least one")

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: PlanningConfig, limits: Limits) -> Self:
        return cls(
            name,
            required(name, agents),
            config.planner,
            synthesizer=config.synthesizer,
            max_steps=config.max_steps,
            max_replans=config.max_replans,
            descriptions=config.descriptions,
            concurrency=config.concurrency,
            limits=limits,
        )

    @property
    def agent_count(self) -> int:
        """How many workers there are; planner and synthesizer are none of them."""
        return len(self._workers)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        progress = _Progress()
        try:
            for replans in range(self._max_replans + 1):
                progress.replans = replans
                steps = await self._plan(message, progress, calls)
                if await self._carry_out(steps, message, progress, calls):
                    return await self._reply(message, progress, calls)
            raise _plan_failed(progress)
        finally:
            calls.span.set("planning.steps", len(progress.results))
            calls.span.set("planning.replans", progress.replans)

    async def _plan(self, message: Message, progress: _Progress, calls: MemberCalls) -> Sequence[Step]:
        """The first plan, or a new one. Raises InvalidReply, or for a new one PlanFailed; the planner's own errors."""
        agents = {name_of(worker): self._descriptions.get(name_of(worker), "") for worker in self._workers}
        model = plan_model(agents=agents, max_steps=self._max_steps, done=progress.results)
        asked = question(message.without_metadata(*_NOT_FOR_STEPS), self._question(message.text, agents, progress))
        asked = asked.with_metadata(task=message.text, agents=agents, **progress.told())
        try:
            plan, _ = await ask(calls, self._planner, asked, model)
        except AixgoError as error:
            if not progress.failures or calls.fatal(error):
                raise
            raise _plan_failed(progress, f"; the planner made no new plan: {error.message}") from error
        progress.adopt(plan.steps)
        return plan.steps

    def _question(self, task: str, agents: Mapping[str, str], progress: _Progress) -> str:
        lines = [task, "", "Plan the steps that do this. Each is done by one of these agents:"]
        lines += [f"- {name}: {about}" if about else f"- {name}" for name, about in agents.items()]
        lines += [
            f"Give at most {self._max_steps} steps, each with an id of its own.",
            _RULES,
            *progress.lines(),
        ]
        return "\n".join(lines)

    async def _carry_out(
        self, steps: Sequence[Step], message: Message, progress: _Progress, calls: MemberCalls
    ) -> bool:
        """Run a plan's steps; whether all of them are done. Raises what is fatal."""
        numbers = {step.id: number for number, step in enumerate(steps, len(progress.done) + 1)}
        last = progress.outputs() if self._synthesizer is None else ()

        async def do(step: Step) -> Message:
            request = message if last == (step.id,) else message.without_metadata(*_NOT_FOR_STEPS)
            reply = await calls.step(numbers[step.id], step.agent, _request(request, step, progress))
            progress.results[step.id] = reply
            return reply

        progress.failures = await Course(steps, do, calls, self._concurrency).run()
        progress.settle()
        for error in progress.failures.values():
            if calls.fatal(error):
                raise error
        return not progress.failures

    async def _reply(self, message: Message, progress: _Progress, calls: MemberCalls) -> Message:
        results = {step.id: progress.results[step.id].json for step in progress.done}
        metadata = {"plan": [step.to_json() for step in progress.done], "step_results": results}
        outputs = progress.outputs()
        if self._synthesizer is not None:
            asked = question(message, _all_results(message.text, progress))
            reply = await calls.call(self._synthesizer, asked.with_metadata(task=message.text, **metadata))
        elif len(outputs) == 1:
            reply = progress.results[outputs[0]]
        else:
            reply = Message({step: results[step] for step in outputs}, session_id=message.session_id)
        return reply.with_metadata(step_count=len(progress.done), replans=progress.replans, **metadata)


@dataclass(slots=True)
class _Progress:
    """What is done, over all plans of one run."""

    done: list[Step] = field(default_factory=list[Step])
    results: dict[str, Message] = field(default_factory=dict[str, Message])
    planned: tuple[Step, ...] = ()
    failures: Mapping[str, AixgoError] = field(default_factory=dict[str, AixgoError])
    replans: int = 0
    _needed: set[str] = field(default_factory=set[str])

    def adopt(self, steps: tuple[Step, ...]) -> None:
        """Take a plan as the one to carry out."""
        self.planned = steps
        self._needed.update(need for step in steps for need in step.needs)

    def settle(self) -> None:
        """Keep the steps of the plan that are done, in the plan's order."""
        self.done += [step for step in self.planned if step.id in self.results]

    def outputs(self) -> tuple[str, ...]:
        """The steps that no step of any plan was meant to use; when there is none, the last one done.

        A result that only a failed step would have used is no part of the answer.
        """
        done = [step.id for step in self.done]
        steps = tuple(dict.fromkeys((*done, *(step.id for step in self.planned))))
        return tuple(step for step in steps if step not in self._needed) or steps[-1:]

    def told(self) -> dict[str, Any]:
        """The metadata of a request for a new plan; empty for the first one."""
        if not self.failures:
            return {}
        done = {
            step.id: {"agent": step.agent, "task": step.task, "result": self.results[step.id].json}
            for step in self.done
        }
        return {"done": done, "failed": self.errors()}

    def errors(self) -> dict[str, dict[str, str]]:
        """What failed in the last plan: id -> {agent, task, class, message}."""
        steps = {step.id: step for step in self.planned}
        return {
            name: {"agent": steps[name].agent, "task": cut(steps[name].task, _TOLD)}
            | {"class": type(error).__name__, "message": cut(error.message, _TOLD)}
            for name, error in self.failures.items()
        }

    def lines(self) -> Sequence[str]:
        """The same for a model to read."""
        if not self.failures:
            return ()
        made = ["", "A former plan failed. Plan what is left to do, in another way where that one failed."]
        if self.done:
            made.append("Done, with results that stand; steps may need them, and are not to repeat them:")
        made += [
            f"- {step.id} ({step.agent}): {cut(step.task, _TOLD)}\n  Result: {cut(self.results[step.id].text, _TOLD)}"
            for step in self.done
        ]
        made.append("Failed:")
        for name, error in self.errors().items():
            made.append(f"- {name} ({error['agent']}): {error['task']}\n  {error['class']}: {error['message']}")
        return made


def _request(message: Message, step: Step, progress: _Progress) -> Message:
    """What a step's agent is asked."""
    texts = {need: progress.results[need].text for need in step.needs}
    results = {need: progress.results[need].json for need in step.needs}
    return question(message, filled(step.task, texts)).with_metadata(
        task=message.text, step=step.id, step_results=results
    )


def _all_results(task: str, progress: _Progress) -> str:
    """What the synthesizer is asked."""
    share = MAX_FILLED // max(len(progress.done), 1)
    lines = [task, "", "The steps of a plan for this were done. Answer from their results:"]
    for step in progress.done:
        lines += ["", f"{step.id} ({step.agent}): {step.task}", cut(progress.results[step.id].text, share)]
    return "\n".join(lines)


def _plan_failed(progress: _Progress, why: str = "") -> PlanFailed:
    told = progress.errors()
    step, first = next(iter(told.items()))
    errors = {name: {key: each[key] for key in ("agent", "class", "message")} for name, each in told.items()}
    failed = PlanFailed(
        f"step {step!r} ({first['agent']}) failed after {progress.replans} new plans:"
        f" {first['class']}: {first['message']}{why}",
        fields={"step": step, "errors": errors, "done": list(progress.results)},
    )
    failed.__cause__ = progress.failures[step]
    return failed


def _described(name: str, workers: Sequence[Member], descriptions: Mapping[str, str]) -> Mapping[str, str]:
    """`descriptions` itself; raises InvalidInput for one of an agent that is no worker."""
    known = {name_of(worker) or f"{name}/{index}" for index, worker in enumerate(workers)}
    check_names(f"planning {name!r}: descriptions", descriptions, known, "worker")
    return dict(descriptions)
