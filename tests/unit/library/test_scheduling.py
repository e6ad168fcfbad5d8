"""The queue beside a slow model of it, and what batches are formed."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelmora.scheduling import Arrivals, BatchLimits, PriorityQueue, form, wait_s
from modelmora.spec import Batching, Priority

CRITICAL, HIGH, NORMAL, LOW = Priority
AGEING_S = 10.0


@dataclass(frozen=True, slots=True)
class Item:
    entry_id: int
    priority: Priority = NORMAL
    arrived_at: float = 0.0
    tokens: int = 0
    size_bytes: int = 0
    alone: bool = False


def effective(item: Item, now: float, ageing_s: float) -> int:
    """Its level after ageing, said again without the queue's code."""
    if item.priority in {CRITICAL, HIGH}:
        return int(item.priority)
    return max(HIGH, item.priority - math.floor((now - item.arrived_at) / ageing_s))


class QueueAgainstModel(RuleBasedStateMachine):
    """Same order, nothing lost, nothing twice, no inversion at dispatch."""

    ageing_s = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.queue: PriorityQueue[Item] = PriorityQueue(ageing_s=self.ageing_s)
        self.items: list[Item] = []
        self.last_id = 0
        self.now = 0.0

    @rule(priority=st.sampled_from(Priority))
    def push(self, priority: Priority) -> None:
        self.last_id += 1
        item = Item(self.last_id, priority, self.now)
        self.queue.push(item)
        self.items.append(item)

    @rule(passed_s=st.floats(0, 25))
    def wait(self, passed_s: float) -> None:
        self.now += passed_s

    def expected(self) -> Item | None:
        heads = [
            min((i for i in self.items if i.priority == p), key=lambda i: i.entry_id, default=None) for p in Priority
        ]
        waiting = [head for head in heads if head is not None]
        return min(waiting, key=lambda i: (effective(i, self.now, self.ageing_s), i.entry_id), default=None)

    @rule()
    def pop(self) -> None:
        expected = self.expected()
        assert self.queue.head(self.now) == expected
        assert self.queue.pop(self.now) == expected
        if expected is not None:
            self.items.remove(expected)

    @precondition(lambda self: self.items)
    @rule(count=st.integers(1, 5), reverse=st.booleans())
    def pop_some_and_put_them_back_in_any_order(self, count: int, *, reverse: bool) -> None:
        popped = [item for _ in range(count) if (item := self.queue.pop(self.now))]
        for item in sorted(popped, key=lambda item: item.entry_id, reverse=reverse):
            self.queue.push_front(item)

    @rule(entry_id=st.integers(1, 30))
    def remove(self, entry_id: int) -> None:
        item = next((item for item in self.items if item.entry_id == entry_id), None)
        assert self.queue.remove(item or Item(entry_id)) == (item is not None)
        if item:
            self.items.remove(item)

    @rule(priority=st.sampled_from(Priority))
    def pop_last(self, priority: Priority) -> None:
        candidates = [item for item in self.items if item.priority > priority]
        expected = max(candidates, key=lambda item: (item.priority, item.entry_id), default=None)
        assert self.queue.pop_last(less_urgent_than=priority) == expected
        if expected:
            self.items.remove(expected)

    @invariant()
    def same(self) -> None:
        assert self.queue.entries() == sorted(self.items, key=lambda item: (item.priority, item.entry_id))
        assert len(self.queue) == len(self.items)
        assert self.queue.lengths() == {p: sum(item.priority == p for item in self.items) for p in Priority}


class AgeingQueueAgainstModel(QueueAgainstModel):
    ageing_s = AGEING_S


TestQueueAgainstModel = pytest.mark.req("REQ-QUEUE-001d")(QueueAgainstModel.TestCase)
TestQueueAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAgeingQueueAgainstModel = pytest.mark.req("REQ-QUEUE-001d")(AgeingQueueAgainstModel.TestCase)
TestAgeingQueueAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_nobody_starves_and_critical_is_never_overtaken() -> None:
    queue: PriorityQueue[Item] = PriorityQueue(ageing_s=AGEING_S)
    queue.push(Item(1, LOW, arrived_at=0.0))
    queue.push(Item(2, HIGH, arrived_at=19.0))
    assert queue.head(19.0) == Item(2, HIGH, arrived_at=19.0)
    assert queue.head(20.0) == Item(1, LOW, arrived_at=0.0)
    queue.push(Item(3, CRITICAL, arrived_at=1000.0))
    assert queue.head(1000.0) == Item(3, CRITICAL, arrived_at=1000.0)


# ---------------------------------------------------------------------------------------------------- batches

