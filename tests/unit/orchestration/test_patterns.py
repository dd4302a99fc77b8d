"""Sequential, Parallel and Router in one process: results, limits, nesting, streams, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import pytest
from aixgo import (
    Agent,
    Delta,
    Event,
    Limits,
    LocalRuntime,
    MemberFinished,
    MemberStarted,
    Message,
    Orchestrator,
    Parallel,
    Result,
    Router,
    Sequential,
    Usage,
    agent,
)
from aixgo import call as ambient
from aixgo.errors import (
    AgentFailed,
    AgentNotFound,
    AixgoError,
    AllMembersFailed,
    AlreadyRegistered,
    BudgetExceeded,
    CallCancelled,
    DeadlineExceeded,
    DepthExceeded,
    InvalidInput,
    InvalidReply,
    LimitExceeded,
    NoRoute,
    WrongState,
)
from aixgo.orchestration.base import MemberCalls


@agent(idempotent=True)
async def upper(message: Message) -> str:
    return message.text.upper()


@agent(idempotent=True)
async def twice(message: Message) -> str:
    return message.text * 2


@agent
async def fails(message: Message) -> None:
    raise ValueError("no")


@agent
async def spends(message: Message) -> str:
    state = ambient.current()
    assert state is not None
    budget = state.budget
    reservation = budget.reserve(10) if budget is not None else None
    usage = Usage(6, 4, llm_calls=1)
    state.ledger.record(usage)
    if budget is not None and reservation is not None:
        budget.repay(reservation, usage)
    return "spent"


@agent
async def hangs(message: Message) -> None:
    await asyncio.Event().wait()


class Talks(Agent):
    name = "talks"

    async def execute(self, message: Message) -> Message:
        return message.with_(payload="ab")

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Delta("a")
        yield Delta("b")
        yield Result(message.with_(payload="ab"))


def runtime(*agents: Agent) -> LocalRuntime:
    made = LocalRuntime()
    for each in (upper, twice, fails, spends, hangs):
        made.register(each.renamed(each.name))
    for each in agents:
        made.register(each)
    return made


async def reply(orchestrator: Orchestrator, content: Any = "x") -> Message:
    return await runtime(orchestrator).call(orchestrator.name, content)


async def stream(orchestrator: Orchestrator, *others: Agent, content: Any = "x") -> list[Event]:
    async with runtime(*others, orchestrator).stream(orchestrator.name, content) as events:
        return [event async for event in events]


# sequential


async def test_each_step_gets_what_the_one_before_it_answered() -> None:
    answer = await reply(Sequential("s", ["upper", "twice", "twice"]))
    assert answer.payload == "XXXX"
    assert answer.metadata["step_count"] == 3
    assert (answer.metadata["pattern"], answer.metadata["agent_count"]) == ("sequential", 3)


async def test_the_first_error_ends_it_as_itself_with_its_step() -> None:
    with pytest.raises(AgentFailed) as caught:
        await reply(Sequential("s", ["upper", "fails", "hangs"]))
    assert caught.value.fields["step"] == 2
    assert caught.value.agent_path == ("s", "fails")


# parallel


async def test_results_stand_under_the_names_of_the_members() -> None:
    answer = await reply(Parallel("p", ["upper", "twice"]))
    assert answer.payload == {"upper": "X", "twice": "xx"}
    assert "parallel_errors" not in answer.metadata


async def test_a_member_that_is_there_twice_gets_a_number() -> None:
    assert (await reply(Parallel("p", ["upper", "upper", "upper"]))).payload == {
        "upper": "X",
        "upper#2": "X",
        "upper#3": "X",
    }


async def test_some_may_fail_and_the_reply_says_which_and_why() -> None:
    answer = await reply(Parallel("p", ["fails", "upper", "nobody"]))
    assert answer.payload == {"upper": "X"}
    errors = answer.metadata["parallel_errors"]
    assert {name: error["class"] for name, error in errors.items()} == {
        "fails": "AgentFailed",
        "nobody": "AgentNotFound",
    }
    assert "raised ValueError: no" in errors["fails"]["message"]


async def test_when_all_fail_each_reason_is_told() -> None:
    with pytest.raises(
        AllMembersFailed, match=r"all 2 agents failed: fails: AgentFailed.*; nobody: AgentNotFound"
    ) as caught:
        await reply(Parallel("p", ["fails", "nobody"]))
    assert set(caught.value.fields["errors"]) == {"fails", "nobody"}


async def test_bytes_become_base64_in_the_merged_object() -> None:
    @agent
    async def raw(message: Message) -> bytes:
        return b"\x00\xff"

    orchestrator = Parallel("p", [raw, "upper"])
    assert (await reply(orchestrator)).payload == {"raw": "AP8=", "upper": "X"}


async def test_an_aggregator_gets_a_task_that_is_bytes_as_base64() -> None:
    @agent
    async def tasks(message: Message) -> Any:
        return message.metadata["task"]

    assert (await reply(Parallel("p", ["upper"], aggregator=tasks), b"\xff\x00")).payload == "/wA="


async def test_an_aggregator_gets_all_results_and_gives_the_reply() -> None:
    @agent
    async def judge(message: Message) -> Message:
        assert isinstance(message.payload, dict)
        return Message(sorted(message.payload), {"seen": message.metadata["parallel_results"]})

    answer = await reply(Parallel("p", ["upper", "twice", "fails"], aggregator=judge))
    assert answer.payload == ["twice", "upper"]
    assert answer.metadata["seen"] == answer.metadata["parallel_results"]
    assert answer.metadata["parallel_results"]["upper"] == {"payload": "X", "metadata": {}}
    assert set(answer.metadata["parallel_errors"]) == {"fails"}
    assert Parallel("p", ["a"], aggregator=judge).agents == ("a", "judge")


async def test_the_session_of_the_request_is_on_the_merged_reply() -> None:
    assert (await reply(Parallel("p", ["upper"]), Message("x", session_id="s"))).session_id == "s"


async def test_no_more_members_run_at_once_than_is_allowed() -> None:
    running = peak = 0

    @agent
    async def counts(message: Message) -> str:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0)
        running -= 1
        return "x"

    made = Parallel("p", [counts.renamed(f"c{n}") for n in range(6)], concurrency=2)
    assert len((await reply(made)).payload) == 6  # pyright: ignore[reportArgumentType]
    assert peak == 2


# router


def verdict(payload: Any = "", **metadata: Any) -> Agent:
    @agent
    async def classifier(message: Message) -> Message:
        return Message(payload, metadata)

    return classifier


ROUTES = {"loud": "upper", "long": "twice"}


@pytest.mark.parametrize(
    ("classifier", "options", "payload", "routed"),
    [
        (verdict("ignored", category="loud", confidence=0.9), {}, "X", ("upper", "loud", 0.9)),
        (verdict(" long\n"), {}, "xx", ("twice", "long", None)),
        (verdict("odd"), {"fallback": "twice"}, "xx", ("twice", "odd", None)),
        (
            verdict(category="loud", confidence=0.4),
            {"fallback": "twice", "threshold": 0.5},
            "xx",
            ("twice", "loud", 0.4),
        ),
        (
            verdict(category="loud", confidence=0.5),
            {"fallback": "twice", "threshold": 0.5},
            "X",
            ("upper", "loud", 0.5),
        ),
        (verdict(category="loud"), {"fallback": "twice", "threshold": 0.5}, "X", ("upper", "loud", None)),
    ],
)
async def test_the_category_chooses_who_answers(
    classifier: Agent, options: dict[str, Any], payload: str, routed: tuple[str, str, float | None]
) -> None:
    answer = await reply(Router("r", classifier, ROUTES, **options))
    assert answer.payload == payload
    assert tuple(answer.metadata[key] for key in ("routed_to", "category", "confidence")) == routed
    assert answer.metadata["pattern"] == "router"


@pytest.mark.parametrize(
    ("classifier", "threshold", "text"),
    [
        (verdict("odd"), 0.0, "no route for category 'odd'; routes: loud, long; add one, or a fallback"),
        (
            verdict(category="loud", confidence=0.4),
            0.5,
            "category 'loud' has confidence 0.4 and 0.5 is needed; add a fallback",
        ),
    ],
)
async def test_without_a_fallback_there_may_be_no_route(classifier: Agent, threshold: float, text: str) -> None:
    with pytest.raises(NoRoute, match=text) as caught:
        await reply(Router("r", classifier, ROUTES, threshold=threshold))
    assert set(caught.value.fields) == {"category"}


@pytest.mark.parametrize("classifier", [verdict(""), verdict({"a": 1}), verdict("x", category=7), verdict(b"loud")])
async def test_a_classifier_that_names_no_category_is_told_how(classifier: Agent) -> None:
    with pytest.raises(
        InvalidReply, match="classifier 'classifier' named no category; put it into the metadata as `category`"
    ):
        await reply(Router("r", classifier, ROUTES))


async def test_the_chosen_agent_gets_the_request_not_the_verdict() -> None:
    @agent
    async def echo(message: Message) -> Message:
        return message

    answer = await reply(Router("r", verdict("a"), {"a": echo}), Message("question", {"k": 1}, session_id="s"))
    assert (answer.payload, answer.metadata["k"], answer.session_id) == ("question", 1, "s")


# limits


@pytest.mark.parametrize("pattern", [Sequential, Parallel])
def test_more_members_than_allowed_are_refused_when_it_is_made(pattern: type[Sequential | Parallel]) -> None:
    pattern("p", ["a", "b"], limits=Limits(max_agents=2))
    with pytest.raises(LimitExceeded, match=r"'p' has 3 agents and 2 are allowed; .*limits\.max_agents"):
        pattern("p", ["a", "b", "c"], limits=Limits(max_agents=2))
    with pytest.raises(InvalidInput, match="'p' has no members"):
        pattern("p", [])


async def test_an_orchestration_deeper_than_its_limit_is_refused() -> None:
    inner = Sequential("inner", ["upper"], limits=Limits(max_depth=1))
    with pytest.raises(DepthExceeded) as caught:
        await runtime(inner, Sequential("outer", ["inner"])).call("outer", "x")
    assert caught.value.agent_path == ("outer", "inner")


async def test_orchestrations_that_call_each_other_in_a_circle_end() -> None:
    with pytest.raises(DepthExceeded, match="a > b > a > b"):
        await runtime(Sequential("a", ["b"]), Sequential("b", ["a"])).call("a", "x")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("pattern", [Parallel, Sequential])
async def test_a_timeout_shorter_than_the_inherited_one_ends_it_typed(pattern: Any, streaming: bool) -> None:
    made = pattern("p", ["hangs", "hangs"], limits=Limits(timeout=0.02))
    with pytest.raises(DeadlineExceeded) as caught:
        await (stream(made) if streaming else reply(made))
    assert caught.value.agent_path[:1] == ("p",)


async def test_what_members_did_at_once_is_of_use_when_another_one_hangs() -> None:
    made = Parallel("p", ["hangs", "upper", "hangs"], limits=Limits(timeout=0.8))
    events = await stream(made)
    assert isinstance(events[-1], Result)
    answer = events[-1].message
    assert answer.payload == {"upper": "X"}
    errors = answer.metadata["parallel_errors"]
    assert {name: error["class"] for name, error in errors.items()} == dict.fromkeys(
        ("hangs", "hangs#2"), "DeadlineExceeded"
    )
    late = [e for e in events if isinstance(e, MemberFinished) and isinstance(e.error, DeadlineExceeded)]
    assert [event.path for event in late] == [("p", "hangs")] * 2


async def test_tokens_over_the_limit_stop_a_sequence_where_they_are_spent() -> None:
    assert (await reply(Sequential("s", ["spends"] * 3, limits=Limits(max_tokens=30)))).metadata["tokens_total"] == 30
    with pytest.raises(BudgetExceeded) as caught:
        await reply(Sequential("s", ["spends"] * 4, limits=Limits(max_tokens=30)))
    assert caught.value.fields["step"] == 4
    assert caught.value.usage.total_tokens in (0, 30)


async def test_parallel_members_have_a_share_of_the_tokens_each() -> None:
    enough = await reply(Parallel("p", ["spends"] * 3, limits=Limits(max_tokens=30)))
    assert len(enough.payload) == 3  # pyright: ignore[reportArgumentType]
    with pytest.raises(AllMembersFailed, match="BudgetExceeded"):
        await reply(Parallel("p", ["spends"] * 3, limits=Limits(max_tokens=27)))


class Loops(Orchestrator):
    """A pattern of a user's own, that goes on for ever."""

    pattern: ClassVar[str] = "loops"

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        while True:
            message = Message(calls.iterate())
            await calls.call(self._members[0], message)


