"""MapReduce: any input is split, mapped within bounds, and reduced in the order of its items."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from aixgo import (
    Agent,
    AgentSpec,
    Delta,
    Event,
    Limits,
    MapReduce,
    MemberFinished,
    MemberStarted,
    Message,
    Parallel,
    Result,
    Sequential,
    agent,
    errors,
)
from aixgo.agents.llm import LLMAgent
from aixgo.config.build import build_agents
from aixgo.config.load import loads
from aixgo.errors import AllMembersFailed, ConfigError, InvalidInput, InvalidReply, LimitExceeded
from aixgo.orchestration.mapreduce import split
from aixgo.resources import Resources
from aixgo.runtime.contract import CallOptions
from aixgo.sessions.in_memory import InMemorySessions
from aixgo.telemetry import spans
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given
from hypothesis import strategies as st


@agent
async def upper(message: Message) -> str:
    return message.text.upper()


class Seen(Agent):
    """Echoes, and keeps what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        return Message(message.payload, {"seen": len(self.asked)})


class Picky(Agent):
    """Echoes numbers; each other item raises."""

    name = "picky"

    async def execute(self, message: Message) -> Message:
        if not isinstance(message.payload, int):
            raise ValueError(message.text)
        return Message(message.payload)


async def reply(made: MapReduce, content: Any, *agents: Agent) -> Message:
    async with running(upper.renamed("upper"), Picky(), *agents, made) as runtime:
        return await runtime.call(made.name, content)


# splitting


@pytest.mark.parametrize(
    ("payload", "items"),
    [
        (["a", 1, {"b": None}], ["a", 1, {"b": None}]),
        ('["a", 1]', ["a", 1]),
        (b'["a"]', ["a"]),
        ("one\ntwo\n\nthree", ["one\ntwo", "three"]),
        ("one\r\n\r\ntwo", ["one", "two"]),
        ("one\n\n\n  \n two\n", ["one", " two"]),
        ("one\n two \nthree", ["one", " two ", "three"]),
        ("\n\none\ntwo\n\n", ["one", "two"]),
        ("[broken, list\n[two", ["[broken, list", "[two"]),
        ("one", ["one"]),
        ({"a": [1]}, [{"a": [1]}]),
        (7, [7]),
        ([], []), ("", []), (" \n\n ", []), (None, []),
    ],
)  # fmt: skip
def test_auto_takes_a_lists_items_else_paragraphs_else_lines(payload: Any, items: Any) -> None:
    assert split(Message(payload), "auto") == items


def test_each_way_can_be_demanded() -> None:
    text = Message("a\nb\n\nc")
    assert split(text, "lines") == ["a", "b", "c"]
    assert split(text, "paragraphs") == ["a\nb", "c"]
    assert split(Message({"items": [1, 2]}), "items") == [1, 2]
    assert split(Message("[1]"), "lines") == ["[1]"]


