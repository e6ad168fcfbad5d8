"""The token bucket: never more than it says, and no clock or client makes it forget or block for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Key
from modelmora.spec import RateLimit
from modelmora_router.rate_limits import RateLimits, rate_limited

ONE, TWO = Key("default", "one"), Key("default", "two")
LIMIT = RateLimit.model_validate({"requestsPerSecond": 10, "burst": 3})


def limits(max_clients: int = 100) -> RateLimits:
    return RateLimits(max_clients=max_clients)


@pytest.mark.req("RM-4.3d")
def test_a_burst_is_admitted_and_then_one_for_each_interval() -> None:
    rates = limits()
    assert [rates.take(ONE, "a", LIMIT, 5.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert rates.take(ONE, "a", LIMIT, 5.0) == pytest.approx(0.1)
    assert rates.take(ONE, "a", LIMIT, 5.04) == pytest.approx(0.06)
    assert rates.take(ONE, "a", LIMIT, 5.1) == 0.0
    assert rates.take(ONE, "a", LIMIT, 5.1) == pytest.approx(0.1)


def test_the_burst_is_a_second_of_requests_where_nothing_is_said() -> None:
    limit, rates = RateLimit.model_validate({"requestsPerSecond": 50}), limits()
    assert sum(rates.take(ONE, "a", limit, 0.0) == 0.0 for _ in range(200)) == 50


def test_clients_and_models_are_counted_apart_and_a_model_as_a_whole_if_asked() -> None:
    rates = limits()
    whole = RateLimit.model_validate({"requestsPerSecond": 10, "burst": 1, "per": "Model"})
    single = RateLimit.model_validate({"requestsPerSecond": 10, "burst": 1})
    assert [rates.take(ONE, client, single, 0.0) == 0.0 for client in "aab"] == [True, False, True]
    assert rates.take(TWO, "a", single, 0.0) == 0.0
    assert [rates.take(Key("x", "m"), client, whole, 0.0) == 0.0 for client in "aab"] == [True, False, False]


def test_refusals_cost_no_tokens() -> None:
    rates = limits()
    refused = [rates.take(ONE, "a", LIMIT, 0.0) for _ in range(1000)][3:]
    assert refused == pytest.approx([0.1] * 997)


@given(
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=200),
    rate=st.integers(1, 100),
    burst=st.integers(1, 20),
)
def test_in_no_span_of_time_is_more_admitted_than_rate_and_burst_allow(
    steps: list[float], rate: int, burst: int
) -> None:
    limit, rates = RateLimit.model_validate({"requestsPerSecond": rate, "burst": burst}), limits()
    now, admitted = 0.0, []
    for step in steps:
        now += step / rate
        if rates.take(ONE, "a", limit, now) == 0.0:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= burst + rate * (admitted[last] - admitted[first]) + 1e-6


@given(jumps=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50))
def test_a_clock_that_jumps_blocks_nobody_for_longer_than_a_token_takes(jumps: list[float]) -> None:
    rates = limits()
    for now in jumps:
        for _ in range(5):
            wait = rates.take(ONE, "a", LIMIT, now)
            assert 0.0 <= wait <= 0.1 + 1e-6
        assert rates.take(ONE, "a", LIMIT, now + 0.1001 + abs(now) * 1e-9) == 0.0


def test_no_more_clients_are_remembered_than_may_be_and_the_last_ones_are() -> None:
    rates = limits(max_clients=10)
    for number in range(1000):
        rates.take(ONE, f"client {number}", LIMIT, 0.0)
        for _ in range(5):
            rates.take(ONE, "busy", LIMIT, 0.0)
    assert len(rates) == 10
    assert rates.take(ONE, "client 999", LIMIT, 0.0) == 0.0  # its second
    assert rates.take(ONE, "busy", LIMIT, 0.0) > 0.0


def test_the_error_says_whose_requests_and_when_to_come_again() -> None:
    error = rate_limited("org/one", LIMIT, wait_s=0.25)
    assert (error.context.retry_after_s, error.context.field) == (0.25, "spec.rateLimit")
    assert "this client" in error.message
