"""Whose workers are rolled next."""

from modelmora.control import Key
from modelmora_operator.turns import next_turn

A, B, C = (Key("n", name) for name in "abc")


def test_one_at_a_time_in_the_order_of_names() -> None:
    assert next_turn({C: False, B: False}) == B
    assert next_turn({}) is None


def test_the_one_that_has_begun_goes_on() -> None:
    assert next_turn({A: False, C: True}) == C
