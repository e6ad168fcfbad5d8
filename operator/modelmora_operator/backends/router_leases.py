"""Which routers live, judged by their Leases alone. Pure.

A clock of another machine is never compared with ours. A Lease is dead when we have read it again and again for as long
as it is to last, without a read that failed between, and it was never renewed. While the API cannot be reached nobody
can renew, so nobody dies of that; and who was dead stays dead until it is renewed. Lists and watches
overtake each other: of two states of one Lease the newer counts, by its resourceVersion.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from modelmora.control import Demands, Trips
from modelmora.control.leases import DURATION_S, demands_of, trips_of
from modelmora.control.trips import together
from modelmora_operator.backends import demands
from modelmora_operator.backends.versions import version_of

Lease = Mapping[str, Any]

LONGEST_GAP_S: Final = 10.0  # between two reads; after a longer one, what was seen before it proves nothing


@dataclass(frozen=True, slots=True)
class Sighting:
    """One Lease, as seen last; `since` is our monotonic time at which this renewal was first seen."""

    renewed: str
    since: float
    demands: Demands
    annotations: Mapping[str, str] = field(default_factory=dict)
    dead: bool = False
    version: int = 0
    trips: Trips = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Routers:
    """All Leases, as seen last, and when they were last read successfully; None: the last read failed."""

    sightings: Mapping[str, Sighting] = field(default_factory=dict)
    read_at: float | None = None

    @property
    def alive(self) -> bool:
        """Somebody knows what is wanted."""
        return any(not sighting.dead for sighting in self.sightings.values())

    @property
    def demands(self) -> Demands:
        """What the living want together."""
        return demands.together(sighting.demands for sighting in self.sightings.values() if not sighting.dead)

    @property
    def trips(self) -> Trips:
        """What the living rolled back, as long as the status of the routes does not say it."""
        return together(sighting.trips for sighting in self.sightings.values() if not sighting.dead)


def read(before: Routers, leases: Mapping[str, Lease], now: float, version: int = 0) -> Routers:
    """After a successful read of all of them, at that version; who is missing there has left, or came later."""
    unbroken = before.read_at is not None and now - before.read_at <= LONGEST_GAP_S
    later = {name: one for name, one in before.sightings.items() if name not in leases and one.version > version > 0}
    seen = {name: _read(before.sightings.get(name), lease, now, unbroken) for name, lease in leases.items()}
    return Routers({**later, **seen}, now)


def heard(before: Routers, name: str, lease: Lease | None, now: float) -> Routers:
    """After one change; None: the Lease is gone. Nobody is found dead here: an event may repeat what is long known."""
    others = {other: sighting for other, sighting in before.sightings.items() if other != name}
    if lease is None:
        return Routers(others, before.read_at)
    return Routers({**others, name: _seen(before.sightings.get(name), lease, now)}, before.read_at)


def unread(before: Routers) -> Routers:
    """After a read that failed."""
    return Routers(before.sightings, None)


def _read(before: Sighting | None, lease: Lease, now: float, unbroken: bool) -> Sighting:  # noqa: FBT001 - private
    seen = _seen(before, lease, now)
    if before is None or seen.renewed != before.renewed:
        return seen
    since = before.since if unbroken else now
    return replace(seen, since=since, dead=before.dead or now - since >= _duration_s(lease))


def _seen(before: Sighting | None, lease: Lease, now: float) -> Sighting:
    version = version_of(lease)
    if before is not None and version < before.version:
        return before
    renewed = str(lease.get("spec", {}).get("renewTime") or "")
    annotations = lease["metadata"].get("annotations") or {}
    same = before is not None and before.annotations == annotations
    said = before.demands if before is not None and same else demands_of(lease)
    trips = before.trips if before is not None and same else trips_of(lease)
    if before is None or before.renewed != renewed:
        return Sighting(renewed, now, said, annotations, version=version, trips=trips)
    return replace(before, demands=said, annotations=annotations, version=version, trips=trips)


def _duration_s(lease: Lease) -> float:
    return float(lease.get("spec", {}).get("leaseDurationSeconds") or DURATION_S)
