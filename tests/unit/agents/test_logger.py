"""The role `logger`: what it writes, what it leaves out, where."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest
from aixgo import errors
from aixgo.agent import Agent, agent
from aixgo.agents.logger import LoggerAgent
from aixgo.config.spec import AgentSpec
from aixgo.message import Message
from aixgo.orchestration.sequential import Sequential
from aixgo.testing import running

MOMENT = 1_772_366_310.25


def logger(name: str = "journal", outputs: Any = (), inputs: Any = (), **config: Any) -> LoggerAgent:
    given = {"name": name, "role": "logger", "config": config, "outputs": outputs, "inputs": inputs}
    return LoggerAgent(AgentSpec.model_validate(given), now=lambda: MOMENT)


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aixgo.messages")


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(one.levelname, one.message) for one in caplog.records if one.name == "aixgo.messages"]


async def test_a_call_is_logged_and_answered_with_the_message_itself(caplog: pytest.LogCaptureFixture):
    @agent
    async def first(message: Message) -> Message:
        return message.with_(payload={"n": 1}).with_metadata(k="v")

    async with running(first, logger(), Sequential("both", ["first", "journal"])) as runtime:
        reply = await runtime.call("both", Message("hi", session_id="s"))
    assert reply.payload == {"n": 1}
    assert reply.metadata["k"] == "v"
    assert reply.session_id == "s"
    ((level, line),) = lines(caplog)
    assert level == "INFO"
    assert line.startswith('journal: sender="both" id="')
    assert line.endswith(' payload={"n":1}')


async def test_messages_of_the_mailbox_are_logged_with_their_sender_and_go_on_to_the_outputs(
    caplog: pytest.LogCaptureFixture,
):
    got: asyncio.Queue[Message] = asyncio.Queue()

    class Feed(Agent):
        name = "feed"

        async def execute(self, message: Message) -> Message:
            await self.runtime.send("journal", message)
            return message

    class Sink(Agent):
        name = "sink"

        async def execute(self, message: Message) -> Message:
            return message

        async def start(self) -> None:
            async for delivery in self.runtime.recv():
                async with delivery as message:
                    await got.put(message)

    made = logger(
        outputs=[{"target": "sink"}], inputs=[{"source": "feed"}], level="warning", fields=["sender", "payload"]
    )
    async with running(Feed(), Sink(), made) as runtime:
        await runtime.call("feed", "hello")
        assert (await asyncio.wait_for(got.get(), 10)).payload == "hello"
    assert lines(caplog) == [("WARNING", 'journal: sender="feed" payload="hello"')]


async def test_it_listens_even_without_inputs_and_outputs():
    assert logger().reactive


async def test_a_text_cannot_forge_a_line(caplog: pytest.LogCaptureFixture):
    async with running(logger(fields=["payload"])) as runtime:
        await runtime.call("journal", "one\nINFO two\x1b[2J")
    assert lines(caplog) == [("INFO", 'journal: payload="one\\nINFO two\\u001b[2J"')]


@pytest.mark.parametrize(
    ("payload", "written"),
    [
        ("abcdefgh", "abcde... (3 more characters)"),
        ("abcde", "abcde"),
        ([1, 2, 3, 4], "[1,2,... (4 more characters)"),
        ([1, 2], [1, 2]),
        (b"ab\xff", "ab\N{REPLACEMENT CHARACTER}"),
        (None, None),
    ],
)
async def test_json_lines_hold_what_fits(payload: Any, written: Any, caplog: pytest.LogCaptureFixture):
    async with running(logger(format="json", fields=["payload"], max_length=5)) as runtime:
        await runtime.call("journal", Message(payload))
    ((_, line),) = lines(caplog)
    assert json.loads(line) == {"agent": "journal", "payload": written}


async def test_content_can_be_left_out(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    fields = ["id", "session_id", "metadata", "payload"]
    made = logger(format="json", fields=fields, content=False, file=str(tmp_path / "log"))
    message = Message("hush", {"k": "hush"}, session_id="s")
    async with running(made) as runtime:
        await runtime.call("journal", message)
    ((_, line),) = lines(caplog)
    assert json.loads(line) == {"agent": "journal", "id": message.id, "session_id": "s"}
    assert "hush" not in (tmp_path / "log").read_text()


async def test_the_file_has_one_object_a_line_and_only_its_owner_reads_it(tmp_path: Path):
    path = tmp_path / "messages.jsonl"
    async with running(logger(fields=["metadata", "payload"], file=str(path))) as runtime:
        await asyncio.gather(*(runtime.call("journal", Message("x" * 500, {"n": n})) for n in range(20)))
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(one["metadata"]["n"] for one in written) == list(range(20))
    assert written[0]["time"] == "2026-03-01T11:58:30.250+00:00"
    assert written[0]["agent"] == "journal"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_file_that_cannot_be_written_is_told(tmp_path: Path):
    async with running(logger(file=str(tmp_path / "no" / "such"))) as runtime:
        with pytest.raises(errors.WrongState, match=r"cannot write to .*such: No such file or directory"):
            await runtime.call("journal", "x")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"level": "loud"}, "level: "),
        ({"fields": ["text"]}, r"fields\.0: "),
        ({"fields": []}, "fields: "),
        ({"max_length": 0}, "max_length: "),
        ({"levl": "info"}, "unknown key 'levl'; did you mean 'level'"),
    ],
)
def test_a_configuration_that_cannot_be_used_names_the_key(config: dict[str, Any], told: str):
    with pytest.raises(errors.ConfigError, match=rf"agents\.journal\.config: {told}"):
        logger(**config)
