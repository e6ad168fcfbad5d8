"""The router's process in a cluster: the way to the API, its Lease, its spans, and the router itself.

SIGTERM or SIGINT: no longer ready, drain, the Lease deleted, end. A second one ends at once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import structlog
import uvloop

from modelmora import garbage
from modelmora.control.kubernetes import KubernetesControl
from modelmora.control.leases import Holder
from modelmora.errors import ServerUnavailable
from modelmora.kube import rights
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, ROUTES, Kube, KubeError
from modelmora.kube.rights import Right
from modelmora_router import server, signals
from modelmora_router.exporting import exporting
from modelmora_router.settings import ClusterSettings, Settings
from modelmora_router.siblings import Siblings

log = structlog.get_logger(__name__)

_AGAIN_S: Final = 1.0


def run(settings: Settings) -> None:
    """Serves until a signal says to end.

    Raises:
        ModelMoraError: why it cannot start.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    heard = signals.heard_by_one_of_several if settings.process.number else signals.heard
    with heard(stopping):
        async with _connection(settings.cluster) as kube:
            if not await _reached(kube, settings.cluster, stopping):
                return
            control = KubernetesControl(kube, _holder(settings), settings.cluster.namespaces)
            with exporting(settings.tracing) as spans:
                async with control.running():
                    await server.run(
                        settings.router.shared_out(),
                        control,
                        ready=lambda _: garbage.settle(),
                        stop=stopping,
                        spans=spans,
                        siblings=_siblings(settings),
                    )


def _holder(settings: Settings) -> Holder:
    cluster, number = settings.cluster, settings.process.number
    name = f"{cluster.pod_name}-{number}" if number else cluster.pod_name
    return Holder(cluster.namespace, name, cluster.pod_uid, pod_name=cluster.pod_name)


def _siblings(settings: Settings) -> Siblings | None:
    process = settings.process
    if not process.number:
        return None
    return Siblings(process.folder, number=process.number, processes=settings.router.processes)


@asynccontextmanager
async def _connection(settings: ClusterSettings) -> AsyncIterator[Kube]:
    kube = await Kube.connect(settings.kubeconfig)
    try:
        yield kube
    finally:
        await kube.close()


# ---------------------------------------------------------------------------------------------------- the first answer


async def _reached(kube: Kube, settings: ClusterSettings, stopping: asyncio.Event) -> bool:
    """Whether the API answers and allows what a router needs; False: asked to end meanwhile.

    Raises:
        ServerUnavailable: it cannot be reached.
        InvalidSettings: a right is lacking.
    """
    asking = asyncio.ensure_future(_ask(kube, settings))
    wished = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait([asking, wished], return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            asking.result()
        return asking.done()
    finally:
        asking.cancel()
        wished.cancel()


async def _ask(kube: Kube, settings: ClusterSettings) -> None:
    end = time.monotonic() + settings.api_timeout_s
    while True:
        try:
            return rights.refuse_lacking(_but_of_the_gone(await rights.lacking(kube, _rights(settings)), settings))
        except KubeError as error:
            unavailable = ServerUnavailable(
                f"the Kubernetes API does not answer as it should: {error.message}", remedy="look at the API server"
            )
        except ServerUnavailable as error:
            unavailable = error
        if time.monotonic() > end:
            raise unavailable
        log.warning("waiting for the Kubernetes API", why=unavailable.message)
        await asyncio.sleep(_AGAIN_S)


def _rights(settings: ClusterSettings) -> Iterator[Right]:
    for namespace in settings.namespaces or (None,):
        yield from _rights_to_follow(namespace)
    for verb in ("create", "patch", "delete"):
        yield Right(verb, LEASES, settings.namespace)


def _rights_to_follow(namespace: str | None) -> Iterator[Right]:
    for resource in (DEPLOYMENTS, ROUTES, PODS):
        for verb in ("list", "watch"):
            yield Right(verb, resource, namespace)


def _but_of_the_gone(missing: Sequence[Right], settings: ClusterSettings) -> list[Right]:
    """Without those in a namespace that was deleted, and its Role with it: it must not keep the others from us."""
    gone = [name for name in settings.namespaces if set(_rights_to_follow(name)) <= set(missing)]
    if len(gone) == len(settings.namespaces):
        return list(missing)
    of_the_gone = {right for name in gone for right in _rights_to_follow(name)}
    return [right for right in missing if right not in of_the_gone]
