"""The router's process in a cluster: settings, the way to the API, signals, and one clear line where it cannot start.

SIGTERM or SIGINT: no longer ready, drain, the Lease deleted, end. A second one ends at once.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import structlog
import uvloop

from modelmora.control.kubernetes import KubernetesControl
from modelmora.control.leases import Holder
from modelmora.errors import ModelMoraError, ServerUnavailable
from modelmora.kube import rights
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, ROUTES, Kube, KubeError
from modelmora.kube.rights import Right
from modelmora.telemetry import configure_logging
from modelmora_router import server
from modelmora_router.exporting import exporting
from modelmora_router.settings import ClusterSettings, RouterSettings, TracingSettings, read

log = structlog.get_logger(__name__)

_CANNOT_START: Final = 2
_INTERRUPTED: Final = 130
_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the router, and of its program in a cluster."""

    router: RouterSettings
    cluster: ClusterSettings
    tracing: TracingSettings


def main() -> None:
    """Serves until a signal says to end."""
    try:
        settings = Settings(read(RouterSettings), read(ClusterSettings), read(TracingSettings))
        configure_logging(log_format=settings.cluster.log_format, level=settings.cluster.log_level.value)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings))
    except ModelMoraError as error:
        _say(error)
        sys.exit(_CANNOT_START)


def _say(error: ModelMoraError) -> None:
    known = {"where": error.context.endpoint or error.context.file, "setting": error.context.field}
    where = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    remedy = f"; {error.context.remedy}" if error.context.remedy else ""
    sys.stderr.write(f"modelmora_router: {error.message}{f' ({where})' if where else ''}{remedy}\n")


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    with _signals(stopping):
        async with _connection(settings.cluster) as kube:
            if not await _reached(kube, settings.cluster, stopping):
                return
            holder = Holder(settings.cluster.namespace, settings.cluster.pod_name, settings.cluster.pod_uid)
            control = KubernetesControl(kube, holder, settings.cluster.namespaces)
            with exporting(settings.tracing) as spans:
                async with control.running():
                    await server.run(settings.router, control, stop=stopping, spans=spans)


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


# ---------------------------------------------------------------------------------------------------- signals


@contextmanager
def _signals(stopping: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, _on_signal, number, stopping)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _on_signal(number: signal.Signals, stopping: asyncio.Event) -> None:
    if stopping.is_set():
        log.warning("ended at once", signal=number.name)
        os._exit(_INTERRUPTED)
    log.info("draining; the same signal again ends at once", signal=number.name)
    stopping.set()
