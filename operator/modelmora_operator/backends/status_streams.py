"""The status streams of workers, one task each: what a worker says of itself while it lives."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import grpc
import structlog

from modelmora.v1 import worker_pb2, worker_pb2_grpc

Name: TypeAlias = tuple[str, str]  # namespace, name
Heard = Callable[[Name], None]

_POD_RECONNECT_S: Final = 1.0  # a pod's readiness tells the same, a little later: there is no hurry
_RECONNECT_S: Final = 0.1
_LONGEST_BACKOFF_MS: Final = 200
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.use_local_subchannel_pool", 1),
)

log = structlog.get_logger(__name__)


async def follow(
    address: str,
    heard: Callable[[worker_pb2.StatusUpdate], None],
    *,
    lost: Callable[[], None] | None = None,
    reconnect_s: float = _RECONNECT_S,
) -> None:
    """Passes on every update until it is cancelled; a broken stream is told to `lost` and opened again."""
    options = (*_CHANNEL, ("grpc.max_reconnect_backoff_ms", round(max(reconnect_s * 1000, _LONGEST_BACKOFF_MS))))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub: worker_pb2_grpc.WorkerServiceAsyncStub = worker_pb2_grpc.WorkerServiceStub(channel)
        while True:
            try:
                async for update in stub.Status(worker_pb2.StatusRequest(), wait_for_ready=True):
                    heard(update)
            except grpc.aio.AioRpcError as error:
                log.debug("status stream ended", address=address, code=error.code().name)
            if lost is not None:
                lost()
            await asyncio.sleep(reconnect_s)


class StatusStreams:
    """The last update of each stream that lives. Used inside `running`."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._updates: dict[Name, worker_pb2.StatusUpdate] = {}
        self._followed: dict[Name, tuple[str, asyncio.Task[None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            yield
            for name in list(self._followed):
                self.follow(name, "")
            self._tasks = None

    def __getitem__(self, name: Name) -> worker_pb2.StatusUpdate | None:
        """None: its stream does not live, or has said nothing yet."""
        return self._updates.get(name)

    def follow(self, name: Name, address: str) -> None:
        """From now on this address is followed; empty: none."""
        before, task = self._followed.get(name, ("", None))
        if before == address:
            return
        if task is not None:
            task.cancel()
            del self._followed[name]
            self._updates.pop(name, None)
        if address and self._tasks is not None:
            task = self._tasks.create_task(self._follow(name, address), name=f"status of {name[1]}")
            self._followed[name] = address, task

    async def _follow(self, name: Name, address: str) -> None:
        """What one worker says, however odd, ends neither the operator nor what is heard of the others."""
        take, lose = functools.partial(self._take, name), functools.partial(self._lose, name)
        try:
            await follow(address, take, lost=lose, reconnect_s=_POD_RECONNECT_S)
        except Exception:
            log.exception("a worker's status is not understood; its pod tells whether it serves", worker=name[1])
            self._updates.pop(name, None)

    def _take(self, name: Name, update: worker_pb2.StatusUpdate) -> None:
        self._updates[name] = update
        self._heard(name)

    def _lose(self, name: Name) -> None:
        # That it failed stays its last word until its container has ended, or speaks again.
        said = self._updates.get(name)
        if said is not None and said.phase != worker_pb2.WORKER_PHASE_FAILED:
            del self._updates[name]
            self._heard(name)