ITEMS = st.lists(
    st.builds(
        Item,
        entry_id=st.just(0),
        priority=st.sampled_from(Priority),
        tokens=st.integers(0, 40),
        size_bytes=st.integers(0, 100),
        alone=st.booleans(),
    ),
    max_size=30,
)
LIMITS = st.builds(
    BatchLimits,
    max_size=st.integers(1, 8),
    max_tokens=st.none() | st.integers(1, 100),
    max_bytes=st.integers(1, 300),
)


def filled(items: list[Item]) -> PriorityQueue[Item]:
    queue: PriorityQueue[Item] = PriorityQueue()
    for number, item in enumerate(items):
        queue.push(Item(number, item.priority, 0.0, item.tokens, item.size_bytes, item.alone))
    return queue


@pytest.mark.req("REQ-QUEUE-006a", "RM-2.1h")
@given(items=ITEMS, limits=LIMITS)
def test_batches_keep_to_their_bounds_and_to_the_order_and_lose_nothing(items: list[Item], limits: BatchLimits) -> None:
    queue = filled(items)
    in_order, sent = queue.entries(), []
    while batch := form(queue, limits, 0.0):
        sent += batch
        assert len(batch) <= limits.max_size
        if len(batch) > 1:
            assert limits.max_tokens is None or len(batch) * max(i.tokens for i in batch) <= limits.max_tokens
            assert sum(item.size_bytes for item in batch) <= limits.max_bytes
            assert not any(item.alone for item in batch)
            assert batch[0].priority != CRITICAL or batch[-1].priority == CRITICAL
    assert sent == in_order


@given(items=ITEMS, limits=LIMITS)
def test_a_batch_is_as_large_as_it_may_be(items: list[Item], limits: BatchLimits) -> None:
    queue = filled(items)
    batch = form(queue, limits, 0.0)
    if len(queue) and len(batch) < limits.max_size:
        following = queue.head(0.0)
        assert following is not None
        longest, size_bytes = max(i.tokens for i in (*batch, following)), sum(i.size_bytes for i in (*batch, following))
        assert (
            following.alone
            or batch[0].alone
            or (batch[0].priority == CRITICAL != following.priority)
            or size_bytes > limits.max_bytes
            or (limits.max_tokens is not None and (len(batch) + 1) * longest > limits.max_tokens)
        )


def test_the_limits_are_those_of_the_deployment() -> None:
    said = Batching.model_validate({"max_size": 3, "max_wait_milliseconds": 20, "max_tokens": 512})
    assert BatchLimits.of(said, max_bytes=7) == BatchLimits(3, 0.02, 512, 7)


WAITING = BatchLimits(max_size=4, max_wait_s=0.010)
BUSY = Arrivals(last_at=10.0, gap_s=0.001)


def wait(*items: Item, arrivals: Arrivals = BUSY, idle: bool = False, now: float = 10.0) -> float:
    queue: PriorityQueue[Item] = PriorityQueue()
    for item in items:
        queue.push(item)
    return wait_s(queue, WAITING, arrivals, idle=idle, now=now)


@pytest.mark.req("REQ-QUEUE-006b", "RM-2.1h")
def test_more_is_waited_for_only_while_more_is_coming_and_never_too_long() -> None:
    lone = Item(1, arrived_at=10.0)
    assert wait(lone) == pytest.approx(0.002)  # two usual gaps after the last arrival
    assert wait(lone, now=10.003) == 0  # the burst is over
    old = Item(1, arrived_at=9.9905)
    assert wait(old, arrivals=Arrivals(10.0, 0.0004)) == pytest.approx(0.0005)  # the rest of maxWait
    assert wait(Item(1, arrived_at=9.98)) == 0  # it has waited long enough
    assert wait(lone, arrivals=Arrivals(10.0, 0.5)) == 0  # the next is not expected in time


def test_nobody_waits_for_an_idle_replica_a_full_batch_or_critical() -> None:
    assert wait(Item(1, arrived_at=10.0), idle=True) == 0
    assert wait(*(Item(number, arrived_at=10.0) for number in range(4))) == 0
    assert wait(Item(1, CRITICAL, arrived_at=10.0)) == 0
    assert wait() == 0


@given(gaps=st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_the_usual_gap_lies_between_the_smallest_and_the_largest(gaps: list[float]) -> None:
    at, arrivals = 0.0, Arrivals()
    arrivals.note(at)
    times = [at]
    for gap in gaps:
        at += gap
        times.append(at)
        arrivals.note(at)
    seen = [after - before for before, after in pairwise(times)]
    assert min(seen) - 1e-9 <= arrivals.gap_s <= max(seen) + 1e-9
