"""Whose workers are rolled next."""

from modelmora.control import Key
from modelmora_operator.turns import next_turn

A, B, C = (Key("n", name) for name in "abc")


def test_one_at_a_time_in_the_order_of_names() -> None:
    assert next_turn({C: False, B: False}) == B
    assert next_turn({}) is None


def test_the_one_that_has_begun_goes_on() -> None:
    assert next_turn({A: False, C: True}) == C


def test_who_has_the_turn_keeps_it_until_its_last_old_worker_is_gone() -> None:
    assert next_turn({A: False, B: False}, holder=B) == B
    assert next_turn({A: False, C: False}, holder=B) == A


def test_of_two_that_have_begun_the_holder_goes_on() -> None:
    assert next_turn({A: True, B: True}, holder=B) == B
    assert next_turn({A: True, B: False}, holder=B) == A
