"""The operator of a cluster as a program: its parts put together, from its start to SIGTERM.

A signal ends it at once: nothing is lost, since whatever was begun stands in the API server, and workers run on.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from modelmora.control import Key
from modelmora.errors import ServerUnavailable
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, ROUTES, Kube, KubeError, Resource
from modelmora_operator import http
from modelmora_operator.backends.announcements import Announcements
from modelmora_operator.backends.kubernetes import KubernetesCluster
from modelmora_operator.backends.lists import Lists, Places
from modelmora_operator.backends.pods import PodOptions
from modelmora_operator.backends.routes import RouteStatuses
from modelmora_operator.backends.watches import Watched, Watches, credentials_of, quiet_kopf
from modelmora_operator.backends.writes import Writes
from modelmora_operator.backoff import Backoff
from modelmora_operator.cluster_settings import KubernetesOperatorSettings
from modelmora_operator.controller import Controller
from modelmora_operator.health import Pulse, Reads
from modelmora_operator.metrics import Metrics
from modelmora_operator.reconcile import Reconciler
from modelmora_operator.workqueue import WorkQueue

_RETRY_CAP_S = 30.0  # between attempts of one reconcile; an API that comes back is not waited for longer
_STALE = 3.0  # so many intervals may pass without a good list
_ROUTES_STALE_S = 120.0  # their watches end by themselves several times meanwhile

log = structlog.get_logger(__name__)


async def run(settings: KubernetesOperatorSettings) -> None:
    """Until SIGTERM or SIGINT.

    Raises:
        InvalidSettings: there is no way to a cluster.
        AddressInUse: the port is taken.
    """
    quiet_kopf(debug=settings.log_level == "DEBUG")
    async with connected(settings) as kube:
        program = Program(settings, kube)
        async with http.answering(settings.port, program.pulse, program.metrics.text):
            await _until_signalled(program)


@asynccontextmanager
async def connected(settings: KubernetesOperatorSettings) -> AsyncIterator[Kube]:
    """To the cluster of the settings.

    Raises:
        InvalidSettings: there is no way to it.
    """
    kube = await Kube.connect(settings.kubeconfig, timeout_s=settings.api_timeout_s)
    try:
        yield kube
    finally:
        await kube.close()


class Program:
    """All parts, not yet running."""

    def __init__(self, settings: KubernetesOperatorSettings, kube: Kube) -> None:
        self._settings = settings
        self._started_at = time.monotonic()
        self.queue: WorkQueue[Key] = WorkQueue(
            concurrency=settings.reconcile_concurrency,
            backoff=Backoff(cap_s=_RETRY_CAP_S),
            expected=(KubeError, ServerUnavailable, TimeoutError),
        )
        self.metrics = Metrics()
        writes = Writes(kube, self.metrics.count_write)
        self._announcements = Announcements(writes)
        self.cluster = KubernetesCluster(
            writes,
            options_of(settings),
            announcements=self._announcements,
            sharing=settings.policy.sharing is not None,
        )
        self.routes = RouteStatuses(
            kube, writes, self.cluster.view, settings.namespaces, announcements=self._announcements
        )
        self.metrics.look_at(self.queue.statistics, self.cluster.phases)
        self.lists = Lists(
            kube,
            self.cluster.view,
            home=settings.namespace,
            namespaces=settings.namespaces,
            resync_s=settings.resync_s,
            poll_s=settings.lease_poll_s,
        )
        self._credentials = credentials_of(kube.configuration)
        leases = Watched((LEASES,), (settings.namespace,))
        self._watches = {"leases": Watches(leases, self._credentials, self._heard, self.lists.hurry)}

    async def run(self) -> None:
        """Until it is cancelled."""
        reconciler = Reconciler(
            self.cluster, self._settings.policy, mark=self.queue.add, deadline_s=self._settings.reconcile_timeout_s
        )
        controller = Controller(
            self.cluster, self.metrics.timed(reconciler.reconcile), self.queue, resync_s=self._settings.resync_s
        )
        async with self.cluster.running(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self.lists.run(), name="lists")
            tasks.create_task(self._announcements.run(), name="events")
            tasks.create_task(self._watch_models(), name="watches of models")
            tasks.create_task(self._watches["leases"].run(), name="watches of leases")
            tasks.create_task(controller.run(), name="controller")
            tasks.create_task(self.routes.run(), name="routes")
            await self.cluster.view.synced.wait()
            log.info("operator works", deployments=len(self.cluster.view.deployments), pods=len(self.cluster.view.pods))

    def pulse(self) -> Pulse:
        """How it is now."""
        now = time.monotonic()
        allowed = dict.fromkeys((DEPLOYMENTS, PODS), _STALE * self._settings.resync_s)
        allowed[LEASES] = _STALE * self._settings.lease_poll_s + self._settings.api_timeout_s
        allowed[ROUTES] = _ROUTES_STALE_S
        reads = tuple(
            Reads(
                kind=resource.plural,
                age_s=None if one.read_at is None else now - one.read_at,
                unreachable_s=None if one.unreachable_since is None else now - one.unreachable_since,
                problem=one.problem,
                allowed_age_s=allowed[resource],
            )
            for resource, one in (self.lists.readings | {ROUTES: self.routes.reading}).items()
        )
        return Pulse(
            up_s=now - self._started_at,
            synced=self.cluster.view.synced.is_set(),
            reads=reads,
            watches=tuple(one.problem for one in self._watches.values() if one.problem and not one.refused),
            refused_watches=tuple(one.problem for one in self._watches.values() if one.problem and one.refused),
            oldest_s=self.queue.statistics().oldest_s,
            allowed_oldest_s=_STALE * self._settings.reconcile_timeout_s,
        )

    async def _watch_models(self) -> None:
        """Where they can be read; begun anew when that changes.

        kopf would wait in silence for a definition that is not there, and end all watches for one that is refused.
        """
        async with asyncio.TaskGroup() as tasks:
            watching: asyncio.Task[None] | None = None
            async for places in self.lists.readable.watch():
                if watching is not None:
                    watching.cancel()
                self._watches.pop("models", None)
                watching = tasks.create_task(self._watches_of(places).run(), name="kopf") if places else None

    def _watches_of(self, places: Places) -> Watches:
        watched = Watched((DEPLOYMENTS, PODS), [place for place in places if place is not None])
        self._watches["models"] = watches = Watches(watched, self._credentials, self._heard, self.lists.hurry)
        return watches

    def _heard(self, resource: Resource, kind: str | None, item: Any) -> None:  # noqa: ANN401 - JSON
        self.cluster.view.heard(resource, kind, item, time.monotonic())


def options_of(settings: KubernetesOperatorSettings) -> PodOptions:
    """What all workers have."""
    return PodOptions(
        image=settings.worker_image,
        now=0.0,
        image_pull_policy=settings.worker_image_pull_policy,
        image_pull_secrets=settings.worker_image_pull_secrets,
        cache_claim_name=settings.cache_claim_name,
        cache_size_limit=settings.cache_size_limit,
        drain_timeout_s=settings.drain_timeout_s,
    )


async def _until_signalled(program: Program) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(program.run(), name="operator")
        await stop.wait()
        log.info("operator ends; its workers run on")
        running.cancel()
