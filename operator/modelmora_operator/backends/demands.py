"""What several routers want together, and of which deployments the wish has changed."""

from collections.abc import Iterable

from modelmora.control import Demand, Demands, Key


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
