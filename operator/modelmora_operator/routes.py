"""The status of every ModelRoute, from the routes and the deployments that there are: pure.

`Ready` says whether requests for the model are answered by the route: Routed as it is written, PartlyRouted by some of
its backends, RolledBack by those that are left. `Stalled` is there while something is wrong that only an edit heals.
What routers rolled back is kept in the status until the spec is edited, whatever becomes of these routers.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from modelmora.control import Deployments, Key, Routes, Trips
from modelmora.control.trips import with_trips
from modelmora.spec import Backend, ConditionStatus, ModelRoute, ModelRouteStatus
from modelmora.spec.route_effect import Arm, Defect, Effect, effects
from modelmora_operator.conditions import READY, STALLED, Verdict, dated

ROUTED: Final = "Routed"
PARTLY_ROUTED: Final = "PartlyRouted"
ROLLED_BACK: Final = str(Defect.ROLLED_BACK)
DUPLICATE_ROUTE: Final = "DuplicateRoute"

_MOST_WORDS: Final = 16_000  # of what is wrong; beside the shares, within the 32768 that a condition may have

_TRUE, _FALSE = ConditionStatus.TRUE, ConditionStatus.FALSE


def statuses(routes: Routes, deployments: Deployments, trips: Trips, now: float) -> dict[Key, ModelRouteStatus]:
    """Of all of them; `trips` is what the routers say now."""
    routes = {key: with_trips(route, trips.get(key, ()), now) for key, route in routes.items()}
    return {
        _key_of(seen.route): _status(seen, counts, now)
        for seen, counts in effects(routes.values(), deployments.values())
    }


def _key_of(route: ModelRoute) -> Key:
    return Key(route.metadata.namespace, route.metadata.name)


def _status(seen: Effect, counts: ModelRoute, now: float) -> ModelRouteStatus:
    in_effect = counts is seen.route
    verdicts = _verdicts(seen) if in_effect else _duplicate(seen.route, counts)
    weights = tuple(Backend(name=arm.name, weight=arm.effective if in_effect else 0) for arm in seen.arms)
    return ModelRouteStatus(
        observed_generation=seen.route.metadata.generation,
        backends=weights,
        rolled_back=seen.route.status.rolled_back,
        conditions=dated(verdicts, seen.route, now),
    )


def _duplicate(route: ModelRoute, counts: ModelRoute) -> Iterator[Verdict]:
    words = (
        f"{counts.metadata.name} is older and routes model {route.spec.model_id!r} already: delete one of the two, "
        "or put what both say into one"
    )
    yield Verdict(READY, _FALSE, DUPLICATE_ROUTE, words)
    yield Verdict(STALLED, _TRUE, DUPLICATE_ROUTE, words)


def _verdicts(seen: Effect) -> Iterator[Verdict]:
    yield _ready(seen)
    lasting = [arm for arm in _wrong(seen) if arm.defect and arm.defect.lasting]
    if lasting:
        yield Verdict(STALLED, _TRUE, str(lasting[0].defect), _words(lasting))


def _ready(seen: Effect) -> Verdict:
    wrong = list(seen.defects)
    if not seen.answered:
        return Verdict(READY, _FALSE, str(wrong[0].defect) if wrong else "NoBackend", _words(wrong))
    if wrong:
        reason = ROLLED_BACK if any(arm.defect is Defect.ROLLED_BACK for arm in wrong) else PARTLY_ROUTED
        return Verdict(READY, _TRUE, reason, f"{_shares(seen)}; {_words(wrong)}")
    return Verdict(READY, _TRUE, ROUTED, _shares(seen))


def _wrong(seen: Effect) -> Iterator[Arm]:
    """The mirror too: nobody misses its answers, but who wrote the route misses the copies."""
    yield from seen.defects
    if seen.mirror and seen.mirror.defect:
        yield seen.mirror


def _shares(seen: Effect) -> str:
    whole = sum(arm.effective for arm in seen.arms)
    return ", ".join(f"{arm.name} {arm.effective / whole:.1%}" for arm in seen.arms if arm.effective)


def _words(arms: Iterable[Arm]) -> str:
    return _cut("; ".join(arm.words for arm in arms) or "every weight is 0: give a backend one")


def _cut(words: str) -> str:
    return words if len(words) <= _MOST_WORDS else words[: _MOST_WORDS - 1] + "…"