async def test_iterations_are_bounded() -> None:
    begun: list[Any] = []

    @agent
    async def counts(message: Message) -> str:
        begun.append(message.payload)
        return "on"

    with pytest.raises(
        LimitExceeded, match=r"loops 'l' came to no end in 3 iterations; raise limits\.max_iterations"
    ) as caught:
        await reply(Loops("l", [counts], limits=Limits(max_iterations=3)))
    assert caught.value.fields == {"limit": 3}
    assert begun == [1, 2, 3]


async def test_a_time_limit_never_makes_the_callers_deadline_later() -> None:
    seen: list[float] = []

    @agent
    async def looks(message: Message) -> str:
        state = ambient.current()
        assert state is not None
        seen.append(state.deadline)
        return "on"

    made = runtime(looks, Sequential("s", ["looks"], limits=Limits(timeout=60)))
    latest = asyncio.get_running_loop().time() + 5
    await made.call("s", "x", timeout=5)
    assert latest <= seen[0] <= asyncio.get_running_loop().time() + 5


class Careless(Orchestrator):
    """A pattern of a user's own that would do without its members."""

    pattern: ClassVar[str] = "careless"

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        try:
            await calls.parallel(self._members, message)
        except DeadlineExceeded as error:
            return Message(calls.fatal(error))
        return Message("somebody answered")


