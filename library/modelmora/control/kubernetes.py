"""The control in a cluster: deployments, routes and workers are watched there, what the router says is a Lease.

Needs the package kubernetes, which comes with the extra [router].
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

import structlog

from modelmora.control import Demands, Deployments, Key, Routes, Trips, Worker, Workers
from modelmora.control.leases import MANAGER, RENEW_S, Holder, owned_lease
from modelmora.errors import InvalidManifest, ServerUnavailable
from modelmora.kube import names
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, ROUTES, Kube, KubeError, Object
from modelmora.kube.following import Name, Sight, State, follow_all
from modelmora.spec import ModelDeployment, ModelRoute

_SELECTOR: Final = f"{names.COMPONENT}={names.WORKER}"
_OVER: Final = ("Succeeded", "Failed")  # phases of pods that have ended, and stay so
_BACKOFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
# A connection that went silent is given up so early that a renewal on a new one still comes in time.
_WRITE_S: Final = 3.0

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=ModelDeployment | ModelRoute)


class KubernetesControl:
    """`modelmora.control.Control` on a Kubernetes API: all namespaces, or these."""

    def __init__(self, kube: Kube, holder: Holder, namespaces: Sequence[str] = ()) -> None:
        self._kube = kube
        self._holder = holder
        self._namespaces = namespaces
        self._sight = Sight()
        self._wanted: Demands = {}
        self._tripped: Trips = {}
        self._said = asyncio.Event()  # a demand; before it nothing is renewed
        self._writing = asyncio.Lock()  # one write at a time, so that none is overtaken by an older one
        self._written_at = 0.0

    async def watch_deployments(self) -> AsyncIterator[Deployments]:
        reader = deployment_reader()
        async for state in follow_all(self._kube, DEPLOYMENTS, self._namespaces, sight=self._sight):
            yield reader.read(state)

    def blind(self, namespace: str) -> str:
        trouble = self._sight.troubles.get(namespace) or self._sight.troubles.get(None)
        return str(trouble or "")

    async def watch_routes(self) -> AsyncIterator[Routes]:
        reader = route_reader()
        # Without its definition there is no route: models are served all the same.
        async for state in follow_all(self._kube, ROUTES, self._namespaces, optional=True):
            yield reader.read(state)

    async def watch_workers(self) -> AsyncIterator[Workers]:
        before: Workers | None = None
        async for state in follow_all(self._kube, PODS, self._namespaces, selector=_SELECTOR):
            if (workers := workers_of(state)) != before:  # most of what changes in a pod is nothing to a router
                before = workers
                yield workers

    async def publish_demand(self, demands: Demands) -> None:
        self._wanted = dict(demands)
        self._said.set()
        await self._write()

    async def publish_trips(self, trips: Trips) -> None:
        self._tripped = dict(trips)
        if self._said.is_set():  # before, it would be said that no model is wanted; so it goes with the first demand
            await self._write()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The Lease is renewed until the block ends; then it is deleted, and with it what it wanted."""
        renewing = asyncio.create_task(self._renew(), name="renewal of the lease")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._remove()

    # ------------------------------------------------------------------------------------------------ the Lease

    async def _renew(self) -> None:
        await self._said.wait()
        attempt = 0
        while True:
            await asyncio.sleep(self._pause_s(attempt))
            if time.monotonic() - self._written_at < RENEW_S:  # a demand that changed has renewed it
                attempt = 0
                continue
            try:
                await self._write()
                attempt = 0
            except ServerUnavailable as error:
                attempt += 1
                log.warning("the lease was not renewed; it is tried again", lease=self._holder.name, why=error.message)
            except Exception:  # the task's top: a bug in one renewal must not end all of them
                attempt += 1
                log.exception("the lease was not renewed; it is tried again", lease=self._holder.name)

    def _pause_s(self, attempt: int) -> float:
        if attempt:
            return _BACKOFF_S[min(attempt, len(_BACKOFF_S)) - 1]
        return max(self._written_at + RENEW_S - time.monotonic(), _BACKOFF_S[0])

    async def _write(self) -> None:
        async with self._writing:
            body = owned_lease(self._holder, self._wanted, time.time(), self._tripped)
            try:
                async with asyncio.timeout(_WRITE_S):
                    await self._kube.apply(LEASES, self._holder.namespace, self._holder.name, body, manager=MANAGER)
            except KubeError as error:
                raise _not_stored(f"the API server refused it: {error.message}", _remedy(error)) from error
            except TimeoutError as error:
                raise _not_stored(f"the API server did not answer within {_WRITE_S:g} s", "wait") from error
            self._written_at = time.monotonic()

    async def _remove(self) -> None:
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._kube.delete(LEASES, self._holder.namespace, self._holder.name)
        except (KubeError, ServerUnavailable, TimeoutError) as error:
            log.warning("the lease was not deleted; it fades", lease=self._holder.name, why=str(error))


