"""The handbook answers what stands in it, from the right document, and says so where it has no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aixgo import Message
from aixgo.config.load import load
from aixgo.conversation import Turn, with_turns
from aixgo.launch import opened
from aixgo.runtime.base import BaseRuntime
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

from tests.examples.readme import Example

EXAMPLE = Example("rag-enterprise")
QUESTIONS = {
    "How many days of annual leave can I carry over into the next year?": ("annual-leave",),
    "How many weeks of parental leave are paid in full?": ("parental-leave",),
    "When do I need a doctor's certificate?": ("sick-leave",),
    "How many days a week may I work from home?": ("remote-work",),
    "How much may a hotel in Paris cost a night?": ("travel-booking",),
    "What is the daily allowance for meals in North America?": ("travel-expenses",),
    "What do I get for each kilometre with my own car?": ("travel-expenses",),
    "My laptop was stolen on the train. Whom do I call, and how fast?": ("security-incidents", "it-equipment"),
    "How soon must I report a phishing click?": ("security-incidents",),
    "How much does Halden pay into the pension plan?": ("pay-and-reviews",),
}
NO_ANSWER = "The handbook says nothing about this. Ask the people team."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The handbook, indexed once."""
    folder = tmp_path_factory.mktemp("rag") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIXGO_STORE", str(folder))
        assert execute(["index", str(EXAMPLE.config)]) == Exit.OK
    return folder


@pytest.fixture
async def runtime(store: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BaseRuntime]:
    monkeypatch.setenv("AIXGO_STORE", str(store))
    async with opened(load(EXAMPLE.config)) as made:
        yield made


async def test_nine_of_ten_questions_are_answered_from_the_right_document(runtime: BaseRuntime):
    wrong: list[str] = []
    for question, documents in QUESTIONS.items():
        reply = await runtime.call("handbook", question)
        assert reply.metadata["grounded"]
        cited = Path(reply.metadata["citations"][0]["source"])
        assert (EXAMPLE.folder / cited).exists()
        if cited.stem not in documents:
            wrong.append(f"{question} {cited}")
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(
    "question", ["Does the canteen serve vegetarian food?", "Who won the football world cup in 1998?"]
)
async def test_what_the_handbook_does_not_have_gets_no_answer_and_no_citation(runtime: BaseRuntime, question: str):
    reply = await runtime.call("handbook", question)
    assert reply.text == NO_ANSWER
    assert reply.metadata["citations"] == reply.metadata["chunks"] == []
    assert not reply.metadata["grounded"]


async def test_a_follow_up_is_searched_for_as_a_question_of_its_own(runtime: BaseRuntime):
    turns = [Turn("user", "How many days of annual leave do I have?"), Turn("assistant", "27 days. [1]", "handbook")]
    asked = with_turns(Message("And how many of them can I take into the next year?"), turns)
    reply = await runtime.call("handbook", asked)
    assert reply.metadata["queries"] == ["How many days of annual leave can be carried over into the next year?"]
    assert "Up to five days" in reply.text


def test_what_is_indexed_is_not_indexed_again(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("AIXGO_STORE", str(store))
    count = len(list((EXAMPLE.folder / "handbook").iterdir()))
    assert execute(["index", str(EXAMPLE.config)]) == Exit.OK
    assert capsys.readouterr().out.startswith(f"0 added, 0 changed, {count} as before")
    assert execute(["run", str(EXAMPLE.config), "-i", "How long must a password be?"]) == Exit.OK
    assert capsys.readouterr().out == "A password has at least 14 characters. [1]\n"
