"""How much a worker is given, and when."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.scheduling import BatchLimits
from modelmora.spec import Priority
from modelmora_router.outstanding import CAPACITY, JOIN_AFTER_S, Outstanding

LIMITS = BatchLimits(max_size=4, max_bytes=1000)
LATER = 2 * JOIN_AFTER_S


def given_batches(*sizes: int, size_bytes: int = 0) -> Outstanding:
    """One was sent after the other, at 0.0."""
    outstanding = Outstanding()
    for size in sizes:
        first = outstanding.entries
        outstanding.add(range(first, first + size), Priority.NORMAL, 0.0, size_bytes=size_bytes)
    return outstanding


def test_a_batch_is_over_with_its_last_entry() -> None:
    outstanding = Outstanding()
    outstanding.add([1, 2], Priority.NORMAL, 5.0)
    assert outstanding.remove(1) == 5.0
    assert (outstanding.batches, outstanding.entries) == (1, 1)
    assert outstanding.remove(1) is None
    outstanding.remove(2)
    assert (outstanding.batches, outstanding.entries) == (0, 0)


@pytest.mark.req("RM-2.3b")
def test_there_is_room_for_two_batches_and_for_one_critical_besides() -> None:
    outstanding = Outstanding()
    for first in (1, 5):
        assert outstanding.room(Priority.LOW, LIMITS, 0.0) == LIMITS
        outstanding.add(range(first, first + 4), Priority.LOW, 0.0)
    assert not outstanding.room(Priority.HIGH, LIMITS, LATER)
    assert outstanding.room(Priority.CRITICAL, LIMITS, 0.0) == LIMITS
    outstanding.add([9], Priority.CRITICAL, 0.0)
    assert not outstanding.room(Priority.CRITICAL, LIMITS, LATER)
    assert outstanding.clear() == list(range(1, 10))
    assert outstanding.room(Priority.LOW, LIMITS, 0.0) == LIMITS


def test_who_comes_while_one_runs_and_one_is_staged_joins_the_staged_one() -> None:
    outstanding = given_batches(4, 1)
    assert outstanding.joins_at(LIMITS) == JOIN_AFTER_S
    assert outstanding.room(Priority.NORMAL, LIMITS, 0.99 * JOIN_AFTER_S) is None
    assert outstanding.room(Priority.NORMAL, LIMITS, JOIN_AFTER_S) == replace(LIMITS, max_size=3)


def test_each_message_waits_for_the_one_before_it() -> None:
    outstanding = given_batches(4, 1)
    outstanding.add([100], Priority.NORMAL, JOIN_AFTER_S)
    assert outstanding.room(Priority.NORMAL, LIMITS, 1.5 * JOIN_AFTER_S) is None
    assert outstanding.room(Priority.NORMAL, LIMITS, LATER) == replace(LIMITS, max_size=2)


def test_with_the_end_of_the_batch_that_ran_the_next_is_thought_to_run() -> None:
    outstanding = given_batches(2, 1, 3)
    assert outstanding.room(Priority.NORMAL, LIMITS, LATER) is None
    outstanding.remove(0)
    assert outstanding.room(Priority.NORMAL, LIMITS, LATER) is None
    outstanding.remove(1)
    assert outstanding.room(Priority.NORMAL, LIMITS, LATER) == replace(LIMITS, max_size=1)


def test_a_staged_batch_is_full_by_number_or_by_bytes() -> None:
    assert given_batches(1, 4).joins_at(LIMITS) == math.inf
    assert given_batches(1, 1, size_bytes=1000).joins_at(LIMITS) == math.inf
    room = given_batches(1, 1, size_bytes=400).room(Priority.NORMAL, LIMITS, LATER)
    assert room == replace(LIMITS, max_size=3, max_bytes=600)


@given(st.integers(1, 8), st.lists(st.tuples(st.booleans(), st.integers(1, 8)), max_size=40))
def test_never_is_more_staged_than_one_batch_may_hold(max_size: int, steps: list[tuple[bool, int]]) -> None:
    limits, outstanding = BatchLimits(max_size=max_size), Outstanding()
    staged: list[int] = []
    for now, (answers, count) in enumerate(steps):
        if answers:  # the worker has worked on what it had first
            for entry_id in staged[:count]:
                outstanding.remove(entry_id)
            staged = staged[count:]
        elif room := outstanding.room(Priority.NORMAL, limits, now):
            new = [1000 * now + number for number in range(min(count, room.max_size))]
            outstanding.add(new, Priority.NORMAL, now)
            staged += new
        assert outstanding.entries == len(staged) <= CAPACITY * max_size
