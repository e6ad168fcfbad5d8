"""What several routers want together, and when it was asked for."""

from modelmora.control import Demand, Key
from modelmora_operator.backends.demands import AskedLoads

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
