"""Scripts in files: which rule answers, and what is wrong with a file that is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aixgo.errors import ConfigError, ProviderRejected
from aixgo.llm.contract import ChatMessage, CompletionRequest, ToolOffer
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.script import MAX_BYTES, find_rule, read_script

Write = Callable[[Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(rules: Any) -> Path:
        path = tmp_path / "script.yaml"
        path.write_text(rules if isinstance(rules, str) else yaml.safe_dump(rules))
        return path

    return written


def request(*said: tuple[str, str], **more: Any) -> CompletionRequest:
    return CompletionRequest(tuple(ChatMessage(role, content) for role, content in said), **more)  # type: ignore[arg-type]


ASKED = request(
    ("system", "You are a CRITIC."), ("user", "first draft"), ("assistant", "hm"), ("user", "Second Draft, please"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({}, True),
        ({"system": "critic"}, True),
        ({"system": "writer"}, False),
        ({"user": "second draft"}, True),
        ({"user": "first draft"}, False),
        ({"any": "first draft"}, True),
        ({"any": ["first", "critic", "HM"]}, True),
        ({"any": ["first", "third"]}, False),
        ({"system": "critic", "user": "second"}, True),
        ({"system": "critic", "user": "first"}, False),
        ({"asks": "score"}, False),
        ({"offers": "hand_over"}, False),
    ],
)
def test_when_a_rule_holds(write: Write, when: dict[str, Any], holds: bool) -> None:
    rules = read_script(write([{"when": when, "text": "yes"}, {"text": "no"}]))
    assert find_rule(rules, ASKED, Path("s")).text == ("yes" if holds else "no")


def test_a_rule_may_ask_for_a_schemas_field_or_an_offered_tool(write: Write) -> None:
    rules = read_script(
        write([{"when": {"asks": "score"}, "json": 1}, {"when": {"offers": "t"}, "json": 2}, {"json": 3}])
    )
    schema = {"properties": {"score": {}}}
    asked = (request(schema=schema), request(tools=(ToolOffer("t", "", {}),)), request(schema={"type": "object"}))
    assert [find_rule(rules, one, Path("s")).json_ for one in asked] == [1, 2, 3]


async def test_a_model_answers_by_the_first_rule_that_holds_the_same_each_time(write: Write, tmp_path: Path) -> None:
    path = write(
        [
            {"when": {"user": "draft"}, "json": {"score": 0.5, "why": None}},
            {"when": {"user": "tool"}, "tool": {"name": "hand_over", "arguments": {"to": "b"}}},
            {"text": "You said: {user}, and {other}"},
        ]
    )
    for name in (path.name, str(path)):
        models = Models(ModelSettings(), folder=tmp_path)
        chat = models.chat((f"test/script:{name}",))
        for _ in range(2):
            first = await chat.complete(ASKED)
            tool = await chat.complete(request(("user", "use a tool")))
            last = await chat.complete(request(("user", "hello")))
            assert first.text == '{"score":0.5,"why":null}'
            assert [(use.name, use.arguments) for use in tool.tool_uses] == [("hand_over", {"to": "b"})]
            assert (tool.text, tool.stop_reason) == ("", "tool_calls")
            assert last.text == "You said: hello, and {other}"
        await models.close()


async def test_a_rule_may_answer_null(write: Write, tmp_path: Path) -> None:
    write([{"json": None}])
    models = Models(ModelSettings(), folder=tmp_path)
    assert (await models.chat(("test/script:script.yaml",)).complete(ASKED)).text == "null"
    await models.close()


async def test_when_no_rule_holds_the_model_rejects_and_says_what_was_said(write: Write, tmp_path: Path) -> None:
    write([{"when": {"user": "something else"}, "text": "x"}])
    models = Models(ModelSettings(), folder=tmp_path)
    with pytest.raises(
        ProviderRejected, match=r"no rule of .*script\.yaml holds for 'Second Draft, please'; add one wi"
    ):
        await models.chat(("test/script:script.yaml",)).complete(ASKED)
    await models.close()


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([{"when": {"user": "x"}}], "0: Value error, a rule has one of text, json and tool"),
        ([{"text": "x"}, {"text": "x", "json": 1}], "1: Value error, a rule has one of text, json and tool"),
        ([{"text": "x", "wen": {}}], "0.wen: Extra inputs are not permitted"),
        ([{"text": "x", "when": {"usr": "x"}}], "0.when.usr: Extra inputs are not permitted"),
        ([{"text": 7}], "0.text: Input should be a valid string"),
        ([{"tool": {}}], "0.tool.name: Field required"),
        ({"text": "x"}, "file: Input should be a valid tuple"),
        ("", "file: Input should be a valid tuple"),
        ("- {", "is no YAML"),
        ("- text: " + "x" * MAX_BYTES, "a script is a short file"),
        ("- text: \x00", "is no YAML"),
    ],
)
def test_a_file_that_is_no_script_is_told_with_rule_and_field(write: Write, rules: Any, text: str) -> None:
    path = write(rules)
    with pytest.raises(ConfigError) as caught:
        read_script(path)
    assert text in caught.value.message
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"script .*none\.yaml cannot be read"):
        read_script(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"- text: caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_script(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_script(tmp_path)
