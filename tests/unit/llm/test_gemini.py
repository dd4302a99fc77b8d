"""What only Gemini's format has: signatures of thoughts, uses of tools without ids, blocked prompts, logprobs."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo import errors
from aixgo.call import entered, root
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest, TokenChoice, ToolOffer, ToolUse
from aixgo.llm.gemini import GeminiClient
from aixgo.llm.gemini_wire import GatheredAnswer, config, contents
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.sdk_client import Endpoint
from aixgo.usage import Usage
from pydantic import SecretStr
from vendor_server import Exchange, VendorServer

types = pytest.importorskip("google.genai.types")

ADD = ToolOffer("add", "adds", {"type": "object"})


def gathered(*responses: dict[str, Any], turn: int = 1) -> Completion:
    answer = GatheredAnswer("gemini", turn)
    for response in responses:
        answer.add(types.GenerateContentResponse.model_validate(response))
    return answer.completion()


def response(*parts: dict[str, Any], reason: str | None = "STOP", **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason, **more}]}


def calls(name: str, **arguments: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": arguments}}


def test_uses_of_tools_get_ids_that_are_theirs_alone_and_are_not_told_to_the_vendor():
    got = gathered(response(calls("add", a=1), reason=None), response({"text": "and"}, calls("add", a=2)), turn=3)
    assert [use.id for use in got.tool_uses] == ["aixgo_3_0", "aixgo_3_1"]
    assert got.stop_reason == "tool_calls"
    told = [ChatMessage("tool", use.id, tool_call_id=use.id) for use in got.tool_uses]
    request = CompletionRequest((ChatMessage("user", "x"), ChatMessage("assistant", "and", got.tool_uses), *told))
    _, asked, given = contents(request)
    assert asked["parts"][1:] == [{"function_call": {"name": "add", "args": {"a": n}}} for n in (1, 2)]
    answers = [{"name": "add", "response": {"output": use.id}} for use in got.tool_uses]
    assert given == {"role": "user", "parts": [{"function_response": answer} for answer in answers]}


def test_the_signature_of_a_thought_goes_back_with_its_use_of_a_tool():
    got = gathered(response({"text": "hm", "thought": True}, {**calls("add"), "thoughtSignature": "c2ln"}))
    assert got.text == ""
    (turn,) = contents(CompletionRequest((ChatMessage("assistant", "", got.tool_uses),)))
    assert turn["parts"][0]["thought_signature"] == b"sig"
    foreign = ToolUse("c1", "add", {}, "anthropic:[]")
    (turn,) = contents(CompletionRequest((ChatMessage("assistant", "", (foreign,)),)))
    assert "thought_signature" not in turn["parts"][0]


def test_a_prompt_that_is_blocked_is_a_refusal():
    got = gathered({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}})
    assert (got.text, got.stop_reason, got.usage) == ("", "refused", Usage(3))


@pytest.mark.parametrize(
    "given", [{"usageMetadata": {"promptTokenCount": 3}}, response(reason="MALFORMED_FUNCTION_CALL")]
)
def test_an_answer_that_is_none_is_an_invalid_completion(given: dict[str, Any]):
    with pytest.raises(errors.InvalidCompletion) as caught:
        gathered(given)
    assert caught.value.usage == Usage(3 if "usageMetadata" in given else 0)


def test_log_probabilities_are_those_of_the_likeliest_tokens():
    result = {
        "chosenCandidates": [{"token": "yes", "logProbability": -0.1}],
        "topCandidates": [
            {"candidates": [{"token": "yes", "logProbability": -0.1}, {"token": "no", "logProbability": -2}]}
        ],
    }
    got = gathered(response({"text": "yes"}, logprobsResult=result))
    assert got.tokens == (TokenChoice("yes", {"yes": -0.1, "no": -2.0}),)
    assert config(CompletionRequest((), top_logprobs=2), native_schema=True)["logprobs"] == 2


def test_a_schema_beside_tools_is_asked_for_in_words():
    request = CompletionRequest((ChatMessage("user", "x"),), tools=(ADD,), schema={"type": "object"})
    made = config(request, native_schema=True)
    assert "response_json_schema" not in made
    assert "JSON schema" in made["system_instruction"]


@pytest.fixture
def client(vendor: VendorServer) -> GeminiClient:
    return GeminiClient(Endpoint("gemini", vendor.url.removesuffix("/v1"), SecretStr("k")))


async def refused(
    vendor: VendorServer, client: GeminiClient, status: int, detail: dict[str, Any]
) -> errors.ProviderError:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(status, {"error": {"code": status, "message": "no", "details": [detail]}})

    vendor.handlers = [handle]
    with pytest.raises(errors.ProviderError) as caught:
        await client.complete(CompletionRequest((ChatMessage("user", "x"),), model="m"))
    await client.close()
    return caught.value


async def test_how_long_to_wait_is_read_from_the_body(vendor: VendorServer, client: GeminiClient):
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}
    error = await refused(vendor, client, 429, detail)
    assert (type(error), error.retry_after) == (errors.RateLimited, 12.5)


async def test_a_wrong_key_is_denied_though_google_calls_it_an_argument(vendor: VendorServer, client: GeminiClient):
    error = await refused(vendor, client, 400, {"reason": "API_KEY_INVALID"})
    assert type(error) is errors.ProviderDenied


@pytest.mark.parametrize("model", ["gemini-embedding-001", "gemini-embedding-2"])
async def test_each_text_has_a_vector_of_its_own_whatever_the_model_and_tokens_nobody_tells_are_estimated(
    vendor: VendorServer, model: str
):
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(200, {"embeddings": [{"values": [1.0, 0.0]}, {"values": [0.0, 1.0]}]})

    vendor.handlers = [handle]
    models = Models(ModelSettings(keys={"gemini": SecretStr("k")}, urls={"gemini": vendor.url}))
    with entered(state := root()):
        assert await models.embedder(f"gemini/{model}").embed(["x" * 40, "y" * 40]) == [[1.0, 0.0], [0.0, 1.0]]
    await models.close()
    assert vendor.seen[0].path.endswith(f"models/{model}:batchEmbedContents")
    texts = [one["content"]["parts"] for one in vendor.seen[0].body["requests"]]
    assert texts == [[{"text": "x" * 40}], [{"text": "y" * 40}]]
    assert (state.ledger.usage.prompt_tokens, state.ledger.usage.incomplete) == (20, True)
