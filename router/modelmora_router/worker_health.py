"""Whether a worker serves, as it says itself: its health is watched, and reconnected at once when the watch breaks."""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelmora.control import Worker

log = structlog.get_logger(__name__)

BACKOFF_S: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
# A pod that does not listen yet refuses at once: ask again soon. One whose network is not there yet says nothing: give
# the attempt up soon, yet not before a busy machine could have answered.
_RECONNECTING: Final = (
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),  # gRPC's name for how long one attempt may take
)
# A node that is cut off sends no end of a connection: it is noticed 14 s after its last word. Half of that is the time
# to answer, which a worker short of CPU needs too.
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 7_000),
    ("grpc.keepalive_timeout_ms", 7_000),
    ("grpc.http2.ping_timeout_ms", 7_000),  # what counts in fact, and is a minute by default
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING


def channel_options(*, max_response_bytes: int) -> list[tuple[str, int]]:
    """Of every connection to a worker."""
    return [
        ("grpc.max_send_message_length", -1),  # the edges bound what comes in
        ("grpc.max_receive_message_length", max_response_bytes),
        *_RECONNECTING,
        *_KEEPALIVE,
        ("grpc.use_local_subchannel_pool", 1),  # two routers in one process do not share a connection
    ]


def backoff_s(attempt: int) -> float:
    """Before the attempt of that number to reach a worker again, from 0."""
    return BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]


async def follow_health(
    worker: Worker, options: list[tuple[str, int]], heard: Callable[[bool], None], *, model_id: str
) -> None:
    """Tells `heard` whether the worker serves, at once and whenever it changes, until cancelled."""
    attempt = 0
    async with grpc.aio.insecure_channel(worker.health_address, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            if await _watch(stub, heard, worker, model_id):
                attempt = 0
            heard(False)  # noqa: FBT003 - that is what was heard
            await asyncio.sleep(backoff_s(attempt))
            attempt += 1


async def _watch(
    stub: health_pb2_grpc.HealthStub, heard: Callable[[bool], None], worker: Worker, model_id: str
) -> bool:
    """Until the watch breaks; whether it ever said anything."""
    spoke = False
    try:
        # A call that waits for the channel begins when the channel does, not at our next attempt.
        async for answer in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
            spoke = True
            heard(answer.status == _SERVING)
    except grpc.aio.AioRpcError as error:
        if spoke:
            log.info("health watch broke", model=model_id, worker=worker.worker_id, cause=error.details())
    return spoke
