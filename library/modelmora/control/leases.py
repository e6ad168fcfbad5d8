"""A router's demand as the Lease that it is written to, and back. Pure.

Each router has one Lease of its own. That it is renewed says that the router lives; an annotation holds its demand.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from modelmora.control import Demand, Demands, Key
from modelmora.kube import names

DURATION_S: Final = 15
RENEW_S: Final = 5.0
MANAGER: Final = "modelmora-router"  # field manager of what a router writes


@dataclass(frozen=True, slots=True)
class Holder:
    """The router whose Lease it is. With the uid of its pod, the Lease goes with the pod."""

    namespace: str
    name: str
    pod_uid: str = ""


def lease(holder: str, demands: Demands, now: float) -> dict[str, Any]:
    """The body of the Lease; `now` is Unix time in seconds."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "metadata": {
            "labels": {names.COMPONENT: names.ROUTER_DEMAND},
            "annotations": {names.DEMAND: written(demands)},
        },
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": DURATION_S, "renewTime": moment},
    }


def owned_lease(holder: Holder, demands: Demands, now: float) -> dict[str, Any]:
    """The Lease of that router; owned by its pod, so that a pod that goes without a word takes it along."""
    body = lease(holder.name, demands, now)
    if holder.pod_uid:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": holder.name, "uid": holder.pod_uid}
        body["metadata"]["ownerReferences"] = [owner]
    return body


def written(demands: Demands) -> str:
    """As JSON: "namespace/name": [load, lastUsedAt, loadAskedAt]."""
    entries = {str(key): [d.load, round(d.last_used_at, 3), d.load_asked_at] for key, d in sorted(demands.items())}
    return json.dumps(entries, separators=(",", ":"))


def demands_of(lease: Mapping[str, Any]) -> Demands:
    """What a Lease says; entries that cannot be understood are left out, since a newer router may have written them."""
    try:
        said = json.loads(lease["metadata"]["annotations"][names.DEMAND])
        entries = said.items()
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {key: demand for name, value in entries if (key := _key(name)) and (demand := _demand(value))}


def _key(name: str) -> Key | None:
    namespace, _, deployment = name.partition("/")
    return Key(namespace, deployment) if namespace and deployment else None


def _demand(value: object) -> Demand | None:
    match value:
        case [int() | float() as load, int() | float() as used, int() | float() as asked, *_]:
            return Demand(float(load), float(used), float(asked))
    return None
