"""Reflection: it stops as documented, returns the best version, and keeps it when something fails later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from aixgo import (
    Agent,
    AgentSpec,
    Delta,
    Event,
    Limits,
    LocalRuntime,
    MemberFinished,
    Message,
    Reflection,
    Result,
    Sequential,
    agent,
    errors,
)
from aixgo.agents.llm import LLMAgent
from aixgo.config.build import build_agents
from aixgo.config.load import loads
from aixgo.errors import ConfigError, InvalidInput, InvalidReply
from aixgo.orchestration.reflection import best_of, without_improvement
from aixgo.resources import Resources
from aixgo.runtime.contract import CallOptions
from aixgo.telemetry import spans
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given
from hypothesis import strategies as st


class Writer(Agent):
    """Answers `draft 1`, `draft 2`, ..., or raises the error that stands in for a draft."""

    name = "writer"

    def __init__(self, *failures: tuple[int, Exception]) -> None:
        self.asked: list[Message] = []
        self._failures = dict(failures)

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        number = len(self.asked)
        if number in self._failures:
            raise self._failures[number]
        return Message(f"draft {number}", {"number": number})

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        reply = await self.execute(message)
        yield Delta(reply.text)
        yield Result(reply)


class Critic(Agent):
    """Answers these in order: a score as a Critique, anything else as it is; exceptions are raised."""

    name = "critic"

    def __init__(self, *answers: Any) -> None:
        self.asked: list[Message] = []
        self._answers = answers

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        answer = self._answers[len(self.asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, float):
            return Message({"score": answer, "feedback": f"better than {answer}"})
        return Message.of(answer)


async def reflect(critic: Critic, writer: Writer | None = None, request: Any = "task", **settings: Any) -> Message:
    async with running(writer or Writer(), critic, Reflection("r", "writer", "critic", **settings)) as runtime:
        return await runtime.call("r", request)


async def test_it_stops_at_the_threshold_with_the_drafts_own_payload_and_metadata() -> None:
    reply = await reflect(Critic(0.2, 0.8, 1.0))
    assert (reply.payload, reply.metadata["number"]) == ("draft 2", 2)
    assert {key: reply.metadata[key] for key in ("iterations", "score", "scores", "best_iteration", "stopped")} == {
        "iterations": 2, "score": 0.8, "scores": [0.2, 0.8], "best_iteration": 2, "stopped": "threshold",
    }  # fmt: skip
    assert reply.metadata["feedback"] == "better than 0.8"
    assert (reply.metadata["pattern"], reply.metadata["agent_count"]) == ("reflection", 2)
    assert "reflection_error" not in reply.metadata


async def test_the_best_version_wins_not_the_last() -> None:
    reply = await reflect(Critic(0.5, 0.3, 0.1), max_iterations=3, patience=3)
    assert (reply.payload, reply.metadata["stopped"], reply.metadata["scores"]) == (
        "draft 1", "max_iterations", [0.5, 0.3, 0.1],
    )  # fmt: skip


async def test_it_stops_when_a_version_is_no_better() -> None:
    assert (await reflect(Critic(0.5, 0.5, 0.9))).metadata["stopped"] == "no_improvement"


async def test_a_small_improvement_counts_as_none_and_still_wins() -> None:
    reply = await reflect(Critic(0.5, 0.55), min_improvement=0.1)
    assert (reply.payload, reply.metadata["stopped"]) == ("draft 2", "no_improvement")


async def test_the_first_draft_answers_the_request_itself_and_later_ones_revise_the_last() -> None:
    writer, critic = Writer(), Critic(0.4, 0.3, 0.9)
    await reflect(critic, writer, Message({"about": "rain"}, {"tone": "dry"}, session_id="s"), patience=2)
    first, second, third = writer.asked
    assert (first.payload, dict(first.metadata)) == ({"about": "rain"}, {"tone": "dry"})
    assert dict(third.metadata) == {
        "tone": "dry", "task": {"about": "rain"}, "draft": "draft 2", "feedback": "better than 0.3", "iteration": 3,
    }  # fmt: skip
    for part in ('{"about":"rain"}', "draft 2", "score 0.3 of 1", "better than 0.3"):
        assert part in third.text
    assert "draft 1" not in third.text
    assert [each.session_id for each in writer.asked] == ["s"] * 3
    assert len({first.id, second.id, third.id}) == 3


async def test_the_critic_gets_task_draft_and_the_schema_of_its_answer() -> None:
    critic = Critic(0.9)
    await reflect(critic, request=Message("task", {"tone": "dry", "handoffs": {"other": ""}}))
    (asked,) = critic.asked
    schema = asked.metadata["response_schema"]
    assert schema["required"] == ["score", "feedback"]
    assert {key: asked.metadata[key] for key in ("task", "draft", "iteration", "tone")} == {
        "task": "task", "draft": "draft 1", "iteration": 1, "tone": "dry",
    }  # fmt: skip
    assert "handoffs" not in asked.metadata
    assert "task" in asked.text
    assert "draft 1" in asked.text


async def test_bytes_reach_the_critic_as_base64() -> None:
    @agent(name="writer")
    async def draws(message: Message) -> bytes:
        return b"\x89PNG"

    critic = Critic(0.9)
    async with running(draws, critic, Reflection("r", "writer", "critic")) as runtime:
        reply = await runtime.call("r", "task")
    assert reply.payload == b"\x89PNG"
    assert critic.asked[0].metadata["draft"] == "iVBORw=="


async def test_a_critic_may_answer_text_with_the_score_in_its_metadata() -> None:
    writer = Writer()
    reply = await reflect(Critic(Message("shorter", {"score": 0.5}), Message("fine", {"score": 1})), writer)
    assert (reply.metadata["scores"], reply.metadata["feedback"]) == ([0.5, 1.0], "fine")
    assert writer.asked[1].metadata["feedback"] == "shorter"


async def test_a_percentage_is_understood_as_a_score() -> None:
    assert (await reflect(Critic({"score": 85, "feedback": ""}))).metadata["score"] == 0.85


async def test_a_critique_wins_over_a_score_in_the_metadata() -> None:
    nested = Message('{"score": 0.9, "feedback": "f"}', {"score": 0.1})
    assert (await reflect(Critic(nested))).metadata["score"] == 0.9


@pytest.mark.parametrize(
    "unusable",
    ["not JSON", {"score": 1.5, "feedback": ""}, {"feedback": "no score"}, Message("far too good", {"score": 7})],
)
async def test_an_answer_that_is_no_critique_is_asked_for_once_more(unusable: Any) -> None:
    critic = Critic(unusable, 0.9)
    assert (await reflect(critic)).metadata["score"] == 0.9
    assert "Your last answer could not be used: " in critic.asked[1].text
    assert critic.asked[1].text.startswith(critic.asked[0].text)
    with pytest.raises(InvalidReply) as caught:
        await reflect(Critic(unusable, unusable, 0.9))
    assert "agent 'critic' was asked 2 times for a JSON object with score, feedback: " in caught.value.message
    assert caught.value.fields["step"] == 2


@pytest.mark.parametrize("failed", ["writer", "critic"])
@pytest.mark.parametrize("error", [ValueError("no"), errors.BudgetExceeded("spent"), errors.DeadlineExceeded("slow")])
async def test_once_there_is_a_score_a_failure_ends_it_with_the_best_so_far(failed: str, error: Exception) -> None:
    writer = Writer((3, error)) if failed == "writer" else Writer()
    reply = await reflect(Critic(0.5, 0.1, error), writer, patience=5)
    assert (reply.payload, reply.metadata["stopped"], reply.metadata["iterations"]) == ("draft 1", "error", 2)
    told = reply.metadata["reflection_error"]
    assert told["class"] == ("AgentFailed" if isinstance(error, ValueError) else type(error).__name__)
    assert str(error) in told["message"]
    assert f"(at r/{failed})" in told["message"]


@pytest.mark.parametrize(
    ("writer", "critic", "step"), [(Writer((1, ValueError("no"))), Critic(), 1), (Writer(), Critic(ValueError()), 2)]
)
async def test_before_there_is_a_score_it_is_raised(writer: Writer, critic: Critic, step: int) -> None:
    with pytest.raises(errors.AgentFailed) as caught:
        await reflect(critic, writer)
    assert caught.value.fields["step"] == step


@pytest.mark.parametrize("limit", ["its own", "the call's"])
async def test_its_own_deadline_is_no_failure_to_get_over(limit: str) -> None:
    cancelled: list[str] = []

    @agent(name="critic")
    async def hangs_the_second_time(message: Message) -> dict[str, Any]:
        if message.metadata["iteration"] == 1:
            return {"score": 0.1, "feedback": ""}
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append("critic")
        raise AssertionError

    limits = Limits(timeout=0.05) if limit == "its own" else Limits()
    made = Reflection("r", "writer", "critic", limits=limits)
    async with running(Writer(), hangs_the_second_time, made) as runtime:
        before = asyncio.all_tasks()
        with pytest.raises(errors.DeadlineExceeded):
            await runtime.call("r", "x", timeout=None if limit == "its own" else 0.05)
        assert asyncio.all_tasks() == before
    assert cancelled == ["critic"]


@pytest.mark.parametrize("drafts_before", [0, 1])
async def test_a_generator_that_hands_over_has_written_no_draft(drafts_before: int) -> None:
    writer, critic = Writer(), Critic(0.2)

    @agent(name="writer")
    async def hands_over(message: Message) -> Message:
        if len(writer.asked) < drafts_before:
            return await writer.execute(message)
        return Message("", {"handoff_to": "other", "handoff_reason": "not mine"})

    async with running(hands_over, critic, Reflection("r", "writer", "critic")) as runtime:
        reply = await runtime.call("r", Message("task", {"handoffs": {"other": ""}}))
    assert (reply.metadata["handoff_to"], reply.metadata["stopped"]) == ("other", "handoff")
    assert reply.metadata["iterations"] == len(critic.asked) == drafts_before


# settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"threshold": 1.2}, "threshold of reflection 'r' is 1.2; pass a number from 0 to 1"),
        ({"threshold": float("nan")}, "threshold of reflection 'r' is nan"),
        ({"min_improvement": -0.1}, "min_improvement of reflection 'r' is -0.1"),
        ({"patience": 0}, "patience of reflection 'r' is 0; pass 1 or more"),
        ({"max_iterations": 11}, "max_iterations of reflection 'r' is 11; pass 1 to 10, or raise limits.max_iterat"),
        ({"max_iterations": 0}, "max_iterations of reflection 'r' is 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Reflection("r", "w", "c", **settings)
    assert text in caught.value.message


def test_more_rounds_than_usual_are_a_matter_of_its_limits() -> None:
    assert Reflection("r", "w", "c", max_iterations=11, limits=Limits(max_iterations=11)).agents == ("w", "c")


YAML = """
version: 2
agents:
  - {name: writer, role: llm, model: test/writer}
  - {name: critic, role: llm, model: test/critic}
