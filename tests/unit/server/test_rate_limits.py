"""How often callers may call: buckets that fill with time, one for each caller, and not too many of them."""

from __future__ import annotations

import pytest
from aixgo.errors import ConfigError, Overloaded
from aixgo.security.identity import ANONYMOUS, Caller
from aixgo.server.limits import RateLimit, RateLimits
from hypothesis import given
from hypothesis import strategies as st

HERE = "ipv4:10.0.0.1:4000"


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(limits: RateLimits, peer: str = HERE, caller: Caller = ANONYMOUS) -> Overloaded | None:
    try:
        limits.check(caller, peer)
    except Overloaded as error:
        return error
    return None


def test_a_burst_is_allowed_and_then_so_many_a_second() -> None:
    clock = Clock()
    limits = RateLimits(RateLimit(2, 3), clock=clock)
    assert [refusal(limits) is None for _ in range(4)] == [True, True, True, False]
    clock.now = 0.5
    assert [refusal(limits) is None for _ in range(2)] == [True, False]


def test_a_refusal_says_when_the_next_call_may_come_and_was_not_accepted() -> None:
    clock = Clock()
    limits = RateLimits(RateLimit(2, 1), clock=clock)
    limits.check(ANONYMOUS, HERE)
    clock.now = 0.125
    error = refusal(limits)
    assert error is not None
    assert (error.accepted, error.retry_after, error.fields) == (False, 0.375, {"per_second": 2, "burst": 1})
    clock.now += 0.375
    assert refusal(limits) is None


def test_callers_are_told_apart_by_who_they_are_and_else_by_host() -> None:
    limits = RateLimits(RateLimit(1, 1), clock=Clock())
    assert refusal(limits, HERE) is None
    assert refusal(limits, "ipv4:10.0.0.1:4001") is not None
    assert refusal(limits, "ipv6:%5B::1%5D:4001") is None
    assert refusal(limits, "unix:") is None
    assert refusal(limits, HERE, Caller(("desk",))) is None
    assert refusal(limits, "ipv4:10.0.0.2:1", Caller(("desk",))) is not None
    assert refusal(limits, HERE, Caller(("10.0.0.1",))) is None


def test_only_so_many_callers_are_remembered_the_latest() -> None:
    limits = RateLimits(RateLimit(1, 1), clock=Clock(), most=2)
    for host in "abcb":
        refusal(limits, f"ipv4:{host}:1")
    assert len(limits) == 2
    assert refusal(limits, "ipv4:c:1") is not None
    assert refusal(limits, "ipv4:a:1") is None


@given(st.floats(0.1, 1000), st.integers(1, 50), st.lists(st.floats(0, 2), max_size=100))
def test_no_caller_ever_gets_more_than_its_burst_and_its_rate(rate: float, burst: int, pauses: list[float]) -> None:
    clock = Clock()
    limits = RateLimits(RateLimit(rate, burst), clock=clock)
    allowed = 0
    for pause in pauses:
        clock.now += pause
        allowed += refusal(limits) is None
        assert allowed <= burst + clock.now * rate + 1e-6


def test_a_limit_is_written_as_a_rate_with_or_without_a_burst() -> None:
    assert RateLimit.parse("2.5:10") == RateLimit(2.5, 10)
    assert RateLimit.parse("2.5") == RateLimit(2.5, 3)
    assert RateLimit.parse(" 0.1 ") == RateLimit(0.1, 1)


@pytest.mark.parametrize("text", ["", "fast", "1:", "-1", "1:2:3", "0", "1:0", "nan"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="rate_limit"):
        RateLimit.parse(text)