async def test_time_that_is_used_up_by_all_members_is_the_patterns() -> None:
    answer = await reply(Careless("c", ["hangs", "hangs"], limits=Limits(timeout=0.8)))
    assert answer.payload is True


class Impatient(Orchestrator):
    """A pattern of a user's own with a timer of its own."""

    pattern: ClassVar[str] = "impatient"

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        raise TimeoutError("my own")


async def test_a_timer_of_a_patterns_own_is_not_its_time_limit() -> None:
    with pytest.raises(AgentFailed, match="agent 'i' raised TimeoutError: my own"):
        await reply(Impatient("i", ["upper"], limits=Limits(timeout=5)))


async def test_usage_of_all_members_is_on_the_reply_and_in_its_metadata() -> None:
    answer = await reply(Parallel("p", ["spends", "spends", Sequential("", ["spends", "upper"])]))
    assert answer.usage == Usage(18, 12, llm_calls=3)
    expected = {"tokens_total": 30, "tokens_prompt": 18, "tokens_completion": 12, "cost_usd": None}
    assert {key: answer.metadata[key] for key in expected} == expected


# members and names


async def test_unnamed_members_are_named_after_their_place_and_not_listed() -> None:
    inner = Sequential("", [upper.renamed(""), "twice"])
    made = runtime(Parallel("p", ["upper", inner]))
    assert made.list_agents() == ["fails", "hangs", "p", "spends", "twice", "upper"]
    assert {"p/1", "p/1/0"} < set(made.own_agents)
    assert (await made.call("p", "x")).payload == {"upper": "X", "p/1": "XX"}
    assert made.get_agent("p").agents == ("upper", "p/1")  # pyright: ignore[reportAttributeAccessIssue]


