"""The backends that this router rolled back: in effect at once, and told to the operator, which tells all routers.

What the status of a route says lasts; what only this router knows is gone with it, or with the next edit of the route.
"""

import asyncio
import time
from typing import Final

import structlog

from modelmora.control import Control, Key, Routes, Trip, Trips
from modelmora.control.trips import is_of, untold, with_trips
from modelmora.errors import ServerUnavailable

_AGAIN_S: Final = (0.5, 1.0, 2.0, 5.0)

log = structlog.get_logger(__name__)


class Tripping:
    """Owns the trips of one router."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._routes: Routes = {}
        self._trips: dict[Key, dict[str, Trip]] = {}  # by route and backend
        self._published: Trips = {}
        self._changed = asyncio.Event()

    def routes(self) -> Routes:
        """All of them, with what this router rolled back in their status."""
        if not self._trips:
            return self._routes
        now = time.time()
        mended = {key: with_trips(self._routes[key], told.values(), now) for key, told in self._trips.items()}
        return {**self._routes, **mended}

    def take(self, routes: Routes) -> None:
        """These are all there are from now on, as the operator tells them."""
        self._routes = routes
        for key, told in list(self._trips.items()):
            kept = {name: trip for name, trip in told.items() if key in routes and is_of(trip, routes[key])}
            self._trips[key] = kept
            if not kept:
                del self._trips[key]
        self._changed.set()

    def add(self, key: Key, trip: Trip) -> None:
        """This router rolls a backend back."""
        log.warning("backend is rolled back", route=str(key), backend=trip.backend, why=trip.message)
        self._trips.setdefault(key, {})[trip.backend] = trip
        self._changed.set()

    async def run(self) -> None:
        """Tells the operator what it does not know yet, until cancelled."""
        failures = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            if await self._publish():
                failures = 0
            else:
                await asyncio.sleep(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])
                failures += 1
                self._changed.set()

    async def _publish(self) -> bool:
        """False: it is to be tried again."""
        trips = untold({key: tuple(told.values()) for key, told in self._trips.items()}, self._routes)
        if trips == self._published:
            return True
        try:
            await self._control.publish_trips(trips)
        except ServerUnavailable as error:
            log.warning("what was rolled back was not published; it is tried again", error=error.message)
            return False
        self._published = trips
        return True