orchestration:
  name: essay
  pattern: reflection
  config: {generator: writer, critic: critic, threshold: 0.9, max_iterations: 4, min_improvement: 0.05, patience: 2}
"""


async def test_it_is_made_from_yaml_and_models_write_and_criticise() -> None:
    writer = ScriptedModel(["one", "two", "three"])
    critic = ScriptedModel([{"score": score, "feedback": f"f{score}"} for score in (0.4, 0.41, 0.95)])
    models = scripted_models(writer=writer, critic=critic)
    async with running(*build_agents(loads(YAML), Resources(models))) as runtime:
        reply = await runtime.call("essay", "an essay")
    assert (reply.payload, reply.metadata["scores"], reply.metadata["stopped"]) == (
        "three", [0.4, 0.41, 0.95], "threshold",
    )  # fmt: skip
    assert reply.usage.llm_calls == 6
    assert reply.metadata["tokens_total"] == reply.usage.total_tokens
    assert all(asked.schema is not None for asked in critic.requests)
    assert [asked.schema for asked in writer.requests] == [None] * 3
    assert "f0.41" in writer.requests[2].messages[-1].content


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("critic: critic,", "", "config.critic: Field required"),
        ("threshold: 0.9", "treshold: 0.9", "config.treshold is not known; did you mean 'threshold'?"),
        ("threshold: 0.9", "threshold: 9", "config.threshold: Input should be less than or equal to 1"),
        ("max_iterations: 4", "max_iterations: 40", "pass 1 to 10, or raise limits.max_iterations"),
        ("pattern: reflection", "pattern: reflection\n  agents: [writer, essay2]", "essay2"),
    ],
)
def test_wrong_yaml_names_the_key(old: str, new: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_agents(loads(YAML.replace(old, new)), only=["essay"])
    assert text in caught.value.message


# usage and budget


def model_agent(name: str, *replies: Any) -> LLMAgent:
    spec = AgentSpec.model_validate({"name": name, "role": "llm", "model": "test/m"})
    return LLMAgent(spec, models=scripted_models(m=ScriptedModel(replies)))


async def test_a_failure_halfway_keeps_the_usage_until_then() -> None:
    writer = model_agent("writer", "one two", "three", errors.ProviderUnavailable("down"))
    critic = model_agent("critic", {"score": 0.1, "feedback": "f"}, {"score": 0.2, "feedback": "f"})
    async with running(writer, critic, Reflection("r", "writer", "critic", patience=3)) as runtime:
        reply = await runtime.call("r", "x")
    assert (reply.payload, reply.metadata["reflection_error"]["class"]) == ("three", "ProviderUnavailable")
    assert reply.usage.llm_calls == 5
    broken = model_agent("critic", errors.ProviderUnavailable("down"))
    async with running(model_agent("writer", "one two"), broken, Reflection("r", "writer", "critic")) as runtime:
        with pytest.raises(errors.ProviderUnavailable) as caught:
            await runtime.call("r", "x")
    assert (caught.value.usage.llm_calls, caught.value.usage.completion_tokens) == (2, 2)


async def test_a_spent_budget_ends_it_with_the_best_so_far() -> None:
    writer = model_agent("writer", "one two", "three four")
    critic = model_agent("critic", {"score": 0.1, "feedback": "f"})
    async with running(writer, critic, Reflection("r", "writer", "critic")) as runtime:
        reply = await runtime.call("r", "x", options=CallOptions(max_tokens=140))
    assert (reply.payload, reply.metadata["stopped"]) == ("one two", "error")
    assert reply.metadata["reflection_error"]["class"] == "BudgetExceeded"
    assert reply.usage.total_tokens <= 140


# streams and nesting


async def events_of(runtime: LocalRuntime, name: str) -> list[Event]:
    async with runtime.stream(name, "task") as events:
        return [event async for event in events]


async def test_every_call_is_seen_and_one_result_ends_the_stream() -> None:
    async with running(Writer(), Critic(0.1, 0.9), Reflection("r", "writer", "critic")) as runtime:
        events = await events_of(runtime, "r")
    assert [event.text for event in events if isinstance(event, Delta)] == ["draft 1", "draft 2"]
    assert {event.path for event in events if isinstance(event, Delta)} == {("r", "writer")}
    finished = [event.path[-1] for event in events if isinstance(event, MemberFinished)]
    assert finished == ["writer", "critic"] * 2
    assert [event.message.payload for event in events if isinstance(event, Result)] == ["draft 2"]
    assert isinstance(events[-1], Result)


async def test_members_may_be_patterns_and_it_may_be_a_member() -> None:
    writer, critic = Writer(), Critic(0.2, 0.9)
    made = Sequential("outer", [Reflection("", Sequential("", ["writer"]), "critic")])
    async with running(writer, critic, made) as runtime:
        events = await events_of(runtime, "outer")
    assert isinstance(events[-1], Result)
    assert events[-1].message.payload == "draft 2"
    assert ("outer", "outer/0", "outer/0/0", "writer") in {event.path for event in events}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, dict[str, Any]]:
    """The attributes of the spans that a test makes, by the spans' names."""
    seen: dict[str, dict[str, Any]] = {}

    class Recording(spans.Span):
        def __init__(self, name: str) -> None:
            self._name = name

        def set(self, key: str, value: Any) -> None:
            seen[self._name][key] = value

    @contextmanager
    def span(name: str, attributes: Mapping[str, Any]) -> Generator[spans.Span]:
        seen[name] = dict(attributes)
        yield Recording(name)

    monkeypatch.setattr(spans, "span", span)
    return seen


