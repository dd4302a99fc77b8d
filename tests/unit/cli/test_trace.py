"""`--trace`: the tree of a call's calls, in this process and over a fleet of real ones."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Generator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aixgo import Agent, Sequential
from aixgo.errors import AgentFailed, CallCancelled
from aixgo.events import Delta, MemberFinished, MemberStarted
from aixgo.message import Message
from aixgo.testing import running
from aixgo.usage import NO_USAGE, Usage
from aixgo_services.cli import call_tree
from aixgo_services.cli.call_tree import Called, CallTree
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute
from aixgo_services.cli.trace import show_traced

from tests.integration.serving import served
from tests.support import start_registry
from tests.telemetry.fleets import listed

MESH = """\
version: 2
pricing:
  test/upper: {prompt: 0.5, completion: 1}
agents:
  - {name: upper, role: llm, model: test/upper}
  - {name: echo, role: llm, model: test/echo}
  - {name: never, role: llm, model: test/slow}
  - {name: fails, role: llm, model: "test/fail:RateLimited"}
orchestrations:
  - {name: race, pattern: parallel, agents: [fails, upper, never], config: {require: 1, early_stop: true}}
  - {name: chain, pattern: sequential, agents: [race, echo]}
  - {name: broken, pattern: sequential, agents: [upper, fails, echo]}
"""

Output = pytest.CaptureFixture[str]


class Clock:
    """Time that passes a second at every look."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Waits(Agent):
    """Says that it has begun, and never ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = asyncio.Event()

    async def execute(self, message: Message) -> Message:
        self.began.set()
        await asyncio.Event().wait()
        return message


def finished(*path: str, usage: Usage = NO_USAGE, instance: str = "") -> MemberFinished:
    return MemberFinished(Message("x", usage=usage), path=path, instance_id=instance)


def names(called: Called) -> Any:
    """A tree as nested lists of names."""
    return [called.agent, *map(names, called.members)] if called.members else called.agent


def test_members_stand_below_the_one_that_called_them():
    tree = CallTree("top", Clock())
    for event in (
        MemberStarted(("top", "a")),
        MemberStarted(("top", "a", "b")),
        Delta("text", ("top", "a", "b")),
        finished("top", "a", "b", usage=Usage(3, 4, llm_calls=1), instance="i-b"),
        finished("top", "a"),
        MemberStarted(("top", "c")),
        MemberFinished(error=AgentFailed("broken"), path=("top", "c")),
    ):
        tree.add(event)
    tree.end(Usage(3, 4, llm_calls=1), instance_id="i-top")
    assert names(tree.root) == ["top", ["a", "b"], "c"]
    a, c = tree.root.members
    b = a.members[0]
    assert (b.instance_id, b.usage.total_tokens, b.seconds) == ("i-b", 7, 1.0)
    assert a.seconds == 3.0
    assert isinstance(c.error, AgentFailed)
    assert (tree.root.instance_id, tree.root.seconds, tree.root.usage.total_tokens) == ("i-top", 7.0, 7)


def test_a_member_that_is_called_again_stands_there_again():
    tree = CallTree("top", Clock())
    for _ in range(3):
        tree.add(MemberStarted(("top", "a")))
        tree.add(MemberStarted(("top", "a", "b")))
        tree.add(finished("top", "a", "b"))
        tree.add(finished("top", "a"))
    tree.end()
    assert names(tree.root) == ["top", ["a", "b"], ["a", "b"], ["a", "b"]]


def test_calls_of_one_member_at_the_same_time_lose_nothing_of_the_sum():
    tree = CallTree("top", Clock())
    for _ in range(2):
        tree.add(MemberStarted(("top", "a")))
    for tokens in (5, 7):
        tree.add(finished("top", "a", usage=Usage(tokens, llm_calls=1)))
    tree.end()
    assert [called.usage.prompt_tokens for called in tree.root.members] == [5, 7]


def test_what_nobody_told_the_end_of_is_cut_off():
    tree = CallTree("top", Clock())
    tree.add(MemberStarted(("top", "a")))
    tree.end(error=CallCancelled("enough"))
    assert tree.root.members[0].seconds is None
    assert tree.as_json()["members"][0]["seconds"] is None
    assert tree.as_json()["error"]["error"] == "CallCancelled"


def test_a_tree_holds_so_many_calls_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(call_tree, "MAX_CALLS", 3)
    tree = CallTree("top", Clock())
    for number in range(5):
        tree.add(MemberStarted(("top", f"m{number}")))
        tree.add(finished("top", f"m{number}"))
    tree.end()
    assert names(tree.root) == ["top", "m0", "m1"]
    assert (tree.left_out, tree.as_json()["left_out"]) == (3, 3)


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mesh.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh.yaml").write_text(MESH)
    return tmp_path / "mesh.yaml"


@pytest.fixture
def fleet(mesh: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The same agents in processes of their own."""
    with ExitStack() as stack:
        plane = stack.enter_context(start_registry()).wait_ready().address
        monkeypatch.setenv("AIXGO_CONTROL_PLANE", plane)
        monkeypatch.setenv("AIXGO_DEPLOYMENT_MODE", "distributed")
        for agents in (["upper", "fails"], ["never", "echo"], ["race"], ["chain", "broken"]):
            stack.enter_context(served(mesh, agents))
        asyncio.run(listed(plane, ["upper", "fails", "never", "echo", "race", "chain", "broken"]))
        yield


