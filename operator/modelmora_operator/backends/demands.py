"""What several routers want together, and of which deployments the wish has changed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from modelmora.control import Demand, Demands, Key


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


def together(demands: Iterable[Demands]) -> Demands:
    """Loads add up; the last use and the last explicit load are the latest of any router."""
    total: dict[Key, Demand] = {}
    for one in demands:
        for key, demand in one.items():
            total[key] = _sum(total[key], demand) if key in total else demand
    return total


def moved(before: Demands, now: Demands) -> list[Key]:
    """The keys whose load changed, or of which one was asked for; only the router looks at the last use."""
    return [key for key in before.keys() | now.keys() if _wanted(before, key) != _wanted(now, key)]


def _sum(one: Demand, other: Demand) -> Demand:
    return Demand(
        one.load + other.load,
        max(one.last_used_at, other.last_used_at),
        max(one.load_asked_at, other.load_asked_at),
    )


def _wanted(demands: Demands, key: Key) -> tuple[float, float] | None:
    demand = demands.get(key)
    return (demand.load, demand.load_asked_at) if demand is not None else None
