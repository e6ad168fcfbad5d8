"""Waiting between attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora_operator.backoff import Backoff


@pytest.mark.req("REQ-LIFE-011")
def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(first_s=1, cap_s=10)
    assert [backoff.delay_s(failures) for failures in range(7)] == [0, 1, 2, 4, 8, 10, 10]


@pytest.mark.req("REQ-LIFE-011")
@given(failures=st.integers(0, 10_000), chance=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 1))
def test_chance_only_shortens_and_at_most_by_the_jitter(failures: int, chance: float, jitter: float) -> None:
    backoff = Backoff(first_s=0.5, cap_s=60, jitter=jitter)
    longest, delay_s = backoff.delay_s(failures), backoff.delay_s(failures, chance)
    assert longest * (1 - jitter) <= delay_s <= longest <= 60
