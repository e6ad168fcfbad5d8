"""When a router process that has ended is started again, and when all of them end."""

import pytest

from modelmora_router.restarts import CANNOT_START, History, is_hopeless, manner


def after(*lives: float) -> History:
    """The history of a process that was started once for each of these times, and lived so long."""
    history = History()
    for lived_s in lives:
        history = history.started().ended(lived_s)
    return history


def test_who_ends_soon_again_and_again_waits_longer_each_time_up_to_a_cap() -> None:
    assert [after(*[1.0] * times).delay_s(1) for times in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert after(*[1.0] * 10_000).delay_s(1) == 30


def test_who_has_lived_long_is_started_again_at_once_and_counts_from_the_beginning() -> None:
    assert after(1, 1, 1, 30).delay_s(1) == 0
    assert after(1, 1, 1, 30, 1).delay_s(1) == 0.5
    assert after(1, 1, 29.9).delay_s(1) == 2


def test_only_if_none_could_even_begin_all_end() -> None:
    first = History().started().ended(1)
    assert first.could_not_begin(CANNOT_START)
    assert not first.could_not_begin(1)
    assert not first.could_not_begin(-9)
    assert not first.started().ended(1).could_not_begin(CANNOT_START)
    assert first.delay_s(CANNOT_START) > first.delay_s(1)  # the others may be about to say the same
    assert is_hopeless(2, 2)
    assert not is_hopeless(1, 2)


@pytest.mark.parametrize(
    ("code", "words"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-50, "killed by signal 50")]
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert manner(code) == words
