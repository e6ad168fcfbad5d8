"""What one router rolled back, until the operator knows it or the route is another."""

import asyncio
from collections.abc import Mapping

import pytest

from modelmora.control import Key
from modelmora.control.local import LocalControl
from modelmora.control.trips import with_trips
from modelmora.spec import ModelRoute
from modelmora_router.tripping import Tripping
from tests.support.routes import route, trip
from tests.support.routing import eventually

pytestmark = pytest.mark.req("RM-4.3b")

KEY = Key("default", "route")


def canary(generation: int = 1) -> ModelRoute:
    return route({"old": 95, "new": 5}, generation=generation, rollback={"errorPercent": 10})


def tripped(routes: Mapping[Key, ModelRoute]) -> Tripping:
    of = Tripping(LocalControl())
    of.take(routes)
    of.add(KEY, trip("new"))
    return of


def test_what_was_rolled_back_is_in_the_route_at_once() -> None:
    other = route({"old": 1}, name="other")
    routes = tripped({KEY: canary(), Key("default", "other"): other}).routes()
    assert [one.name for one in routes[KEY].status.rolled_back] == ["new"]
    assert routes[Key("default", "other")] is other


@pytest.mark.parametrize("after", [{}, {KEY: canary(2)}], ids=["deleted", "edited"])
def test_of_a_route_that_is_another_nothing_is_kept(after: Mapping[Key, ModelRoute]) -> None:
    of = tripped({KEY: canary()})
    of.take(after)
    assert of.routes() is after


async def test_it_is_told_until_the_status_of_the_route_tells_it() -> None:
    control = LocalControl()
    of = Tripping(control)
    telling = asyncio.create_task(of.run())
    try:
        of.take({KEY: canary()})
        of.add(KEY, trip("new"))
        await eventually(lambda: control.trips.value == {KEY: (trip("new"),)})
        of.take({KEY: with_trips(canary(), [trip("new")], 0.0)})
        await eventually(lambda: control.trips.value == {})
        of.take({KEY: canary()})  # somebody wiped it out
        await eventually(lambda: control.trips.value == {KEY: (trip("new"),)})
    finally:
        telling.cancel()
