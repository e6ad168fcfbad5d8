"""What a worker's container asks for and may use: as the deployment says, with a memory limit in any case that can be.

Without a limit of its own a model may use 1.5 times what it requests, or what was measured of the spec that it has
now. Shared memory comes on top, all of it, whoever uses how much: the kernel charges a page to the container that
touched it first, and nobody knows which of the pod's that will be. So it is requested once, by the worker, also where
nothing else is known; and the worker's limit leaves room for all of it.
"""

from decimal import Decimal
from typing import Any, Final

from modelmora.spec import ModelDeployment, quantity_value
from modelmora_operator.spec_hash import spec_hash

HEADROOM: Final = Decimal("1.5")
# A load needs for a moment more than the model that it leaves: half as much again is too little for a small one.
LEAST_HEADROOM_BYTES: Final = 256 * 1024 * 1024


def of(deployment: ModelDeployment) -> dict[str, Any]:
    """requests and limits, as in a pod."""
    requests: dict[str, Any] = dict(deployment.spec.resources.requests)
    limits: dict[str, Any] = dict(deployment.spec.resources.limits)
    _add_memory(requests, limits, deployment)
    gpu = deployment.spec.gpu
    if gpu.mode == "Exclusive":
        limits[gpu.resource_name] = str(gpu.count or 1)
    return {name: amounts for name, amounts in (("requests", requests), ("limits", limits)) if amounts}


def _add_memory(requests: dict[str, Any], limits: dict[str, Any], deployment: ModelDeployment) -> None:
    measured = _measured(deployment)
    if "memory" in requests and "memory" not in limits:
        limits["memory"] = _bytes(quantity_value(requests["memory"]) * HEADROOM)
    elif measured and "memory" not in limits:
        requests["memory"] = str(measured)
        limits["memory"] = _bytes(max(measured * HEADROOM, Decimal(measured + LEAST_HEADROOM_BYTES)))
    if (shared := deployment.spec.shared_memory) is not None:
        _add_shared(requests, limits, quantity_value(shared.size_limit))


def _add_shared(requests: dict[str, Any], limits: dict[str, Any], size: Decimal) -> None:
    if "memory" not in limits:  # a limit alone is the request too
        requests.setdefault("memory", "0")
    for amounts in (requests, limits):
        if "memory" in amounts:
            amounts["memory"] = _bytes(quantity_value(amounts["memory"]) + size)


def _measured(deployment: ModelDeployment) -> int:
    """Bytes; 0 where nothing is known of the spec as it is now."""
    status = deployment.status
    if status.resources is None or status.verified_spec_hash != spec_hash(deployment.spec):
        return 0
    return status.resources.memory_bytes


def _bytes(amount: Decimal) -> str:
    return str(int(amount.to_integral_value()))
