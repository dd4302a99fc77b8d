"""Answers by a schema: what becomes of those that miss it."""

from __future__ import annotations

import pytest
from aixgo import errors
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest
from aixgo.llm.structured import complete_structured
from aixgo.usage import Usage
from pydantic import BaseModel

ASKED = CompletionRequest((ChatMessage("user", "x"),), model="m", max_tokens=9)


class City(BaseModel):
    name: str


class Model:
    def __init__(self, *answers: Completion) -> None:
        self.answers = list(answers)
        self.seen: list[CompletionRequest] = []

    async def complete(self, request: CompletionRequest) -> Completion:
        self.seen.append(request)
        return self.answers.pop(0)


def said(text: str, **more: object) -> Completion:
    return Completion(text, "m", Usage(1, 1), **more)  # pyright: ignore[reportArgumentType]


async def test_a_repaired_answer_carries_what_all_attempts_took():
    model = Model(said("Oslo"), said('{"name": 1}'), said('{"name": "Oslo"}'))
    got, completion = await complete_structured(model.complete, ASKED, City)
    assert (got.name, completion.usage) == ("Oslo", Usage(3, 3))
    assert "name: Input should be a valid string" in model.seen[2].messages[-1].content


async def test_a_model_that_refuses_is_not_asked_again():
    model = Model(said("I must not", stop_reason="refused"))
    with pytest.raises(errors.InvalidCompletion, match="refuses to answer: 'I must not'"):
        await complete_structured(model.complete, ASKED, City)


async def test_an_answer_that_is_cut_off_again_and_again_says_which_limit_to_raise():
    model = Model(*[said('{"name": "Os', stop_reason="length")] * 3)
    with pytest.raises(errors.InvalidCompletion, match="raise max_tokens above 9"):
        await complete_structured(model.complete, ASKED, City)
    assert "be shorter" in model.seen[1].messages[-1].content
