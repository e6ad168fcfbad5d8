"""What operator and router say to each other.

The router reads which deployments, routes and workers there are, and writes two things: its demand, how much each model
is wanted, and its trips, which backends of routes it rolled back. Everything is level-based: a watch yields the whole
present state, newest first and only the newest, so that a slow reader skips what is over; a demand replaces the demand
before it, and so do trips.

There are two adapters: Kubernetes (watches and Leases) and local (`modelmora.control.local`, one process).
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from modelmora.spec import ModelDeployment, ModelRoute

# With this initial metadata a worker says its worker_id on the call stream: its address may have been another's before.
WORKER_METADATA: Final = "modelmora-worker"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The identity of a ModelDeployment, or of a ModelRoute."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "Key | None":
        """What `str` wrote; None: it is none."""
        namespace, _, name = text.partition("/")
        return cls(namespace, name) if namespace and name else None


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process or pod, as the router needs it. It may not serve yet: its health says so."""

    worker_id: str  # "namespace/name"
    key: Key
    address: str  # gRPC target of WorkerService: "unix:/…/w.sock" or "host:port"
    health_address: str  # gRPC target of grpc.health.v1; may be the same
    terminating: bool = False  # gets nothing new
    deployment_uid: str = ""  # of the object that it was made for; another may come to have its name. Empty: not known


@dataclass(frozen=True, slots=True)
class Demand:
    """How much one router wants one model."""

    load: float  # requests waiting and running, averaged over seconds
    last_used_at: float  # Unix time, seconds
    load_asked_at: float = 0.0  # Unix time of the last explicit load: an attempt begun before it is not the last
    urgency: int = 0  # the most urgent Priority among the requests that wait or run; 0: there are none
    waiting_since: float = 0.0  # Unix time since when requests wait and no replica serves; 0: none does so


@dataclass(frozen=True, slots=True)
class Trip:
    """A router rolled back a backend of a route, as the route was at that generation."""

    route_uid: str
    generation: int
    backend: str
    message: str  # how many of its requests failed, and how


Deployments = Mapping[Key, ModelDeployment]
Routes = Mapping[Key, ModelRoute]
Workers = Mapping[str, Worker]
Demands = Mapping[Key, Demand]
Trips = Mapping[Key, tuple[Trip, ...]]  # by route


class Control(Protocol):
    """The router's side."""

    def watch_deployments(self) -> AsyncIterator[Deployments]:
        """All deployments, with status; at once and after every change."""
        ...

    def watch_routes(self) -> AsyncIterator[Routes]:
        """All routes; at once and after every change."""
        ...

    def watch_workers(self) -> AsyncIterator[Workers]:
        """All workers by worker_id; at once and after every change."""
        ...

    def blind(self, namespace: str) -> str:
        """Why deployments of the namespace may be there of which nothing has been told; empty: they would have been."""
        ...

    async def publish_demand(self, demands: Demands) -> None:
        """Replaces this router's demand: a model without an entry is not wanted.

        Raises:
            ServerUnavailable: it could not be stored; the caller tries again.
        """
        ...

    async def publish_trips(self, trips: Trips) -> None:
        """Replaces what this router said; what a route's status tells already need not be said.

        Raises:
            ServerUnavailable: it could not be stored; the caller tries again.
        """
        ...
