"""How many replicas a deployment should have now.

Without demand the answer is the floor, at once: the router owns the idle clock and drops its demand when it is over.
With demand, going down waits until fewer have been enough for the whole delay: the answer is the largest recommendation
of that window. Going up never waits.
"""

import math
from dataclasses import dataclass

from modelmora.control import Demand
from modelmora.spec import Scaling
from modelmora_operator.cluster import Recommendation


@dataclass(frozen=True, slots=True)
class Wish:
    """What should be, what to remember for the next time, and when the answer changes by itself (seconds from now)."""

    replicas: int
    recommendations: tuple[Recommendation, ...] = ()
    recheck_after_s: float | None = None


NOBODY = Wish(0)


def desired(
    scaling: Scaling,
    demand: Demand | None,
    *,
    now: float,
    live: int,
    routers_alive: bool,
    to_prove: int,
    recommendations: tuple[Recommendation, ...] = (),
) -> Wish:
    """The replicas of a deployment that is not suspended.

    `live` workers exist now; `to_prove` are wanted because the spec has not been tested yet. While no router lives,
    nobody knows the demand, and nothing is scaled down.
    """
    wanted = wanted_by(scaling, demand) if routers_alive else live
    clamped = clamp(max(wanted, to_prove), scaling)
    if clamped == 0:
        return NOBODY
    return _stabilised(scaling, clamped, now=now, recommendations=recommendations)


def wanted_by(scaling: Scaling, demand: Demand | None) -> int:
    """What the demand alone asks for."""
    if demand is None:
        return 0
    return max(1, math.ceil(demand.load / scaling.target_concurrency))


def clamp(replicas: int, scaling: Scaling) -> int:
    """Within the floor and the ceiling; a floor above the ceiling wins, it was set last by /scale."""
    return max(scaling.min_replicas, min(replicas, scaling.max_replicas))


def _stabilised(scaling: Scaling, replicas: int, *, now: float, recommendations: tuple[Recommendation, ...]) -> Wish:
    delay_s = scaling.scale_down_delay_seconds
    # The last recommendation was in force until now. Of the others, only what is higher than everything after it can
    # still matter, so no more are remembered than there are replicas.
    past = (*recommendations[:-1], *(Recommendation(now, last.replicas) for last in recommendations[-1:]))
    higher = [r for r in past if r.replicas > replicas and now - r.at < delay_s]
    remembered = (*higher, Recommendation(now, replicas))
    largest = remembered[0]
    recheck_after_s = largest.at + delay_s - now if higher else None
    return Wish(clamp(largest.replicas, scaling), remembered, recheck_after_s)
