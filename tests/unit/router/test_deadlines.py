"""When the time of a request is over."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelmora_router.deadlines import Clock, Deadlines, Ending


class DeadlinesAgainstModel(RuleBasedStateMachine):
    """The heap beside a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines = Deadlines()
        self.at: dict[int, float] = {}

    @rule(entry_id=st.integers(0, 100), at=st.integers(0, 50))
    def set(self, entry_id: int, at: int) -> None:
        self.deadlines.set(entry_id, at)
        self.at[entry_id] = at

    @rule(entry_id=st.integers(0, 100))
    def remove(self, entry_id: int) -> None:
        self.deadlines.remove(entry_id)
        self.at.pop(entry_id, None)

    @rule(now=st.integers(0, 50))
    def pop_due(self, now: int) -> None:
        due = self.deadlines.pop_due(now)
        assert set(due) == {entry_id for entry_id, at in self.at.items() if at <= now}
        assert [self.at[entry_id] for entry_id in due] == sorted(self.at[entry_id] for entry_id in due)
        for entry_id in due:
            del self.at[entry_id]

    @invariant()
    def same(self) -> None:
        assert self.deadlines.next_at() == min(self.at.values(), default=None)
        assert len(self.deadlines) == len(self.at)


TestDeadlinesAgainstModel = DeadlinesAgainstModel.TestCase
TestDeadlinesAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_deadlines_of_requests_that_left_take_no_memory() -> None:
    deadlines = Deadlines()
    for entry_id in range(10_000):
        deadlines.set(entry_id, 60.0 + entry_id)
        deadlines.remove(entry_id)
    assert len(deadlines._heap) < 100


def clock(*, awake: bool, deadline: float = math.inf) -> Clock:
    return Clock(awake=awake, since=100.0, awake_left_s=5.0, asleep_left_s=60.0, deadline=deadline)


@pytest.mark.req("REQ-QUEUE-004")
def test_the_timeout_counts_from_the_moment_the_model_wakes() -> None:
    assert clock(awake=False).ends_at == 160.0
    assert clock(awake=False).turned(awake=True, now=150.0).ends_at == 155.0


def test_neither_budget_grows_when_a_model_comes_and_goes() -> None:
    turned = clock(awake=False)
    for now in range(101, 200):
        turned = turned.turned(awake=not turned.awake, now=float(now))
    assert turned.awake_left_s + turned.asleep_left_s == 65.0 - 99
    assert turned.ends_at < 200


def test_the_callers_own_deadline_is_always_the_end() -> None:
    for awake in (True, False):
        assert clock(awake=awake, deadline=101.0).ends_at == 101.0
        assert clock(awake=awake, deadline=101.0).ending is Ending.CALLER


def test_what_ended_a_request_is_known() -> None:
    assert clock(awake=True).ending is Ending.AWAKE
    assert clock(awake=False).ending is Ending.ASLEEP
