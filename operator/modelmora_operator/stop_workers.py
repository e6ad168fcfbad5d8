"""Ends all workers before an installation is removed: first the operator, which would start them again, then the pods.

Nothing that is left afterwards knows how to drain them; the ModelDeployments stay.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog

from modelmora.kube.api import NOT_FOUND, PODS, Kube, KubeError, Object, Resource
from modelmora_operator.backends.view import selector_of

_OPERATORS: Final = Resource("deployments", "Deployment", group="apps")
_STEP_S: Final = 0.5
_QUIET_S: Final = 10.0  # in which the pod of an operator whose Deployment is gone has surely ended

log = structlog.get_logger(__name__)


async def stop_workers(
    kube: Kube,
    namespaces: Sequence[str],
    *,
    home: str,
    operator: str | None,
    timeout_s: float,
    quiet_s: float = _QUIET_S,
) -> bool:
    """False: some had not ended in time. `operator` is the name of its Deployment in the namespace `home`.

    Raises:
        KubeError: the API server refused.
        ServerUnavailable: it could not be reached.
    """
    try:
        async with asyncio.timeout(timeout_s):
            if operator is not None:
                await _end_operator(kube, home, operator)
            await _end_pods(kube, namespaces or (None,), quiet_s if operator is not None else 0.0)
    except TimeoutError:
        log.warning("workers have not ended in time", timeout_s=timeout_s)
        return False
    return True


async def _end_operator(kube: Kube, home: str, operator: str) -> None:
    await kube.delete(_OPERATORS, home, operator)
    while await _exists(kube, home, operator):  # noqa: ASYNC110 - at the end of an installation, nobody watches
        await asyncio.sleep(_STEP_S)
    log.info("the operator is gone", deployment=operator)


async def _exists(kube: Kube, home: str, operator: str) -> bool:
    try:
        await kube.get(_OPERATORS, home, operator)
    except KubeError as error:
        if error.status == NOT_FOUND:
            return False
        raise
    return True


async def _end_pods(kube: Kube, places: Sequence[str | None], quiet_s: float) -> None:
    """Again and again, until there has been none for a while.

    With its Deployment the operator is not gone: its pod ends a little later, and may start one more before it does.
    """
    last_seen_at = time.monotonic()
    while True:
        pods = [pod for place in places for pod in await _pods(kube, place)]
        for pod in pods:
            await _end(kube, pod)
        now = time.monotonic()
        last_seen_at = now if pods else last_seen_at
        if not pods and now - last_seen_at >= quiet_s:
            break
        await asyncio.sleep(_STEP_S)
    log.info("no worker is left")


async def _end(kube: Kube, pod: Object) -> None:
    metadata = pod["metadata"]
    if "deletionTimestamp" not in metadata:
        log.info("worker is ended", namespace=metadata["namespace"], worker=metadata["name"])
        await kube.delete(PODS, metadata["namespace"], metadata["name"], uid=metadata["uid"])


async def _pods(kube: Kube, place: str | None) -> Sequence[Object]:
    return (await kube.list(PODS, place, selector=selector_of(PODS))).items
