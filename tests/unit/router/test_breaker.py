"""When a replica is trusted, and what may be sent again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora_router import retries
from modelmora_router.breaker import CLOSED, Breaker, BreakerPolicy, BreakerState
from modelmora_router.retries import RetryBudget

POLICY = BreakerPolicy(failures=3, open_s=1.0, max_open_s=8.0)


def after_failures(count: int, *, now: float = 0.0, breaker: Breaker = CLOSED) -> Breaker:
    for _ in range(count):
        breaker = breaker.failed(POLICY, now=now, chance=0.5)
    return breaker


@pytest.mark.req("RM-5.1d")
def test_it_opens_after_failures_in_a_row_lets_one_try_and_closes() -> None:
    assert after_failures(2).state(0.0) is BreakerState.CLOSED
    opened = after_failures(3)
    assert opened.state(0.99) is BreakerState.OPEN
    assert opened.state(1.0) is BreakerState.HALF_OPEN
    assert opened.succeeded().state(1.0) is BreakerState.CLOSED


@pytest.mark.req("RM-5.1d")
def test_an_answer_in_between_begins_the_count_anew() -> None:
    breaker = after_failures(2).succeeded()
    assert after_failures(2, breaker=breaker).state(0.0) is BreakerState.CLOSED


def test_a_failed_try_opens_it_for_longer_up_to_a_bound() -> None:
    breaker, now, lengths = after_failures(3), 0.0, []
    for _ in range(6):
        lengths.append(breaker.open_until - now)
        now = breaker.open_until
        breaker = breaker.failed(POLICY, now=now, chance=0.5)
    assert lengths == [1, 2, 4, 8, 8, 8]


def test_late_failures_of_what_was_sent_before_do_not_count() -> None:
    opened = after_failures(3)
    assert opened.failed(POLICY, now=0.5, chance=0.5) is opened


@given(chance=st.floats(0, 1))
def test_several_routers_try_at_different_times(chance: float) -> None:
    opened = after_failures(2).failed(POLICY, now=0.0, chance=chance)
    assert 0.75 <= opened.open_until <= 1.25


# ---------------------------------------------------------------------------------------------------- retries


def test_retries_stay_a_share_of_the_requests() -> None:
    budget, sent = RetryBudget(), 0
    for _ in range(1000):
        budget = budget.earned()
        if left := budget.spent():
            budget, sent = left, sent + 1
    assert sent == pytest.approx(0.2 * 1000 + 20, abs=2)


def test_an_idle_model_may_still_retry_and_saves_no_more_than_its_bound() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget = budget.earned()
    assert budget.left == budget.most


@pytest.mark.req("REQ-REL-003")
@given(chance=st.floats(0, 1))
def test_the_back_off_grows_with_jitter_and_is_bounded(chance: float) -> None:
    waits = [retries.backoff_s(attempt, chance=chance) for attempt in range(1, 12)]
    assert waits == sorted(waits)
    assert waits[0] >= 0.01
    assert 0.5 <= waits[-1] <= 1.0


@pytest.mark.req("REQ-REL-003")
def test_what_is_not_idempotent_or_was_lost_too_often_or_has_nowhere_to_go_is_not_sent_again() -> None:
    assert retries.may_retry(idempotent=True, losses=1, elsewhere=True)
    assert not retries.may_retry(idempotent=False, losses=1, elsewhere=True)
    assert not retries.may_retry(idempotent=True, losses=2, elsewhere=True)
    assert not retries.may_retry(idempotent=True, losses=1, elsewhere=False)