async def test_unnamed_members_go_with_their_parent_and_named_ones_stay() -> None:
    made = runtime(Parallel("p", [upper.renamed("mine"), Sequential("", [upper.renamed("")])]))
    await made.unregister("p")
    assert [name for name in made.own_agents if name.startswith("p")] == []
    assert "mine" in made.list_agents()


async def test_an_orchestrator_can_be_registered_again() -> None:
    orchestrator = Parallel("p", [upper.renamed("mine"), upper.renamed("")])
    made = runtime(orchestrator)
    await made.unregister("p")
    made.register(orchestrator)
    assert (await made.call("p", "x")).payload == {"mine": "X", "p/1": "X"}


async def test_one_agent_may_be_a_member_twice() -> None:
    same = upper.renamed("")
    assert (await reply(Router("r", verdict("b"), {"a": same, "b": same}))).payload == "X"
    named = upper.renamed("n")
    assert (await reply(Sequential("s", [named, named]))).payload == "X"


async def test_a_member_whose_name_is_taken_takes_its_orchestrator_with_it() -> None:
    made = runtime()
    with pytest.raises(AlreadyRegistered, match="'upper' is registered already"):
        made.register(Parallel("p", [twice.renamed(""), twice.renamed("upper")]))
    assert not any(name.startswith("p") for name in made.own_agents)
    made.register(Parallel("p", ["upper"]))


async def test_it_is_idempotent_when_all_its_members_are() -> None:
    made = runtime(
        Parallel("yes", ["upper", Sequential("", ["twice"])]), Sequential("no", ["upper", "fails"]),
        Sequential("unknown", ["nobody"]), Sequential("a", ["b", "upper"]), Sequential("b", ["a"]),
    )  # fmt: skip
    idempotent = {name: made.get_agent(name).idempotent for name in ("yes", "no", "unknown", "a", "b")}
    assert idempotent == {"yes": True, "no": False, "unknown": False, "a": True, "b": True}
    assert not Sequential("s", ["upper"]).idempotent


