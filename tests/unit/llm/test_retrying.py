"""Trying again: which errors, after how long, how often, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest
from aixgo import errors
from aixgo.call import Budget, entered, root
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.embeddings import Embedded, MeteredEmbedder
from aixgo.llm.limits import Gate, VendorLimits
from aixgo.llm.metering import Metered
from aixgo.llm.pricing import Price, Prices
from aixgo.llm.retrying import Backoff, Retrying, Tries
from aixgo.llm.scripted import Reply, Scripted, ScriptedClient, ScriptedModel
from aixgo.llm.sdk_client import retry_after
from aixgo.usage import Usage
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

ASKED = CompletionRequest((ChatMessage("user", "one two three"),), model="m")
PRICES = Prices({"test/m": Price(Decimal(1), Decimal(2))})


class Clock:
    def __init__(self) -> None:
        self.naps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)


def retrying(clock: Clock, *replies: Scripted, chance: float = 1.0, tries: int = 3) -> Retrying:
    provider = Metered(ScriptedClient({"m": ScriptedModel(replies)}), PRICES)
    backoff = Backoff(tries=tries, chance=lambda: chance)
    return Retrying(provider, Tries(Gate("test", VendorLimits()), backoff=backoff, sleep=clock.sleep))


def failure(kind: type[errors.ProviderError], retry_after: float | None = None, **fields: object) -> Scripted:
    return kind("no", retry_after=retry_after, fields=fields)


async def test_waits_grow_and_are_spread_over_their_whole_length():
    longest, half = Clock(), Clock()
    for clock, chance in ((longest, 1.0), (half, 0.5)):
        down = [failure(errors.ProviderUnavailable) for _ in range(6)]
        with pytest.raises(errors.ProviderUnavailable):
            await retrying(clock, *down, chance=chance, tries=6).complete(ASKED)
    assert longest.naps == [0.5, 1, 2, 4, 8]
    assert half.naps == [0.25, 0.5, 1, 2, 4]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (failure(errors.RateLimited), True),
        (failure(errors.ProviderUnavailable), True),
        (failure(errors.ProviderTimeout, status=408), True),
        (failure(errors.ProviderTimeout), False),
        (failure(errors.RateLimited, final=True), False),
        (failure(errors.RateLimited, 61), False),
        (failure(errors.ProviderDenied), False),
        (failure(errors.ProviderRejected), False),
        (failure(errors.InvalidCompletion), False),
    ],
)
async def test_only_what_passes_is_tried_again(error: Scripted, again: bool):
    asked = retrying(Clock(), error, "fine")
    if again:
        assert (await asked.complete(ASKED)).text == "fine"
    else:
        with pytest.raises(type(error)):
            await asked.complete(ASKED)


async def test_every_try_is_one_call_in_the_ledger_and_what_a_failed_one_cost_counts():
    broke = errors.ProviderUnavailable("gone")
    broke.usage = Usage(3, 0, incomplete=True)
    state = root()
    state.budget = Budget(tokens=5000)
    with entered(state):
        got = await retrying(Clock(), broke, failure(errors.RateLimited), "four five").complete(ASKED)
    assert got.usage == Usage(3, 2, llm_calls=1, cost_usd=Decimal("0.007"))
    assert state.ledger.usage == Usage(
        6,
        2,
        llm_calls=3,
        cost_usd=Decimal("0.010"),
        incomplete=True,
        unsettled_tokens=ASKED.max_tokens,
        unsettled_usd=2 * Decimal(ASKED.max_tokens) / 1000,
    )
    assert state.budget.left()[0] == 5000 - 8 - ASKED.max_tokens


async def test_a_stream_is_tried_again_before_its_first_chunk_and_not_after():
    asked = retrying(Clock(), failure(errors.ProviderUnavailable), "fine")
    assert [chunk.text async for chunk in asked.stream(ASKED)] == ["fine", ""]
    broken = Reply("x", deltas=["x"], error=errors.ProviderUnavailable("gone"))
    clock = Clock()
    with pytest.raises(errors.ProviderUnavailable):
        async for _ in retrying(clock, broken, "fine").stream(ASKED):
            pass
    assert clock.naps == []


class Answer(BaseModel):
    yes: bool


async def test_a_repair_is_tried_again_too():
    asked = retrying(Clock(), "hm", failure(errors.RateLimited), '{"yes": true}')
    got, completion = await asked.complete_structured(ASKED, Answer)
    assert got.yes
    assert completion.usage.llm_calls == 2


class Vectors:
    vendor = "test"
    models: dict[str, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.asked = 0

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        self.asked += 1
        if self.asked == 1:
            raise errors.RateLimited("later", retry_after=2)
        return Embedded([[1.0] for _ in texts], model, Usage(prompt_tokens=3))

    async def close(self) -> None: ...


async def test_every_try_of_embeddings_is_one_call_in_the_ledger():
    clock = Clock()
    tries = Tries(Gate("test", VendorLimits()), backoff=Backoff(chance=lambda: 0.0), sleep=clock.sleep)
    with entered(state := root()):
        assert await MeteredEmbedder(Vectors(), "m", PRICES, tries).embed(["a"]) == [[1.0]]
    assert clock.naps == [2]
    assert state.ledger.usage == Usage(prompt_tokens=3, llm_calls=2, cost_usd=Decimal("0.003"))


@given(
    tried=st.integers(1, 5),
    asked=st.none() | st.floats(0, 100),
    left=st.none() | st.floats(0, 100),
    chance=st.floats(0, 1),
)
def test_no_wait_goes_beyond_the_deadline_or_below_what_the_vendor_asks(
    tried: int, asked: float | None, left: float | None, chance: float
):
    wait = Backoff(tries=4, chance=lambda: chance).wait(tried, errors.RateLimited("no", retry_after=asked), left)
    if wait is None:
        return
    assert tried < 4
    assert left is None or wait < left
    assert wait >= (asked or 0)
    assert wait <= 60


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_how_long_to_wait_is_read_in_every_form_it_has(headers: dict[str, str], seconds: float | None):
    assert retry_after(headers, now=60) == seconds
