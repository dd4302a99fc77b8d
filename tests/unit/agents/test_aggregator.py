"""The strategies of the aggregator, with scripted models, in a LocalRuntime."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo.agents.aggregator import AggregatorAgent
from aixgo.agents.answers import MAX_ANSWERS
from aixgo.agents.combining import MAX_CLUSTERED
from aixgo.config.spec import AgentSpec
from aixgo.errors import ConfigError, InvalidInput, LimitExceeded, NoAgreement, RateLimited
from aixgo.events import Delta, Result
from aixgo.message import Message
from aixgo.testing import ScriptedModel, running, scripted_models


def aggregator(*replies: Any, script: Any = None, prompt: str = "", **config: Any) -> tuple[AggregatorAgent, Any]:
    model = ScriptedModel(script or replies)
    spec = AgentSpec.model_validate(
        {"name": "sum", "role": "aggregator", "model": "test/m", "prompt": prompt, "config": config}
    )
    return AggregatorAgent(spec, models=scripted_models(m=model)), model


async def combined(made: AggregatorAgent, content: Any) -> Message:
    async with running(made) as runtime:
        return await runtime.call("sum", content)


async def test_consensus_names_agreement_and_disagreements() -> None:
    made, model = aggregator({"answer": "Paris", "agreement": 0.8, "disagreements": ["its size"]}, strategy="consensus")
    reply = await combined(made, {"a": "Paris, big", "b": "Paris, small"})
    assert reply.payload == "Paris"
    assert reply.metadata == {
        "strategy": "consensus", "sources": ["a", "b"], "agreement": 0.8, "disagreements": ["its size"],
        "model": "m", "stop_reason": "stop",
    }  # fmt: skip
    assert model.requests[0].messages[-1].content == "a: Paris, big\nb: Paris, small"


async def test_consensus_asks_again_when_the_agreement_is_no_share() -> None:
    good = {"answer": "x", "agreement": 1, "disagreements": []}
    made, _ = aggregator({**good, "agreement": 7}, good, strategy="consensus")
    assert (await combined(made, ["x"])).metadata["agreement"] == 1


async def test_the_model_is_told_the_weights_the_heaviest_first() -> None:
    made, model = aggregator("done", strategy="weighted", weights={"b": 3, "c": 0.5})
    reply = await combined(made, {"c": "no", "a": "maybe", "b": "yes", "b#2": "still"})
    asked = model.requests[0].messages[-1].content
    assert asked == "b (weight 3): yes\nb#2 (weight 3): still\na (weight 1): maybe\nc (weight 0.5): no"
    assert reply.metadata["weights"] == {"b": 3, "b#2": 3, "c": 0.5, "a": 1}
    assert reply.metadata["sources"] == ["c", "a", "b", "b#2"]


async def test_hierarchical_combines_neighbours_until_one_is_left_and_keeps_their_order() -> None:
    made, model = aggregator(
        script=lambda request: "".join(line.partition(": ")[2] for line in request.messages[-1].content.split("\n")),
        strategy="hierarchical",
        group_size=2,
    )
    reply = await combined(made, list("abcdefg"))
    assert reply.payload == "abcdefg"
    assert reply.metadata["levels"] == 3
    assert len(model.requests) == 6
    assert reply.usage.llm_calls == 6


async def test_hierarchical_asks_once_when_one_group_holds_all() -> None:
    made, model = aggregator("all", strategy="hierarchical", group_size=3)
    assert (await combined(made, ["a", "b", "c"])).metadata["levels"] == 1
    assert len(model.requests) == 1


async def test_a_combination_that_fails_fails_the_call_with_its_own_error() -> None:
    made, _ = aggregator("x", RateLimited("later"), "y", strategy="hierarchical", group_size=2)
    with pytest.raises(RateLimited) as caught:
        await combined(made, list("abcde"))
    assert caught.value.usage.llm_calls >= 2


@pytest.mark.parametrize("strategy", ["llm", "weighted", "hierarchical"])
async def test_what_a_model_writes_last_is_streamed(strategy: str) -> None:
    made, _ = aggregator("one two", strategy=strategy)
    async with running(made) as runtime, runtime.stream("sum", ["a", "b"]) as events:
        seen = [event async for event in events]
    assert [event.text for event in seen if isinstance(event, Delta)] == ["one ", "two"]
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.metadata["strategy"] == strategy


async def test_the_prompt_replaces_the_strategys_own() -> None:
    made, model = aggregator("x", strategy="llm", prompt="Be brief.")
    await combined(made, ["a"])
    assert model.requests[0].messages[0].content == "Be brief."


# clustering


async def test_the_largest_cluster_wins_with_its_most_typical_answer() -> None:
    made, model = aggregator(strategy="clustering", embeddings="test/words", threshold=0.5)
    reply = await combined(
        made,
        {"a": "buy the shares now", "b": "sell", "c": "buy shares now", "d": "buy the shares now today", "e": ""},
    )
    assert reply.payload == "buy the shares now"
    assert reply.metadata["agreement"] == 0.6
    assert [cluster["sources"] for cluster in reply.metadata["clusters"]] == [["a", "c", "d"], ["b"], ["e"]]
    assert reply.metadata["clusters"][1] == {"sources": ["b"], "answer": "sell", "cohesion": 1.0}
    assert model.requests == []
    assert reply.usage.prompt_tokens > 0


async def test_a_model_summarises_the_winning_cluster_when_told() -> None:
    made, model = aggregator(
        "Buy.", strategy="clustering", embeddings="test/words", threshold=0.5, representative="summary"
    )
    reply = await combined(made, {"a": "sell it", "b": "buy it now", "c": "buy it"})
    assert reply.payload == "Buy."
    assert model.requests[0].messages[-1].content == "b: buy it now\nc: buy it"


async def test_answers_that_are_all_empty_are_clusters_of_their_own() -> None:
    made, _ = aggregator(strategy="clustering", embeddings="test/words")
    assert len((await combined(made, ["", " "])).metadata["clusters"]) == 2


async def test_too_many_answers_are_refused() -> None:
    made, _ = aggregator(strategy="clustering", embeddings="test/words")
    with pytest.raises(LimitExceeded, match="can be; send fewer"):
        await combined(made, ["x"] * (MAX_CLUSTERED + 1))
    with pytest.raises(LimitExceeded, match="can be aggregated; send fewer"):
        await combined(aggregator()[0], ["x"] * (MAX_ANSWERS + 1))


# votes


async def test_a_majority_wins_over_normalised_answers() -> None:
    made, model = aggregator(strategy="majority")
    reply = await combined(made, {"a": "No", "b": "Yes.", "c": "yes"})
    assert reply.payload == "Yes."
    assert reply.metadata == {
        "strategy": "majority", "sources": ["a", "b", "c"], "answer": "Yes.", "agreement": 2 / 3, "decided": True,
        "votes": {"Yes.": 2.0, "No": 1.0}, "voters": {"Yes.": ["b", "c"], "No": ["a"]},
    }  # fmt: skip
    assert model.requests == []


async def test_weights_decide_a_weighted_vote() -> None:
    made, _ = aggregator(strategy="weighted_vote", weights={"a": 3})
    assert (await combined(made, {"a": "no", "b": "yes", "c": "yes"})).payload == "no"


async def test_a_vote_can_be_on_a_field_and_answers_with_the_whole_answer_of_the_first_who_won() -> None:
    made, _ = aggregator(strategy="majority", field="team")
    answers = {"a": {"team": "it", "why": 1}, "b": '{"team": "HR", "why": 2}', "c": {"team": "hr", "why": 3}}
    reply = await combined(made, answers)
    assert reply.payload == '{"team": "HR", "why": 2}'
    assert reply.metadata["answer"] == "HR"


async def test_confidences_come_with_the_results_of_a_parallel_pattern() -> None:
    made, _ = aggregator(strategy="confidence")
    results = {
        "a": {"payload": "yes", "metadata": {"confidence": 0.9}},
        "b": {"payload": "no", "metadata": {"confidence": 0.4}},
        "c": {"payload": "no", "metadata": {"confidence": 0.4}},
    }
    assert (await combined(made, Message("x", {"parallel_results": results}))).payload == "yes"


@pytest.mark.parametrize(("strategy", "answers"), [("majority", ["a", "b"]), ("unanimous", ["a", "a", "b"])])
async def test_a_vote_without_a_winner_fails_or_is_led_as_told(strategy: str, answers: list[str]) -> None:
    with pytest.raises(NoAgreement) as caught:
        await combined(aggregator(strategy=strategy)[0], answers)
    assert caught.value.fields["votes"] == {"a": answers.count("a"), "b": 1.0}
    made, _ = aggregator(strategy=strategy, undecided="lead")
    reply = await combined(made, answers)
    assert (reply.payload, reply.metadata["decided"]) == ("a", False)


async def test_a_field_that_an_answer_has_not_is_refused() -> None:
    with pytest.raises(InvalidInput, match="the answer of '2' has no field 'team'"):
        await combined(aggregator(strategy="majority", field="team")[0], [{"team": "x"}, "x"])


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"strategy": "llm", "weights": {"a": 1}}, "weights: strategy llm does not use it, weighted and"),
        ({"strategy": "majority", "group_size": 3}, "strategy majority does not use it, hierarchical would"),
        ({"strategy": "weighted", "weights": {"a": -1}}, "weights.a: is -1.0; give a number that is 0 or more"),
        ({"strategy": "hierarchical", "group_size": 1}, "group_size"),
        ({"strategy": "clustering", "embeddings": "test/wrods"}, "config.embeddings: .*did you mean 'words'"),
        ({"strategy": "voting"}, "strategy: "),
        ({"wait": 0}, "wait"),
        ({"wait_for": 2}, "config.wait_for: is 2, and 0 inputs are named"),
    ],
)  # fmt: skip
def test_bad_configuration_names_the_field_and_the_fix(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        aggregator(**config)


@pytest.mark.parametrize("strategy", ["concatenate", "majority", "clustering"])
def test_only_strategies_that_write_need_a_model(strategy: str) -> None:
    config = {"strategy": strategy} | ({"embeddings": "test/words"} if strategy == "clustering" else {})
    AggregatorAgent(AgentSpec(name="a", role="aggregator", config=config))
    with pytest.raises(ConfigError, match="no model is named"):
        AggregatorAgent(AgentSpec(name="a", role="aggregator", config={"strategy": "consensus"}))
