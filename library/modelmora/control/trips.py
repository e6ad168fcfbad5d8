"""What routers say of backends that they rolled back, and what a route comes to with it. Pure.

A router tells of a trip for as long as the route's status does not; once it stands there, it holds for every router.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from modelmora.control import Key, Routes, Trip, Trips
from modelmora.spec import ModelRoute, RolledBack

_MOST: Final = 50  # in one Lease, whose annotations may have 256 KiB together; others are told once these are known
_MOST_WORDS: Final = 300


def with_trips(route: ModelRoute, trips: Iterable[Trip], now: float) -> ModelRoute:
    """The route with these in its status, where they concern it as it is now; what is known already stays as it is."""
    moment, at_risk = datetime.fromtimestamp(now, UTC), route.spec.at_risk
    fresh = {
        trip.backend: RolledBack(name=trip.backend, generation=trip.generation, at=moment, message=trip.message)
        for trip in trips
        if is_of(trip, route) and trip.backend in at_risk
    }
    standing = fresh | dict(route.rolled_back)
    ordered = tuple(standing[backend.name] for backend in route.spec.backends if backend.name in standing)
    return route.model_copy(update={"status": route.status.model_copy(update={"rolled_back": ordered})})


def is_of(trip: Trip, route: ModelRoute) -> bool:
    """Whether it is about the route as it is now."""
    return (trip.route_uid, trip.generation) == (route.metadata.uid, route.metadata.generation)


def untold(trips: Trips, routes: Routes) -> Trips:
    """Those of which the status of their route, as it is now, says nothing yet."""
    found = {
        key: tuple(trip for trip in told if is_of(trip, routes[key]) and trip.backend not in routes[key].rolled_back)
        for key, told in trips.items()
        if key in routes
    }
    return {key: missing for key, missing in found.items() if missing}


def together(said: Iterable[Trips]) -> dict[Key, tuple[Trip, ...]]:
    """What several routers say; of several who rolled back the same, the first counts."""
    found: dict[Key, dict[tuple[str, int, str], Trip]] = {}
    for trips in said:
        for key, told in trips.items():
            for trip in told:
                found.setdefault(key, {}).setdefault((trip.route_uid, trip.generation, trip.backend), trip)
    return {key: tuple(trips.values()) for key, trips in found.items()}


def written(trips: Trips) -> str:
    """As JSON: "namespace/name": [[uid, generation, backend, message], …]."""
    entries: dict[str, list[list[object]]] = {}
    for key, trip in [(key, trip) for key, told in sorted(trips.items()) for trip in told][:_MOST]:
        said = [trip.route_uid, trip.generation, trip.backend, trip.message[:_MOST_WORDS]]
        entries.setdefault(str(key), []).append(said)
    return json.dumps(entries, separators=(",", ":"))


def read(said: object) -> Trips:
    """What was written; what cannot be understood is left out, since a newer router may have written it."""
    try:
        entries = json.loads(said) if isinstance(said, str) else {}
    except ValueError:
        return {}
    if not isinstance(entries, Mapping):
        return {}
    found = {Key.parse(name): tuple(_trips(told)) for name, told in entries.items()}
    return {key: trips for key, trips in found.items() if key and trips}


def _trips(told: object) -> Iterable[Trip]:
    for one in told if isinstance(told, list) else ():
        match one:
            case [str() as uid, int() as generation, str() as backend, str() as message, *_]:
                yield Trip(uid, generation, backend, message[:_MOST_WORDS])
