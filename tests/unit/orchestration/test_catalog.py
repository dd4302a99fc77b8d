"""Patterns by name, as YAML names them."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo import Limits, LocalRuntime, Parallel, Router, Sequential, agent
from aixgo.errors import ConfigError, LimitExceeded
from aixgo.message import Message
from aixgo.orchestration.base import DEFAULT_LIMITS
from aixgo.orchestration.catalog import build


@agent
async def judge(message: Message) -> str:
    return "a"


def test_each_pattern_is_built_with_its_limits() -> None:
    limits = Limits(max_agents=5)
    routes = {"classifier": "c", "routes": {"x": "a", "y": "b"}, "fallback": "a", "threshold": 0.5}
    sequential = build("sequential", "s", ["a", "b"], {}, limits)
    parallel = build("parallel", "p", ["a", "b"], {"aggregator": "sum", "concurrency": 2}, limits)
    router = build("router", "r", [], routes, limits)
    assert [type(each) for each in (sequential, parallel, router)] == [Sequential, Parallel, Router]
    assert [each.agents for each in (sequential, parallel, router)] == [("a", "b"), ("a", "b", "sum"), ("c", "a", "b")]
    assert [each.limits for each in (sequential, parallel, router)] == [limits] * 3
    assert (sequential.name, sequential.pattern, sequential.role) == ("s", "sequential", "orchestrator")


def test_merge_is_no_agent() -> None:
    assert build("parallel", "p", ["a"], {"aggregator": "merge"}, DEFAULT_LIMITS).agents == ("a",)


async def test_members_may_be_agents() -> None:
    runtime = LocalRuntime()
    runtime.register(
        build("router", "r", [], {"classifier": judge, "routes": {"a": judge.renamed("")}}, DEFAULT_LIMITS)
    )
    assert (await runtime.call("r", "x")).metadata["routed_to"] == "r/1"


def test_a_routers_agents_may_be_listed_as_long_as_they_are_used() -> None:
    config = {"classifier": "c", "routes": {"x": "a"}}
    assert build("router", "r", ["a", "c"], config, DEFAULT_LIMITS).agents == ("c", "a")
    with pytest.raises(ConfigError, match="orchestration 'r' lists agents that it does not use: b;"):
        build("router", "r", ["a", "b"], config, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("paralel", "pattern 'paralel' is not known; did you mean 'parallel'?"),
        ("Sequential", "pattern 'Sequential' is not known; did you mean 'sequential'?"),
        ("zzz", "pattern 'zzz' is not known; known are: debate, "),
        ("", "pattern '' is not known; known are: debate, "),
    ],
)  # fmt: skip
def test_an_unknown_pattern_names_the_nearest(pattern: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        build(pattern, "x", ["a"], {}, DEFAULT_LIMITS)


ROUTES = {"classifier": "c", "routes": {"x": "a"}}


@pytest.mark.parametrize(
    ("pattern", "config", "text"),
    [
        ("sequential", {"steps": 2}, "orchestration 'x': config.steps is not known"),
        ("parallel", {"agregator": "a"}, "config.agregator is not known; did you mean 'aggregator'?"),
        ("parallel", {"concurrency": 0}, "config.concurrency: Input should be greater than or equal to 1"),
        ("parallel", {"concurrency": "many"}, "config.concurrency: Input should be a valid integer"),
        ("router", {}, "config.classifier: Field required; config.routes: Field required"),
        ("router", {**ROUTES, "routes": {}}, "config.routes: Dictionary should have at least 1 item"),
        ("router", {**ROUTES, "threshold": 1.5}, "config.threshold: Input should be less than or equal to 1"),
        ("router", {**ROUTES, "routes": {"x": 7}}, "config.routes.x"),
        ("router", {**ROUTES, "falback": "a"}, "config.falback is not known; did you mean 'fallback'?"),
    ],
)  # fmt: skip
def test_a_wrong_config_names_the_key_and_what_it_should_be(pattern: str, config: dict[str, Any], text: str) -> None:
    agents = [] if pattern == "router" else ["a"]
    with pytest.raises(ConfigError) as caught:
        build(pattern, "x", agents, config, DEFAULT_LIMITS)
    assert text in caught.value.message


@pytest.mark.parametrize("pattern", ["sequential", "parallel"])
def test_a_pattern_without_agents_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="orchestration 'x' has no `agents`; name at least one"):
        build(pattern, "x", [], {}, DEFAULT_LIMITS)


def test_too_many_members_are_refused_here_too() -> None:
    with pytest.raises(LimitExceeded):
        build("parallel", "p", ["a", "b"], {"aggregator": "c"}, Limits(max_agents=2))
