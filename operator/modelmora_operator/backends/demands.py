"""What several routers want together, and of which deployments the wish has changed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from modelmora.control import Demand, Demands, Key

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class _Asked:
    said: float  # by a router, on its clock
    at: float  # on ours


class AskedLoads:
    """When loads were asked for, on our own clock: one of a router that is ahead would be news for ever.

    What was asked before this operator looked is believed, if it is not in the future.
    """

    def __init__(self) -> None:
        self._known: dict[Key, _Asked] = {}

    def on_our_clock(self, key: Key, demand: Demand | None, now: float) -> Demand | None:
        """The same, with the time at which it was seen first that a load is asked for."""
        said, known = demand.load_asked_at if demand else 0.0, self._known.get(key)
        if known is None:
            known = _Asked(said, min(said, now))
        elif said > known.said:
            known = _Asked(said, now)
        self._known[key] = known
        return replace(demand, load_asked_at=known.at if said else 0.0) if demand else None

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._known.pop(key, None)


class Waits:
    """Since when requests wait for a worker, on our own clock; otherwise as `AskedLoads`.

    A wait goes on for as long as any router says so.
    """

    def __init__(self) -> None:
        self._since: dict[Key, float] = {}

    def on_our_clock(self, key: Key, demand: Demand | None, now: float) -> Demand | None:
        """The same, with the time at which it was seen first that somebody waits."""
        said, known = demand.waiting_since if demand else 0.0, self._since.get(key)
        begun = now if known is not None else min(said, now)
        self._since[key] = since = (known or begun) if said else 0.0
        return replace(demand, waiting_since=since) if demand else None

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._since.pop(key, None)


def together(demands: Iterable[Demands]) -> Demands:
    """Loads add up; the last use and the last explicit load are the latest of any router.

    The urgency is that of the most urgent request, the wait that of the one that waits longest.
    """
    total: dict[Key, Demand] = {}
    for one in demands:
        for key, demand in one.items():
            total[key] = _sum(total[key], demand) if key in total else demand
    return total


def moved(before: Demands, now: Demands, *, sharing: bool) -> list[Key]:
    """The keys of which more than the last use changed: only the router looks at that.

    How urgent requests are, and whether they wait, is news only where models share places.
    """
    wanted = _pressing if sharing else _wanted
    return [key for key in before.keys() | now.keys() if wanted(before.get(key)) != wanted(now.get(key))]


def _sum(one: Demand, other: Demand) -> Demand:
    return Demand(
        one.load + other.load,
        max(one.last_used_at, other.last_used_at),
        max(one.load_asked_at, other.load_asked_at),
        _least(one.urgency, other.urgency),
        _least(one.waiting_since, other.waiting_since),
    )


def _least(one: N, other: N) -> N:
    """Of those that are not 0, which says that there is nothing."""
    return min(one or other, other or one)


def _wanted(demand: Demand | None) -> tuple[float, ...] | None:
    return (demand.load, demand.load_asked_at) if demand else None


def _pressing(demand: Demand | None) -> tuple[float, ...] | None:
    return (demand.load, demand.load_asked_at, demand.urgency, demand.waiting_since > 0) if demand else None
