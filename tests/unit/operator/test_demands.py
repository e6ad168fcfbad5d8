"""What several routers want together, and when it was asked for."""

from dataclasses import replace

import pytest

from modelmora.control import Demand, Key
from modelmora_operator.backends.demands import AskedLoads, Waits, moved, together

KEY = Key("a", "m")


def asked_at(asked: AskedLoads, said: float, now: float) -> float:
    demand = asked.on_our_clock(KEY, Demand(0.0, 0.0, said), now)
    assert demand is not None
    return demand.load_asked_at


def test_a_load_counts_from_when_we_saw_it_whatever_the_clock_of_the_router_says() -> None:
    asked = AskedLoads()
    assert asked.on_our_clock(KEY, None, 100) is None
    assert asked_at(asked, 5000, 110) == 110  # it is ahead
    assert asked_at(asked, 5000, 120) == 110
    assert asked_at(asked, 5001, 130) == 130
    asked.forget(KEY)
    asked.on_our_clock(KEY, None, 140)
    assert asked_at(asked, 20, 150) == 150  # it is behind


def test_what_was_asked_before_this_operator_looked_is_no_news() -> None:
    assert asked_at(AskedLoads(), 50, 100) == 50
    assert asked_at(AskedLoads(), 5000, 100) == 100
    assert asked_at(AskedLoads(), 0, 100) == 0


def waits_since(waits: Waits, said: float, now: float) -> float:
    demand = waits.on_our_clock(KEY, Demand(0.0, 0.0, waiting_since=said), now)
    assert demand is not None
    return demand.waiting_since


def test_a_wait_counts_from_when_we_saw_it_and_for_as_long_as_anybody_waits() -> None:
    waits = Waits()
    assert waits.on_our_clock(KEY, None, 100) is None
    assert waits_since(waits, 20, 110) == 110  # its clock is behind
    assert waits_since(waits, 60, 120) == 110  # another router waits for longer
    assert waits_since(waits, 0, 130) == 0
    assert waits_since(waits, 5000, 140) == 140
    waits.forget(KEY)
    assert waits_since(waits, 50, 150) == 50  # it began before this operator looked
    assert waits_since(Waits(), 5000, 150) == 150


def test_of_several_routers_the_most_urgent_and_the_longest_wait_count() -> None:
    one, other = Demand(1, 5, urgency=3, waiting_since=40.0), Demand(2, 4, urgency=1)
    for pair in ([one, other], [other, one]):
        assert together({KEY: each} for each in pair) == {KEY: Demand(3, 5, urgency=1, waiting_since=40.0)}


@pytest.mark.parametrize(
    ("now", "heard"),
    [
        (Demand(1, 9, urgency=3), False),
        (Demand(1, 2, urgency=2), True),
        (Demand(1, 2), True),
        (Demand(1, 2, urgency=3, waiting_since=5.0), True),
        (Demand(1, 2, 7.0, urgency=3), True),
    ],
)
def test_what_a_decision_may_depend_on_is_looked_at(now: Demand, *, heard: bool) -> None:
    before = {KEY: Demand(1, 2, urgency=3)}
    assert moved(before, {KEY: now}, sharing=True) == ([KEY] if heard else [])
    # Where there is room for all, only what the number of workers depends on.
    assert moved(before, {KEY: now}, sharing=False) == ([KEY] if now.load_asked_at else [])
    waits = Demand(1, 2, urgency=3, waiting_since=5.0)
    assert moved({KEY: waits}, {KEY: replace(waits, waiting_since=6.0)}, sharing=True) == []
