"""What routers rolled back, and what a route comes to with it."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Key, Trip
from modelmora.control.trips import together, untold, with_trips
from modelmora.spec import ModelRoute, RolledBack
from modelmora.spec.route_effect import Defect, effect
from tests.support.routes import route, trip
from tests.support.routing import deployment

NOW = 1_767_312_000.0
KEY = Key("default", "route")
LIMITS = {"errorPercent": 10}
BACKENDS = ("old", "new", "third")


def canary(generation: int = 1, **weights: int) -> ModelRoute:
    return route(weights or {"old": 95, "new": 5}, generation=generation, rollback=LIMITS)


def rolled_back(of: ModelRoute) -> set[str]:
    return {one.name for one in of.status.rolled_back}


def weights_of(of: ModelRoute) -> dict[str, int]:
    there = {
        name: deployment(name, model={"id": "m", "version": f"{number}.0.0"}) for number, name in enumerate(BACKENDS)
    }
    return {arm.name: arm.effective for arm in effect(of, there).arms}


def test_a_trip_takes_the_backend_off() -> None:
    fallen = with_trips(canary(), [trip("new", message="3 of 4 requests failed")], NOW)
    at = datetime.fromtimestamp(NOW, UTC)
    assert fallen.status.rolled_back == (RolledBack(name="new", generation=1, at=at, message="3 of 4 requests failed"),)
    (_, arm) = effect(fallen, {"new": deployment("new", model={"id": "m"})}).arms
    assert (arm.effective, arm.defect) == (0, Defect.ROLLED_BACK)
    assert arm.words == "canary new: 3 of 4 requests failed: it gets none until the route is edited"


def test_what_was_rolled_back_stays_without_the_router_that_said_so_and_as_it_was_said() -> None:
    first = with_trips(canary(), [trip("new", message="first")], NOW)
    assert with_trips(first, [], NOW + 60) == first
    assert with_trips(first, [trip("new", message="second")], NOW + 60) == first


@pytest.mark.parametrize(
    "said",
    [
        trip("old"),  # the main one
        trip("gone"),
        trip("Not a name!"),
        trip("new", generation=2),
        trip("new", uid="of the route before"),
    ],
    ids=str,
)
def test_what_does_not_concern_the_route_is_left_out(said: Trip) -> None:
    assert with_trips(canary(), [said], NOW) == canary()


def test_a_route_without_rollback_loses_nobody() -> None:
    plain = route({"old": 95, "new": 5})
    assert with_trips(plain, [trip("new")], NOW) == plain


def test_an_edit_gives_the_weight_back() -> None:
    fallen = with_trips(canary(old=90, new=10), [trip("new")], NOW)
    assert weights_of(fallen) == {"old": 90, "new": 0}
    edited = canary(2, old=90, new=20).model_copy(update={"status": fallen.status})
    assert weights_of(edited) == {"old": 90, "new": 20}
    assert with_trips(edited, [trip("new")], NOW).status.rolled_back == ()


@given(
    st.lists(st.integers(0, 100), min_size=2, max_size=3).filter(any),
    st.lists(st.builds(trip, st.sampled_from(BACKENDS), generation=st.integers(1, 2)), max_size=6),
)
def test_whatever_routers_say_the_main_backend_keeps_its_weight(weights: list[int], said: list[Trip]) -> None:
    of = canary(**dict(zip(BACKENDS, weights, strict=False)))
    main = BACKENDS[weights.index(max(weights))]
    fallen = with_trips(of, said, NOW)
    assert weights_of(fallen)[main] == max(weights)
    at_risk = set(BACKENDS[: len(weights)]) - {main}
    assert rolled_back(fallen) == at_risk & {one.backend for one in said if one.generation == 1}


def test_only_what_the_status_does_not_say_is_told() -> None:
    said = {KEY: (trip("new"),)}
    assert untold(said, {KEY: canary()}) == said
    assert untold(said, {KEY: with_trips(canary(), [trip("new")], NOW)}) == {}
    assert untold(said, {KEY: canary(2)}) == {}
    assert untold(said, {}) == {}


def test_what_several_say_is_put_together_each_once() -> None:
    one, same, other = trip("new", message="one"), trip("new", message="other words"), trip("third")
    assert together([{KEY: (one,)}, {KEY: (same, other)}, {}]) == {KEY: (one, other)}
