"""Opens the ports, serves until it is asked to end, drains, closes.

Asked to end: readiness goes first, then nothing new is taken, what was accepted is answered within the drain time, and
only then do the ports close. Being cancelled means the same; being cancelled once more ends at once.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
import uvicorn
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client.registry import Collector
from starlette.types import ASGIApp

from modelmora.control import Control
from modelmora.wire.health import HealthService
from modelmora_router import ports
from modelmora_router.dataplane import DataPlane
from modelmora_router.edges import grpc as grpc_edge
from modelmora_router.edges import private as private_edge
from modelmora_router.edges import rest as rest_edge
from modelmora_router.settings import RouterSettings
from modelmora_router.siblings import Siblings
from modelmora_router.spans import SpanSink

log = structlog.get_logger(__name__)

SERVICES: Final = tuple(f"modelmora.v1.{name}" for name in ("InferenceService", "RegistryService", "ManagementService"))
_MAX_PENDING: Final = 16_384  # calls that have come and that the event loop has not looked at yet


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the router listens."""

    host: str
    rest_port: int
    grpc_port: int


async def run(
    settings: RouterSettings,
    control: Control,
    *,
    ready: Callable[[Bound], None] | None = None,
    stop: asyncio.Event | None = None,
    spans: SpanSink | None = None,
    collectors: Iterable[Collector] = (),
    siblings: Siblings | None = None,
) -> None:
    """Serves until `stop` is set or the task is cancelled, then drains; `ready` is called once requests are taken.

    `collectors`: other parts of this program whose numbers are shown beside the router's own. `siblings`: other
    processes that listen on the same ports, which somebody holds for all of them.

    Raises:
        AddressInUse: another program listens on one of the ports.
        InvalidSettings: the host is no address of this machine.
    """
    plane, health = DataPlane(settings, control, spans), HealthService(SERVICES)
    for collector in collectors:
        plane.meters.add(collector)
    # The ports are opened outside of the group: what keeps them from opening is not wrapped by it.
    open_port = ports.join if siblings else ports.bind
    with open_port(settings.host, settings.rest_port, "rest_port") as listening:
        grpc_server = _grpc_server(plane, health, settings, shared=siblings is not None)
        async with grpc_server as grpc_port, asyncio.TaskGroup() as group:
            follower = group.create_task(plane.run(), name="router")
            async with _rest_servers(plane, settings, listening, siblings, group):
                bound = Bound(settings.host, rest_port=listening.getsockname()[1], grpc_port=grpc_port)
                opening = group.create_task(_open(plane, health, bound, ready), name="opening of the router")
                try:
                    await (stop or asyncio.Event()).wait()  # which may come before anything was heard of
                finally:
                    opening.cancel()
                    health.set(serving=False)
                    try:
                        await plane.drain()
                    finally:
                        health.end()  # a client that watches would hold the gRPC port open
            follower.cancel()
    log.debug("router ended")


async def _open(plane: DataPlane, health: HealthService, bound: Bound, ready: Callable[[Bound], None] | None) -> None:
    await plane.until_ready()
    health.set(serving=True)
    log.info("router serves", host=bound.host, rest_port=bound.rest_port, grpc_port=bound.grpc_port)
    if ready:
        ready(bound)


# ------------------------------------------------------------------------------------------------ gRPC


@asynccontextmanager
async def _grpc_server(
    plane: DataPlane, health: HealthService, settings: RouterSettings, *, shared: bool
) -> AsyncIterator[int]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            # Beyond these, gRPC ends calls itself, with CANCELLED. Our own door tells why, and when to come again.
            ("grpc.server.max_pending_requests", _MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
            ("grpc.so_reuseport", int(shared)),  # unasked, a second server would share the port, not be refused
        ]
    )
    grpc_edge.add_to(server, plane, settings)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = sorted(SERVICES)
    reflection.enable_server_reflection([*names, "grpc.health.v1.Health", reflection.SERVICE_NAME], server)
    port = _bind_grpc(server, settings, shared=shared)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(settings.close_timeout_s)


def _bind_grpc(server: grpc.aio.Server, settings: RouterSettings, *, shared: bool) -> int:
    # gRPC does not say why it cannot bind: a socket of our own does, and is closed again.
    if not shared:
        ports.bind(settings.host, settings.grpc_port, "grpc_port").close()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        return server.add_insecure_port(f"{host}:{settings.grpc_port}")
    except RuntimeError as error:
        raise ports.in_use(settings.host, settings.grpc_port, "grpc_port") from error


# ------------------------------------------------------------------------------------------------ REST


class _RestServer(uvicorn.Server):
    """uvicorn without its signal handlers, and with an event for its start."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to the program, not to a part of it

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


@asynccontextmanager
async def _rest_servers(
    plane: DataPlane,
    settings: RouterSettings,
    listening: socket.socket,
    siblings: Siblings | None,
    group: asyncio.TaskGroup,
) -> AsyncIterator[None]:
    """The one for everybody, and the one for the other processes if there are any."""
    async with AsyncExitStack() as stack:
        if siblings:
            private = _configured(private_edge.application(plane), settings, uds=str(siblings.socket))
            await stack.enter_async_context(_served(private, settings, group))
        public = _configured(rest_edge.application(plane, settings, siblings), settings)
        await stack.enter_async_context(_served(public, settings, group, listening))
        yield


def _configured(application: ASGIApp, settings: RouterSettings, *, uds: str | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        uds=uds,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.close_timeout_s)),
    )


@asynccontextmanager
async def _served(
    config: uvicorn.Config, settings: RouterSettings, group: asyncio.TaskGroup, listening: socket.socket | None = None
) -> AsyncIterator[None]:
    server = _RestServer(config)
    task = group.create_task(server.serve(sockets=[listening] if listening else None), name="rest server")
    try:
        await server.has_started.wait()
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([task], timeout=2 * settings.close_timeout_s)