@pytest.mark.parametrize(
    ("payload", "how", "text"),
    [
        ("a\nb", "items", "split: items needs a JSON list, and the payload is 'a\\nb'; send a list"),
        ({"a": 1}, "items", "needs a JSON list"),
        ([1], "lines", "split: lines needs text, and the payload is a list; use items or auto"),
        (7, "paragraphs", "the payload is a int"),
    ],
)
def test_what_cannot_be_split_so_is_refused(payload: Any, how: Any, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        split(Message(payload), how)
    assert text in caught.value.message


@pytest.mark.parametrize(
    "answer", [["x", "y"], {"items": ["x", "y"]}, '{"items": ["x", "y"]}', '```json\n["x","y"]\n```']
)
async def test_a_splitter_answers_items_in_any_of_these_forms(answer: Any) -> None:
    asked: list[Message] = []

    @agent
    async def splitter(message: Message) -> Any:
        asked.append(message)
        return answer

    assert (await reply(MapReduce("m", "upper", splitter="splitter"), "text", splitter)).payload == ["X", "Y"]
    schema = asked[0].metadata["response_schema"]
    assert schema["properties"]["items"] == {
        "type": "array", "items": {"type": "string"}, "description": "The parts, in order.",
    }  # fmt: skip


async def test_a_splitter_is_not_offered_hand_overs() -> None:
    splitter = Seen("splitter")
    await reply(MapReduce("m", "upper", splitter="splitter"), Message(["a"], {"handoffs": {"x": ""}, "k": 1}), splitter)
    assert set(splitter.asked[0].metadata) == {"k", "response_schema"}


async def test_a_splitter_that_answers_no_list_is_asked_twice() -> None:
    with pytest.raises(InvalidReply, match="agent 'upper' was asked 2 times"):
        await reply(MapReduce("m", "upper", splitter="upper"), "text")


async def test_no_items_are_an_error_that_says_so() -> None:
    with pytest.raises(InvalidInput, match="the input has no items for mapreduce 'm'; send at least one"):
        await reply(MapReduce("m", "upper"), "\n\n")

    @agent
    async def splitter(message: Message) -> list[str]:
        return []

    with pytest.raises(InvalidInput, match="splitter 'splitter' found no items"):
        await reply(MapReduce("m", "upper", splitter="splitter"), "text", splitter)


async def test_too_many_items_are_refused_before_any_is_mapped() -> None:
    seen = Seen("seen")
    with pytest.raises(LimitExceeded, match=r"3 items for mapreduce 'm', and max_items allows 2; .* raise max_items"):
        await reply(MapReduce("m", "seen", max_items=2), [1, 2, 3], seen)
    assert not seen.asked


# mapping


async def test_the_mapper_gets_the_item_with_its_place_and_the_requests_metadata() -> None:
    seen = Seen("seen")
    request = Message([{"a": 1}, "b"], {"tone": "dry", "handoffs": {"x": ""}, "response_schema": {}}, session_id="s")
    await reply(MapReduce("m", "seen", reducer="upper"), request, seen)
    assert [each.payload for each in seen.asked] == [{"a": 1}, "b"]
    assert [dict(each.metadata) for each in seen.asked] == [
        {"conversation": [], "tone": "dry", "item_count": 2, "index": index} for index in range(2)
    ]
    assert len({each.id for each in seen.asked} | {request.id}) == 3
    await reply(MapReduce("m", "seen"), request, seen)
    assert seen.asked[-1].metadata["response_schema"] == {}


async def test_items_are_no_turns_of_the_session() -> None:
    model = ScriptedModel(lambda asked: f"{len(asked.messages)}")
    spec = AgentSpec.model_validate({"name": "mapper", "role": "llm", "model": "test/m"})
    mapper = LLMAgent(spec, models=scripted_models(m=model), sessions=InMemorySessions())
    answer = await reply(MapReduce("m", "mapper"), Message(["a", "b", "c"], session_id="s"), mapper)
    assert answer.payload == ["1", "1", "1"]


async def test_the_first_failure_ends_it_as_itself_with_its_index_and_cancels_the_others() -> None:
    cancelled: list[int] = []
    last = asyncio.Event()

    @agent
    async def fails_second(message: Message) -> None:
        if message.metadata["index"] == 1:
            await last.wait()
            raise ValueError("no")
        try:
            if message.metadata["index"] == 2:
                last.set()
            await asyncio.Event().wait()
        finally:
            cancelled.append(message.metadata["index"])

    with pytest.raises(errors.AgentFailed) as caught:
        await reply(MapReduce("m", "fails_second", concurrency=3), list("abcdef"), fails_second)
    assert caught.value.fields["index"] == 1
    assert caught.value.agent_path == ("m", "fails_second")
    assert sorted(cancelled) == [0, 2]


async def test_failed_items_may_be_skipped_and_are_told() -> None:
    answer = await reply(MapReduce("m", "picky", on_error="skip"), [1, "x", 3, "y"])
    assert answer.payload == [1, 3]
    assert answer.metadata["item_count"] == 4
    failed = answer.metadata["failed_items"]
    assert [(each["index"], each["class"]) for each in failed] == [(1, "AgentFailed"), (3, "AgentFailed")]
    assert "ValueError: y" in failed[1]["message"]


async def test_when_no_item_succeeds_that_is_an_error_with_the_reason_of_each() -> None:
    with pytest.raises(AllMembersFailed, match=r"all 7 items failed: 0: AgentFailed: .*; 4: ") as caught:
        await reply(MapReduce("m", "picky", on_error="skip"), list("abcdefg"))
    assert set(caught.value.fields["errors"]) == {str(index) for index in range(7)}


@pytest.mark.parametrize("fatal", [errors.BudgetExceeded("spent"), errors.DepthExceeded("deep")])
async def test_what_ends_the_whole_is_not_skipped(fatal: errors.AixgoError) -> None:
    calls: list[Any] = []

    @agent
    async def mapper(message: Message) -> str:
        calls.append(message.payload)
        if message.payload == 2:
            raise fatal
        return "x"

    with pytest.raises(type(fatal)) as caught:
        await reply(MapReduce("m", "mapper", on_error="skip", concurrency=1), [1, 2, 3], mapper)
    assert caught.value.fields["index"] == 1
    assert calls == [1, 2]


async def test_its_deadline_is_not_skipped_and_leaves_no_task() -> None:
    @agent
    async def hangs(message: Message) -> None:
        await asyncio.Event().wait()

    made = MapReduce("m", "hangs", on_error="skip", limits=Limits(timeout=0.05))
    async with running(hangs, made) as runtime:
        before = asyncio.all_tasks()
        with pytest.raises(errors.DeadlineExceeded):
            await runtime.call("m", [1, 2, 3])
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("on_error", ["stop", "skip"])
async def test_items_that_are_not_done_in_time_fail(on_error: Any) -> None:
    @agent
    async def hangs_at_two(message: Message) -> str:
        if message.payload == 2:
            await asyncio.Event().wait()
        return "done"

    made = MapReduce("m", "hangs_at_two", on_error=on_error, limits=Limits(timeout=0.8))
    work = reply(made, [1, 2, 3], hangs_at_two)
    if on_error == "stop":
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await work
        assert caught.value.fields["index"] == 1
        assert caught.value.agent_path[0] == "m"
    else:
        answer = await work
        assert answer.payload == ["done", "done"]
        assert [(each["index"], each["class"]) for each in answer.metadata["failed_items"]] == [(1, "DeadlineExceeded")]


async def test_a_cancelled_call_leaves_no_task() -> None:
    entered = asyncio.Event()

    @agent
    async def hangs(message: Message) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with running(hangs, MapReduce("m", "hangs")) as runtime:
        before = asyncio.all_tasks()
        call = asyncio.create_task(runtime.call("m", [1, 2, 3]))
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert asyncio.all_tasks() == before


# reducing


async def test_results_are_a_list_unless_told_otherwise() -> None:
    answer = await reply(MapReduce("m", "upper"), "a\nb")
    assert answer.payload == ["A", "B"]
    assert answer.metadata["item_count"] == 2
    assert "failed_items" not in answer.metadata
    assert (answer.metadata["pattern"], answer.metadata["agent_count"]) == ("mapreduce", 1)


async def test_results_may_be_joined() -> None:
    answer = await reply(MapReduce("m", "picky", reducer="join", separator=" + "), [1, 2])
    assert answer.payload == "1 + 2"


async def test_bytes_are_base64_in_a_list() -> None:
    @agent
    async def packs(message: Message) -> bytes:
        return message.text.encode()

    assert (await reply(MapReduce("m", "packs"), ["a"], packs)).payload == ["YQ=="]


async def test_a_reducer_gets_the_list_each_result_and_the_requests_metadata() -> None:
    seen, reducer = Seen("seen"), Seen("reducer")
    request = Message([1, "x", 3], {"response_schema": {"type": "object"}}, session_id="s")
    made = MapReduce("m", Sequential("", ["picky", "seen"]), reducer="reducer", on_error="skip")
    answer = await reply(made, request, seen, reducer)
    (asked,) = reducer.asked
    assert (asked.payload, asked.session_id) == ([1, 3], "s")
    assert asked.metadata["response_schema"] == {"type": "object"}
    results = asked.metadata["map_results"]
    assert [(each["index"], each["payload"]) for each in results] == [(0, 1), (2, 3)]
    assert results[0]["metadata"]["seen"] == 1
    assert (answer.metadata["seen"], answer.metadata["item_count"], len(answer.metadata["failed_items"])) == (1, 3, 1)
    assert answer.metadata["agent_count"] == 2


async def test_a_reducer_that_fails_is_the_error() -> None:
    with pytest.raises(errors.AgentFailed) as caught:
        await reply(MapReduce("m", "upper", reducer="picky"), "a")
    assert caught.value.agent_path == ("m", "picky")


# settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"split": "line"}, "split of mapreduce 'm' is 'line', which is not known; did you mean 'lines'?"),
        ({"concurrency": 0}, "concurrency of mapreduce 'm' is 0; pass 1 or more"),
        ({"max_items": 0}, "max_items of mapreduce 'm' is 0; pass 1 or more"),
        ({"on_error": "skp"}, "on_error of mapreduce 'm' is 'skp', which is not known; did you mean 'skip'?"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        MapReduce("m", "upper", **settings)
    assert text in caught.value.message


YAML = """
version: 2
agents:
  - {name: cutter, role: llm, model: test/cutter}
  - {name: reader, role: llm, model: test/reader}
  - {name: writer, role: llm, model: test/writer}
orchestration:
  name: digest
  pattern: mapreduce
  config:
    {splitter: cutter, mapper: reader, reducer: writer, split: lines, separator: "; ", concurrency: 2, on_error: skip,
     max_items: 3}
"""


async def test_it_is_made_from_yaml_and_models_split_map_and_reduce() -> None:
    cutter = ScriptedModel([{"items": ["a", "b", "c"]}])
    reader = ScriptedModel(lambda asked: "fail" if asked.messages[-1].content == "b" else "read")
    writer = ScriptedModel(["all of it"])
    models = scripted_models(cutter=cutter, reader=reader, writer=writer)
    async with running(*build_agents(loads(YAML), Resources(models))) as runtime:
        answer = await runtime.call("digest", "a book")
    assert (answer.payload, answer.metadata["item_count"]) == ("all of it", 3)
    assert answer.usage.llm_calls == 5
    assert answer.metadata["tokens_total"] == answer.usage.total_tokens
    assert writer.requests[0].messages[-1].content == '["read","fail","read"]'


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("mapper: reader,", "", "config.mapper: Field required"),
        ("mapper: reader", "maper: reader", "config.maper is not known; did you mean 'mapper'?"),
        ("split: lines", "split: words", "config.split: Input should be 'auto', 'lines', 'paragraphs' or 'items'"),
        ("concurrency: 2", "concurrency: 0", "config.concurrency: Input should be greater than or equal to 1"),
        ("on_error: skip", "on_error: ignore", "config.on_error: Input should be 'stop' or 'skip'"),
        ("reducer: writer", "reducer: wrter", "'wrter'"),
        ("pattern: mapreduce", "pattern: mapreduce\n  agents: [cutter, digest2]", "digest2"),
    ],
)  # fmt: skip
def test_wrong_yaml_names_the_key(old: str, new: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_agents(loads(YAML.replace(old, new)), only=["digest"])
    assert text in caught.value.message


@pytest.mark.parametrize("reducer", ["list", "join"])
def test_the_built_in_reducers_are_no_agents(reducer: str) -> None:
    (made,) = build_agents(loads(YAML.replace("reducer: writer", f"reducer: {reducer}")), only=["digest"])
    assert isinstance(made, MapReduce)
    assert made.agents == ("cutter", "reader")


# usage and budget


def model_agent(*replies: Any) -> LLMAgent:
    spec = AgentSpec.model_validate({"name": "mapper", "role": "llm", "model": "test/m"})
    return LLMAgent(spec, models=scripted_models(m=ScriptedModel(replies)))


async def test_a_failure_halfway_carries_the_usage_until_then() -> None:
    mapper = model_agent("one", "two", errors.ProviderUnavailable("down"))
    with pytest.raises(errors.ProviderUnavailable) as caught:
        await reply(MapReduce("m", "mapper", concurrency=1), ["a", "b", "c", "d"], mapper)
    assert caught.value.fields["index"] == 2
    assert (caught.value.usage.llm_calls, caught.value.usage.completion_tokens) == (3, 2)


async def test_a_spent_budget_ends_it_without_overspending() -> None:
    mapper = model_agent(*["word"] * 50)
    async with running(mapper, MapReduce("m", "mapper", on_error="skip", concurrency=2)) as runtime:
        with pytest.raises(errors.BudgetExceeded) as caught:
            await runtime.call("m", ["a"] * 50, options=CallOptions(max_tokens=100))
    assert 0 < caught.value.usage.total_tokens <= 100


# streams, spans, nesting


class Talks(Agent):
    name = "talks"

    async def execute(self, message: Message) -> Message:
        return Message(message.text)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for letter in message.text:
            yield Delta(letter)
        yield Result(Message(message.text))


async def test_every_item_is_seen_between_its_start_and_its_end() -> None:
    made = Parallel("p", [MapReduce("", "talks", reducer="join", separator="", concurrency=1)])
    async with running(Talks(), made) as runtime, runtime.stream("p", ["ab", "cd"]) as stream:
        events = [event async for event in stream]
    path = ("p", "p/0", "talks")
    assert [(type(event), getattr(event, "text", "")) for event in events if event.path == path] == [
        (MemberStarted, ""), (Delta, "a"), (Delta, "b"), (MemberFinished, ""),
        (MemberStarted, ""), (Delta, "c"), (Delta, "d"), (MemberFinished, ""),
    ]  # fmt: skip
    assert [type(event) for event in events if len(event.path) == 1] == [Result]
    assert isinstance(events[-1], Result)
    assert events[-1].message.payload == {"p/0": "abcd"}


async def test_a_reader_sees_every_item_end_also_those_that_were_cancelled() -> None:
    @agent
    async def mapper(message: Message) -> None:
        if message.payload == 0:
            raise ValueError("no")
        await asyncio.Event().wait()

    async with running(mapper, MapReduce("m", "mapper")) as runtime:
        seen: list[Event] = []

        async def read() -> None:
            async with runtime.stream("m", [0, 1, 2]) as events:
                async for event in events:
                    seen.append(event)

        with pytest.raises(errors.AgentFailed):
            await read()
    ended = [type(event.error) for event in seen if isinstance(event, MemberFinished)]
    assert ended == [errors.AgentFailed, errors.CallCancelled, errors.CallCancelled]
    assert len([event for event in seen if isinstance(event, MemberStarted)]) == 3


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


async def test_its_span_counts_items_and_failures_and_has_its_steps(recorded: Mapping[str, dict[str, Any]]) -> None:
    @agent
    async def splitter(message: Message) -> list[Any]:
        return [1, "x"]

    made = MapReduce("m", "picky", splitter="splitter", reducer="upper", on_error="skip")
    await reply(made, "text", splitter)
    attributes = recorded["orchestration.mapreduce"]
    assert (attributes["mapreduce.items"], attributes["mapreduce.failed"], attributes["agent_count"]) == (2, 1, 3)
    assert [name for name in recorded if name.startswith("step.")] == ["step.1.splitter", "step.3.upper"]


async def test_the_span_of_one_that_is_ended_by_a_failure_says_so(recorded: Mapping[str, dict[str, Any]]) -> None:
    with pytest.raises(errors.AgentFailed):
        await reply(MapReduce("m", "picky"), ["x", 1])
    assert recorded["orchestration.mapreduce"]["mapreduce.failed"] == 1


# laws


@given(
    count=st.integers(1, 40), concurrency=st.integers(1, 10), failing=st.sets(st.integers(0, 39)), seed=st.integers()
)
def test_for_any_delays_and_failures_order_is_kept_and_never_too_many_run(
    count: int, concurrency: int, failing: set[int], seed: int
) -> None:
    chance = random.Random(seed)
    running_now, most = 0, 0

    @agent
    async def mapper(message: Message) -> int:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        try:
            for _ in range(chance.randrange(1, 6)):
                await asyncio.sleep(0)
            if message.payload in failing:
                raise ValueError("no")
            return message.payload * 10  # type: ignore[operator]
        finally:
            running_now -= 1

    good = [index for index in range(count) if index not in failing]
    made = MapReduce("m", "mapper", concurrency=concurrency, on_error="skip")
    work = reply(made, list(range(count)), mapper)
    if not good:
        with pytest.raises(AllMembersFailed):
            asyncio.run(work)
    else:
        answer = asyncio.run(work)
        assert answer.payload == [index * 10 for index in good]
        failed = [each["index"] for each in answer.metadata.get("failed_items", [])]
        assert failed == [index for index in range(count) if index in failing]
    assert most <= concurrency
    assert most == min(concurrency, count)
    assert running_now == 0


@given(count=st.integers(1, 20), concurrency=st.integers(1, 5), failing=st.sets(st.integers(0, 19)), seed=st.integers())
def test_for_any_delays_the_error_raised_is_that_of_the_item_that_failed_first(
    count: int, concurrency: int, failing: set[int], seed: int
) -> None:
    chance = random.Random(seed)
    failed: list[int] = []

    @agent
    async def mapper(message: Message) -> str:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if message.payload in failing:
            failed.append(message.metadata["index"])
            raise ValueError("no")
        return "done"

    work = reply(MapReduce("m", "mapper", concurrency=concurrency), list(range(count)), mapper)
    if failing.isdisjoint(range(count)):
        assert asyncio.run(work).payload == ["done"] * count
    else:
        with pytest.raises(errors.AgentFailed) as caught:
            asyncio.run(work)
        assert caught.value.fields["index"] == failed[0]


@given(st.text("ab \n\r", max_size=60), st.sampled_from(["auto", "lines", "paragraphs"]))
def test_splitting_loses_nothing_but_blanks(text: str, how: Any) -> None:
    items = split(Message(text), how)
    assert "".join("".join(map(str, items)).split()) == "".join(text.split())
    assert all(str(item).strip() for item in items)
