"""The ledger of payloads: what is urgent finds room, nothing leaks, nothing is shut out for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.errors import MemoryFull
from modelmora.spec import Priority
from modelmora_router.held_bytes import SHARES, HeldBytes, Holding


def ledger(limit: int = 1000) -> HeldBytes:
    return HeldBytes(limit, retry_after_s=2.0)


@pytest.mark.parametrize(
    ("priority", "last"),
    [(Priority.LOW, 700), (Priority.NORMAL, 850), (Priority.HIGH, 950), (Priority.CRITICAL, 1000)],
)
def test_each_priority_is_refused_at_its_share(priority: Priority, last: int) -> None:
    held = ledger()
    with held.hold(last - 10, Priority.CRITICAL):
        with held.hold(10, priority):
            assert held.held == last
        with pytest.raises(MemoryFull) as caught, held.hold(11, priority):
            pass
        assert held.held == last - 10
    assert held.held == 0
    assert caught.value.context.retry_after_s == 2.0
    assert priority.name in caught.value.message


def test_what_a_request_that_fails_held_is_given_back() -> None:
    held = ledger()
    with pytest.raises(ZeroDivisionError), held.hold(500, Priority.LOW):
        raise ZeroDivisionError
    assert held.held == 0


def test_one_that_is_larger_than_its_share_passes_when_it_is_alone() -> None:
    held = ledger(limit=100)
    with held.hold(5000, Priority.LOW), pytest.raises(MemoryFull), held.hold(1, Priority.CRITICAL):
        pass
    assert held.held == 0


def test_one_that_grows_is_refused_at_the_bound_and_leaves_nothing() -> None:
    held = ledger()
    with held.hold(900, Priority.CRITICAL), held.hold(0, Priority.CRITICAL) as body:
        body.grow(60)
        with pytest.raises(MemoryFull):
            body.grow(60)
        assert held.held == 960
    assert held.held == 0


def test_one_that_grows_beyond_its_share_passes_when_it_is_alone() -> None:
    held = ledger(limit=100)
    with held.hold(0, Priority.LOW) as body:
        for _ in range(50):
            body.grow(100)
        assert held.held == 5000
        with pytest.raises(MemoryFull), held.hold(1, Priority.CRITICAL):
            pass
    assert held.held == 0


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(Priority), st.booleans()), max_size=100))
def test_whatever_comes_and_goes_the_sum_is_right_and_within_the_share(
    steps: list[tuple[int, Priority, bool]],
) -> None:
    held = ledger()
    inside: list[tuple[Holding, int]] = []
    for size, priority, leaves in steps:
        if leaves and inside:
            holding, _ = inside.pop(0)
            holding.__exit__(None, None, None)
            continue
        before, holding = held.held, held.hold(size, priority)
        try:
            holding.__enter__()
        except MemoryFull:
            assert before + size > 1000 * SHARES[priority]
        else:
            assert before == 0 or held.held <= 1000 * SHARES[priority]
            inside.append((holding, size))
        assert held.held == sum(size for _, size in inside)