def _not_stored(why: str, remedy: str) -> ServerUnavailable:
    return ServerUnavailable(f"the lease could not be stored: {why}", remedy=remedy)


def _remedy(error: KubeError) -> str:
    if error.reason == "Forbidden":
        return "allow this router's service account to create, patch and delete leases in its namespace"
    return "wait: it is tried again"


# ---------------------------------------------------------------------------------------------------- what is read


class Reader(Generic[R]):
    """Reads what changed of one kind, and keeps what it has read."""

    def __init__(self, kind: str, stored: Callable[[Object], R]) -> None:
        self._kind = kind
        self._stored = stored
        self._versions: dict[Name, str] = {}
        self._read: dict[Name, R] = {}

    def read(self, state: State) -> dict[Key, R]:
        """All that can be read; one that no longer can be, as it last could."""
        for name in self._versions.keys() - state.keys():
            del self._versions[name]
            self._read.pop(name, None)
        for name, item in state.items():
            version = item["metadata"]["resourceVersion"]
            if self._versions.get(name) != version:
                self._versions[name] = version
                self._take(name, item)
        return {Key(*name): one for name, one in self._read.items()}

    def _take(self, name: Name, item: Object) -> None:
        before = self._read.get(name)
        if before is not None and before.metadata.uid != item["metadata"].get("uid", ""):
            del self._read[name]  # another object under its name
        try:
            self._read[name] = self._stored(item)
        except InvalidManifest as error:
            log.warning(
                "a stored object cannot be read",
                kind=self._kind,
                name="/".join(name),
                serves_as_it_was=name in self._read,
                why=error.message,
                remedy="correct it, or update ModelMora if a newer one wrote it",
            )


def deployment_reader() -> Reader[ModelDeployment]:
    """Of ModelDeployments."""
    return Reader(DEPLOYMENTS.kind, ModelDeployment.stored)


def route_reader() -> Reader[ModelRoute]:
    """Of ModelRoutes."""
    return Reader(ROUTES.kind, ModelRoute.stored)


# ---------------------------------------------------------------------------------------------------- workers


def workers_of(state: State) -> Workers:
    """The workers that these pods are; a pod is one as soon as it has an address."""
    found = (_worker(name, pod) for name, pod in state.items())
    return {worker.worker_id: worker for worker in found if worker}


def _worker(name: Name, pod: Mapping[str, Any]) -> Worker | None:
    metadata, status = pod["metadata"], pod.get("status") or {}
    address = status.get("podIP")
    deployment = (metadata.get("labels") or {}).get(names.DEPLOYMENT)
    if not address or not deployment or status.get("phase") in _OVER:
        return None
    host = f"[{address}]" if ":" in address else address
    return Worker(
        worker_id="/".join(name),
        key=Key(name[0], deployment),
        address=f"{host}:{names.CALL_PORT}",
        health_address=f"{host}:{names.HEALTH_PORT}",
        terminating=bool(metadata.get("deletionTimestamp")),
        deployment_uid=_owner_uid(metadata),
    )


def _owner_uid(metadata: Mapping[str, Any]) -> str:
    references: Sequence[Mapping[str, Any]] = metadata.get("ownerReferences") or ()
    owners = (one for one in references if one.get("kind") == DEPLOYMENTS.kind and one.get("controller"))
    return next((str(owner.get("uid") or "") for owner in owners), "")