async def test_its_span_says_how_it_ended_and_has_its_steps(recorded: Mapping[str, dict[str, Any]]) -> None:
    await reflect(Critic(0.5, 0.3))
    attributes = recorded["orchestration.reflection"]
    assert {key: attributes[key] for key in attributes if key.startswith("reflection.")} == {
        "reflection.iterations": 2, "reflection.score": 0.5, "reflection.stopped": "no_improvement",
    }  # fmt: skip
    steps = [name for name in recorded if name.startswith("step.")]
    assert steps == ["step.1.writer", "step.2.critic", "step.3.writer", "step.4.critic"]


# laws


def documented_end(given_scores: Sequence[float], threshold: float, least: float, patience: int, most: int) -> int:
    """How many drafts there are, told the slow way."""
    for count in range(1, most + 1):
        seen = given_scores[:count]
        poor = [at for at in range(1, count) if not seen[at] - max(seen[:at]) > least]
        in_a_row = all(at in poor for at in range(count - patience, count))
        if seen[-1] >= threshold or (count > patience and in_a_row):
            return count
    return most


@given(
    scores=st.lists(st.floats(0.0, 1.0), min_size=10, max_size=10), threshold=st.floats(0.0, 1.0),
    least=st.floats(0.0, 0.5), patience=st.integers(1, 4), most=st.integers(1, 10), fails_at=st.integers(2, 20),
)  # fmt: skip
def test_for_any_scores_it_ends_as_documented_with_none_worse_than_the_best(
    scores: list[float], threshold: float, least: float, patience: int, most: int, fails_at: int
) -> None:
    expected = documented_end(scores, threshold, least, patience, most)
    writer = Writer((fails_at, ValueError("no")))
    settings = {"threshold": threshold, "min_improvement": least, "patience": patience, "max_iterations": most}
    reply = asyncio.run(reflect(Critic(*scores), writer, **settings))
    seen = scores[: min(expected, fails_at - 1)]
    assert reply.metadata["scores"] == seen
    assert reply.metadata["score"] == max(seen)
    assert reply.payload == f"draft {seen.index(max(seen)) + 1}"
    assert (reply.metadata["stopped"] == "error") == (fails_at <= expected)


@given(st.lists(st.floats(0.0, 1.0), min_size=1))
def test_the_best_is_the_first_of_the_greatest(scores: list[float]) -> None:
    assert best_of(scores) == scores.index(max(scores))


def test_improvement_is_measured_against_the_best_before_it() -> None:
    assert without_improvement([], 0.0) == 0
    assert without_improvement([0.9], 0.0) == 0
    assert without_improvement([0.9, 0.1, 0.5], 0.0) == 2
    assert without_improvement([0.1, 0.5, 0.5, 0.6], 0.0) == 0


async def test_a_cancelled_call_leaves_no_task() -> None:
    entered = asyncio.Event()

    @agent(name="writer")
    async def hangs(message: Message) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with running(hangs, Critic(), Reflection("r", "writer", "critic")) as runtime:
        before = asyncio.all_tasks()
        call = asyncio.create_task(runtime.call("r", "x"))
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert asyncio.all_tasks() == before
