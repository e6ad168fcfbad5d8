"""A router's demand and its trips as the Lease that they are written to, and back. Pure.

Each router has one Lease of its own. That it is renewed says that the router lives; an annotation holds its demand,
and another one, where there are any, its trips.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from modelmora.control import Demand, Demands, Key, Trips, trips
from modelmora.kube import names
from modelmora.spec import Priority

DURATION_S: Final = 15
RENEW_S: Final = 5.0
_URGENCIES: Final = range(max(Priority) + 1)
MANAGER: Final = "modelmora-router"  # field manager of what a router writes


@dataclass(frozen=True, slots=True)
class Holder:
    """The router whose Lease it is, by its name. With the uid of its pod, the Lease goes with the pod.

    Of several router processes in a pod each has a name of its own; `pod_name` is empty where both are the same.
    """

    namespace: str
    name: str
    pod_uid: str = ""
    pod_name: str = ""


def lease(holder: str, demands: Demands, now: float, tripped: Trips | None = None) -> dict[str, Any]:
    """The body of the Lease; `now` is Unix time in seconds."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    annotations = {names.DEMAND: written(demands)}
    if tripped:
        annotations[names.TRIPS] = trips.written(tripped)
    return {
        "metadata": {
            "labels": {names.COMPONENT: names.ROUTER_DEMAND},
            "annotations": annotations,
        },
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": DURATION_S, "renewTime": moment},
    }


def owned_lease(holder: Holder, demands: Demands, now: float, tripped: Trips | None = None) -> dict[str, Any]:
    """The Lease of that router; owned by its pod, so that a pod that goes without a word takes it along."""
    body = lease(holder.name, demands, now, tripped)
    if holder.pod_uid:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": holder.pod_name or holder.name, "uid": holder.pod_uid}
        body["metadata"]["ownerReferences"] = [owner]
    return body


def written(demands: Demands) -> str:
    """As JSON: "namespace/name": [load, lastUsedAt, loadAskedAt, urgency, waitingSince]."""
    entries = {str(key): _entry(demand) for key, demand in sorted(demands.items())}
    return json.dumps(entries, separators=(",", ":"))


def demands_of(lease: Mapping[str, Any]) -> Demands:
    """What a Lease says; entries that cannot be understood are left out, since a newer router may have written them."""
    try:
        said = json.loads(lease["metadata"]["annotations"][names.DEMAND])
        entries = said.items()
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {key: demand for name, value in entries if (key := Key.parse(name)) and (demand := _demand(value))}


def trips_of(lease: Mapping[str, Any]) -> Trips:
    """What a Lease says of backends that were rolled back; one of an older router says nothing."""
    try:
        return trips.read(lease["metadata"]["annotations"].get(names.TRIPS))
    except (KeyError, TypeError, AttributeError):
        return {}


def _entry(demand: Demand) -> list[float]:
    used, waiting = round(demand.last_used_at, 3), round(demand.waiting_since, 3)
    return [demand.load, used, demand.load_asked_at, demand.urgency, waiting]


def _demand(value: object) -> Demand | None:
    match value:
        case [int() | float() as load, int() | float() as used, int() | float() as asked, *more]:
            return Demand(float(load), float(used), float(asked), *_pressing(more))
    return None


def _pressing(more: list[object]) -> tuple[int, float]:
    """Urgency and waitingSince; a router of an older version does not tell them."""
    match more:
        case [int() as urgency, int() | float() as since, *_] if urgency in _URGENCIES:
            return int(urgency), float(since)
    return 0, 0.0
