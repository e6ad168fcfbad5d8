"""When a backend of a route fails too often."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Key, Trip
from modelmora.errors import (
    DeadlineExceeded,
    FeatureUnavailable,
    InferenceFailed,
    InternalError,
    LoadFailed,
    MemoryFull,
    ModelBusy,
    ModelMoraError,
    QueueFull,
    WorkerUnavailable,
    leaves,
)
from modelmora.spec import Rollback
from modelmora_router.rollbacks import Edition, Trial, Window, is_models_fault, too_many, trials
from tests.support.routes import route

EDITION = Edition(Key("default", "route"), "m", "uid", 3)
BAD = InferenceFailed("the engine raised")
OURS = DeadlineExceeded("60 s are over", field="timeoutSeconds")


def limits(percent: int = 50, least: int = 4, window_s: int = 60) -> Rollback:
    return Rollback(error_percent=percent, min_requests=least, window_seconds=window_s)


def trial(of: Rollback | None = None) -> Trial:
    return Trial(EDITION, "new", of or limits())


def note(of: Trial, *outcomes: bool, now: float = 0.0) -> list[Trip | None]:
    """True: a failure of the model's."""
    return [of.failed(BAD, now, timeout_of_caller=False) if failed else of.answered(now) for failed in outcomes]


# ------------------------------------------------------------------------------------------------ whose fault

OF_THE_MODEL = {"InferenceFailed", "InternalError", "WorkerUnavailable", "ModelUnhealthy"}
OF_LOADING = {leaf.__name__ for leaf in leaves() if "LoadError" in [base.__name__ for base in leaf.__mro__]}


@pytest.mark.req("RM-4.3b")
@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_only_what_is_the_models_fault_counts(kind: type[ModelMoraError]) -> None:
    counts = kind.__name__ in OF_THE_MODEL | OF_LOADING
    assert is_models_fault(kind("what"), timeout_of_caller=False) is counts


def test_an_expiry_counts_if_the_time_was_the_deployments() -> None:
    assert is_models_fault(OURS, timeout_of_caller=False)
    assert not is_models_fault(OURS, timeout_of_caller=True)
    assert not is_models_fault(DeadlineExceeded("the deadline of the call"), timeout_of_caller=False)


@pytest.mark.req("RM-4.3b")
@pytest.mark.parametrize("error", [QueueFull("q"), MemoryFull("m"), ModelBusy("b"), FeatureUnavailable("f")], ids=repr)
def test_what_is_not_the_models_fault_is_neither_answered_nor_failed(error: ModelMoraError) -> None:
    of = trial(limits(100, 2))
    assert [of.failed(error, 0.0, timeout_of_caller=False) for _ in range(100)] == [None] * 100
    assert note(of, True) == [None]  # the hundred have not made up the number
    assert note(of, True) != [None]  # nor do they dilute it


@pytest.mark.parametrize("error", [BAD, InternalError("i"), LoadFailed("l"), WorkerUnavailable("w"), OURS], ids=repr)
def test_the_words_name_the_failure_and_the_numbers(error: ModelMoraError) -> None:
    of = trial(limits(25, 4, 30))
    note(of, False, False, False)
    trip = of.failed(error, 1.0, timeout_of_caller=False)
    assert trip == Trip("uid", 3, "new", f"1 of 4 requests of 30 s failed ({type(error).__name__})")


# ------------------------------------------------------------------------------------------------ how often


@pytest.mark.parametrize(
    ("failed", "ended", "enough"),
    [(0, 1000, False), (3, 3, False), (4, 4, True), (2, 4, True), (1, 4, False), (49, 100, False), (50, 100, True)],
)
def test_enough_is_a_share_of_enough_requests(failed: int, ended: int, enough: bool) -> None:
    assert too_many(failed, ended, limits(50, 4)) is enough


def test_the_last_of_enough_requests_may_have_been_answered() -> None:
    assert [bool(trip) for trip in note(trial(), True, True, True, False)] == [False, False, False, True]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 100), st.integers(1, 70))
def test_nothing_follows_from_fewer_requests_than_enough(outcomes: list[bool], percent: int, least: int) -> None:
    for number, trip in enumerate(note(trial(limits(percent, least)), *outcomes), start=1):
        failed = sum(outcomes[:number])
        assert bool(trip) == (number >= least and failed * 100 >= percent * number)


def test_who_never_fails_is_never_rolled_back() -> None:
    assert note(trial(limits(1, 1)), *[False] * 300) == [None] * 300


# ------------------------------------------------------------------------------------------------ how long

STEPS = st.lists(st.tuples(st.floats(0, 20, allow_nan=False), st.booleans()), max_size=200)


@given(STEPS, st.integers(1, 3600))
def test_a_window_holds_what_ended_in_it_to_one_sixtieth(steps: list[tuple[float, bool]], seconds: int) -> None:
    window, now, ended = Window(seconds), 1000.0, deque[tuple[float, bool]]()
    for later, failed in steps:
        now += later
        window.note(failed=failed, now=now)
        ended.append((now, failed))
        surely = [one for at, one in ended if now - at < seconds * 58 / 60]
        perhaps = [one for at, one in ended if now - at <= seconds]
        assert len(surely) <= window.ended <= len(perhaps)
        assert sum(surely) <= window.failed <= sum(perhaps)


def test_failures_of_long_ago_are_forgotten() -> None:
    of = trial(limits(50, 4, 60))
    assert note(of, True, True, True, now=0.0) == [None] * 3
    assert note(of, True, now=61.0) == [None]
    assert note(of, True, True, now=61.5) == [None] * 2
    assert note(of, True, now=62.0) != [None]


def test_a_window_keeps_no_more_than_its_steps() -> None:
    window = Window(60)
    for number in range(100_000):
        window.note(failed=False, now=number / 100)
    assert len(window._steps) <= 61
    assert 5_800 <= window.ended <= 6_000


# ------------------------------------------------------------------------------------------------ of a route

ROLLBACK = {"errorPercent": 50}


def test_a_route_without_rollback_tries_nobody() -> None:
    assert trials(route({"old": 95, "new": 5}), {}) == {}


def test_all_but_the_main_backend_are_on_trial() -> None:
    of = trials(route({"old": 90, "new": 5, "third": 5}, generation=7, rollback=ROLLBACK), {})
    assert of.keys() == {"new", "third"}
    assert of["new"].edition == Edition(Key("default", "route"), "m", "uid-route", 7)


def test_what_was_counted_counts_on_until_the_route_is_edited() -> None:
    before = trials(route({"old": 95, "new": 5}, rollback=ROLLBACK), {})
    assert trials(route({"old": 95, "new": 5}, rollback=ROLLBACK), before)["new"] is before["new"]
    edited = trials(route({"old": 95, "new": 5}, generation=2, rollback=ROLLBACK), before)
    assert edited["new"] is not before["new"]
    another = trials(route({"old": 95, "new": 5}, name="another", rollback=ROLLBACK), before)
    assert another["new"] is not before["new"]
