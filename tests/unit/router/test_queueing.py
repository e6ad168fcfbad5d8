"""The queue's order and the clocks of requests."""

import math
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelmora.spec import Priority
from modelmora_router.queueing import Clock, Deadlines, Ending, PriorityQueue


class QueueAgainstModel(RuleBasedStateMachine):
    """The queue beside four plain lists: same order, nothing lost, nothing twice."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: PriorityQueue[int] = PriorityQueue()
        self.lines: dict[Priority, deque[int]] = {priority: deque() for priority in Priority}
        self.last_id = 0

    @rule(priority=st.sampled_from(Priority))
    def push(self, priority: Priority) -> None:
        self.last_id += 1
        self.queue.push(self.last_id, self.last_id, priority)
        self.lines[priority].append(self.last_id)

    @rule()
    def pop(self) -> None:
        expected = next((line.popleft() for line in self.lines.values() if line), None)
        assert self.queue.pop() == expected

    @precondition(lambda self: any(self.lines.values()))
    @rule()
    def pop_and_put_back(self) -> None:
        priority = next(priority for priority, line in self.lines.items() if line)
        entry = self.queue.pop()
        assert entry == self.lines[priority][0]
        self.queue.push_front(entry, entry, priority)

    @precondition(lambda self: any(len(line) > 1 for line in self.lines.values()))
    @rule(reverse=st.booleans())
    def pop_all_and_put_back_in_any_order(self, *, reverse: bool) -> None:
        popped = [(entry, priority) for priority, line in self.lines.items() for entry in line]
        assert [self.queue.pop() for _ in popped] == [entry for entry, _ in popped]
        for entry, priority in sorted(popped, reverse=reverse):
            self.queue.push_front(entry, entry, priority)

    @rule(entry_id=st.integers(0, 30), priority=st.sampled_from(Priority))
    def remove(self, entry_id: int, priority: Priority) -> None:
        known = entry_id in self.lines[priority]
        assert self.queue.remove(entry_id, priority) == known
        if known:
            self.lines[priority].remove(entry_id)

    @invariant()
    def same(self) -> None:
        expected = [entry for line in self.lines.values() for entry in line]
        assert self.queue.entries() == expected
        assert len(self.queue) == len(expected)


TestQueueAgainstModel = pytest.mark.req("REQ-QUEUE-001d")(QueueAgainstModel.TestCase)
TestQueueAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


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