async def test_executing_it_directly_is_a_call_of_its_own() -> None:
    made = runtime(Sequential("s", ["upper"]))
    orchestrator = made.get_agent("s")
    assert (await orchestrator.execute(Message("x"))).payload == "X"
    assert [type(event) async for event in orchestrator.stream(Message("x"))][-1] is Result
    with pytest.raises(WrongState, match="not registered"):
        await Sequential("s", ["upper"]).execute(Message("x"))


# streams


def shape(events: Sequence[Event]) -> list[tuple[str, tuple[str, ...]]]:
    return [(type(event).__name__, event.path) for event in events]


async def test_members_are_seen_between_their_start_and_their_end() -> None:
    events = await stream(Sequential("s", ["talks", "upper"]), Talks())
    assert shape(events) == [
        ("MemberStarted", ("s", "talks")), ("Delta", ("s", "talks")), ("Delta", ("s", "talks")),
        ("MemberFinished", ("s", "talks")), ("MemberStarted", ("s", "upper")), ("MemberFinished", ("s", "upper")),
        ("Result", ("s",)),
    ]  # fmt: skip
    finished = [event for event in events if isinstance(event, MemberFinished)]
    assert [event.message.payload for event in finished if event.message is not None] == ["ab", "AB"]


async def test_nested_members_are_seen_with_their_whole_path() -> None:
    events = await stream(Parallel("p", [Sequential("", ["talks"])]), Talks())
    assert ("Delta", ("p", "p/0", "talks")) in shape(events)
    assert shape(events)[-2:] == [("MemberFinished", ("p", "p/0")), ("Result", ("p",))]


async def test_a_member_that_fails_finishes_with_its_error() -> None:
    events = await stream(Parallel("p", ["fails", "upper"]))
    (failed,) = [event for event in events if isinstance(event, MemberFinished) and event.path[-1] == "fails"]
    assert isinstance(failed.error, AgentFailed)
    assert failed.message is None
    assert len([event for event in events if isinstance(event, MemberStarted)]) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sequential("o", ["upper", "spends", "twice"]), lambda: Parallel("o", ["upper", "fails", "spends"]),
        lambda: Router("o", verdict(category="loud", confidence=1.0), ROUTES), lambda: Parallel("o", ["fails"]),
        lambda: Sequential("o", ["upper", "fails"]), lambda: Router("o", verdict("odd"), ROUTES),
        lambda: Sequential("o", ["nobody"]), lambda: Loops("o", ["upper"]),
    ],
)  # fmt: skip
async def test_streaming_ends_as_executing_does(make: Any) -> None:
    async def ending(work: Any) -> tuple[Any, ...]:
        try:
            message = await work
        except AixgoError as error:
            return type(error), error.message, error.agent_path, error.usage, error.fields
        message = message[-1].message if isinstance(message, list) else message
        return message.payload, dict(message.metadata), message.usage

    assert await ending(stream(make())) == await ending(reply(make()))


async def test_leaving_a_stream_stops_the_members() -> None:
    stopped: list[str] = []

    @agent
    async def waits(message: Message) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("stopped")

    made = runtime(waits, Parallel("p", ["waits", "waits"]))
    async with made.stream("p", "x") as events:
        async for event in events:
            if isinstance(event, MemberStarted) and len(stopped) == 0:
                await asyncio.sleep(0.01)
                break
    assert stopped == ["stopped", "stopped"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_pattern_whose_work_was_cancelled_ends_typed_and_does_not_hang(streaming: bool) -> None:
    class Awaits(Loops):
        async def run(self, message: Message, calls: MemberCalls) -> Message:
            never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            never.cancel()
            return await never

    with pytest.raises(CallCancelled, match="awaited something that was cancelled"):
        async with asyncio.timeout(5):
            await (stream(Awaits("w", ["upper"])) if streaming else reply(Awaits("w", ["upper"])))


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_defect_of_a_pattern_is_that_patterns_failure(streaming: bool) -> None:
    class Broken(Loops):
        async def run(self, message: Message, calls: MemberCalls) -> Message:
            raise KeyError("bug")

    with pytest.raises(AgentFailed, match="agent 'b' raised KeyError") as caught:
        await (stream(Broken("b", ["upper"])) if streaming else reply(Broken("b", ["upper"])))
    assert caught.value.agent_path == ("b",)


async def test_an_unknown_member_fails_where_it_is_called_and_not_before() -> None:
    with pytest.raises(AgentNotFound, match="no agent named 'nobody'") as caught:
        await reply(Sequential("s", ["upper", "nobody"]))
    assert caught.value.agent_path == ("s", "nobody")