def told(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The calls of a tree as JSON, by agent."""
    found = {tree["agent"]: tree}
    for member in tree["members"]:
        found |= told(member)
    return found


def check_race(reply: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tree of a call of `chain`, with a member that failed and one that was cancelled."""
    calls = told(reply["trace"])
    assert [member["agent"] for member in calls["chain"]["members"]] == ["race", "echo"]
    assert sorted(member["agent"] for member in calls["race"]["members"]) == ["fails", "never", "upper"]
    assert calls["fails"]["error"]["error"] == "RateLimited"
    assert calls["never"]["error"]["error"] == "CallCancelled"
    assert calls["upper"]["error"] is None
    assert calls["chain"]["usage"] == reply["usage"]
    assert Decimal(calls["upper"]["usage"]["cost_usd"]) == Decimal("0.003")
    assert not calls["upper"]["usage"]["at_least"]
    assert calls["chain"]["usage"]["at_least"]
    assert all(call["seconds"] is not None for call in calls.values())
    return calls


def test_run_prints_the_tree_after_the_reply(mesh: Path, capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "hello you", "--target", "chain", "--trace"]) == Exit.OK
    out, err = capsys.readouterr()
    assert '"HELLO YOU"' in out.replace("\\", "")
    tree = [re.sub(r"\d+\.\d+ m?s\b", "TIME", line) for line in err.splitlines()[1:]]
    assert tree[0].startswith("chain  TIME  at least ")
    assert "at least $" in tree[0]
    assert [line.lstrip().split()[0] for line in tree] == ["chain", "race", "fails", "upper", "never", "echo"]
    assert [len(line) - len(line.lstrip()) for line in tree] == [0, 2, 4, 4, 4, 2]
    assert tree[3] == "    upper  TIME  4 tokens  $0.003"
    assert "RateLimited: " in tree[2]
    assert "CallCancelled: the outcomes of the others were enough" in tree[4]


def test_run_adds_the_tree_to_the_reply_as_json(mesh: Path, capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "hello you", "--target", "chain", "--trace", "--json"]) == Exit.OK
    out, err = capsys.readouterr()
    calls = check_race(json.loads(out))
    assert {call["instance_id"] for call in calls.values()} == {""}
    assert err == ""


def test_the_tree_of_a_call_that_fails_is_shown_and_the_exit_code_stays(mesh: Path, capsys: Output):
    assert execute(["run", "mesh.yaml", "-i", "x", "--target", "broken", "--trace"]) == Exit.FAILED
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split()[0] for line in lines] == ["broken", "upper", "fails", "aixgo:", "2"]
    assert "RateLimited" in lines[0]
    assert "2 tokens" in lines[0]
    assert execute(["run", "mesh.yaml", "-i", "x", "--target", "broken", "--trace", "--json"]) == Exit.FAILED
    out, err = capsys.readouterr()
    tree = json.loads(out)["trace"]
    assert tree["error"]["error"] == "RateLimited"
    assert tree["usage"]["total_tokens"] == 2
    assert "usage" not in tree["error"]
    assert json.loads(err)["error"] == "RateLimited"
    assert json.loads(err)["usage"] == tree["usage"]


def test_the_tree_follows_streamed_events(mesh: Path, capsys: Output):
    arguments = ["run", "mesh.yaml", "-i", "hello", "--target", "chain", "--trace", "--stream"]
    assert execute(arguments) == Exit.OK
    err = capsys.readouterr().err
    assert "race/upper started" in err
    assert err.splitlines()[-6].startswith("chain  ")
    assert execute([*arguments, "--json"]) == Exit.OK
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["Result", "Trace"]
    assert names_of(events[-1]["trace"]) == ["chain", ["race", "fails", "upper", "never"], "echo"]


def names_of(tree: dict[str, Any]) -> Any:
    return [tree["agent"], *map(names_of, tree["members"])] if tree["members"] else tree["agent"]


@pytest.mark.usefixtures("fleet")
def test_call_prints_the_tree_of_a_fleet_with_the_instances_that_answered(capsys: Output):
    assert execute(["call", "chain", "hello you", "--trace", "--json"]) == Exit.OK
    calls = check_race(json.loads(capsys.readouterr().out))
    answered = [calls[name]["instance_id"] for name in ("chain", "race", "upper", "echo")]
    assert all(answered)
    assert len(set(answered)) == 4
    assert execute(["call", "broken", "hello", "--trace", "--stream"]) == Exit.FAILED
    err = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in err[-5:]] == ["broken", "upper", "fails", "aixgo:", "2"]
    assert re.match(r"broken  @\S+  ", err[-5])
    assert re.match(r"  upper  @\S+  ", err[-4])


def test_on_a_terminal_the_tree_is_drawn(mesh: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    assert execute(["run", "mesh.yaml", "-i", "x", "--target", "broken", "--trace"]) == Exit.FAILED
    drawn = [line for line in capsys.readouterr().err.splitlines() if "─ " in line]
    assert [re.sub(r"\x1b\[[\d;]*m", "", line).split()[1] for line in drawn] == ["upper", "fails"]


async def test_the_tree_of_a_call_that_is_given_up_is_shown(capsys: Output):
    waits = Waits("waits")
    async with running(waits, Sequential("top", ["waits"])) as runtime:
        stream = runtime.stream("top", "x")
        shown = asyncio.create_task(show_traced("top", stream, streaming=True, as_json=False, clock=Clock()))
        async with asyncio.timeout(20):
            await waits.began.wait()
        shown.cancel()
        with pytest.raises(asyncio.CancelledError):
            await shown
    lines = capsys.readouterr().err.splitlines()
    assert re.match(r"top  \d.* s  CancelledError", lines[-2])
    assert lines[-1] == "  waits  cut off"
